"""Which layers break a gate, as a table, lines and JSON."""

from __future__ import annotations

from typing import Any

from onnxslim1x1.report.document import document
from onnxslim1x1.report.format import shape
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.report.validation import gate_lines
from onnxslim1x1.search.bisect import Attempt, Bisection


def bisection_report(found: Bisection) -> list[str | Table]:
    """The layers, and what the gates say with them and without them."""
    tried = f"{len(found.trials)} subsets were tried"
    total = len(found.planned)
    if not found.whole.broken:
        return [f"nothing breaks: all {total} layers of the plan together keep every gate ({tried})",
                *_gates(found.whole)]
    if found.unchanged is not None and found.unchanged.broken:
        return ["a gate fails without any rewritten layer, so no layer is to blame; choose other gates",
                *_gates(found.unchanged)]
    rows = [(p.layer, p.strategy, shape(p.ranks), f"{p.error:.3g}") for p in found.breaking]
    breaks = "breaks a gate" if len(rows) == 1 else "break a gate, and not without each other"
    parts: list[str | Table] = [
        f"{len(rows)} of {total} layers {breaks} ({tried}):",
        named_table(("layer", "family", "ranks", "error"), rows, left=(1,)), ""]
    if found.smallest is not None:
        parts += ["alone:", *_gates(found.smallest)]
    if found.rest is not None:
        parts += [f"the other {total - len(rows)}:", *_gates(found.rest)]
        parts.append("there are further layers to blame: leave these out of the plan and bisect again"
                     if found.rest.broken else "leave these out of the plan, or give them higher ranks")
    return parts


def _gates(attempt: Attempt) -> list[str]:
    return gate_lines(attempt.gates)


def bisection_json(found: Bisection, *, model: object, plan: object) -> dict[str, Any]:
    """The same as data, with every subset that was tried."""
    return document("bisect", {
        "model": model, "plan": plan, "breaks": found.whole.broken,
        "breaking": [p.layer for p in found.breaking], "layers": found.planned, "whole": found.whole,
        "smallest": found.smallest, "rest": found.rest, "unchanged": found.unchanged, "trials": found.trials})
