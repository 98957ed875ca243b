"""A run in Markdown, for the summary page of a CI job or a comment."""

from __future__ import annotations

from collections.abc import Iterable

from onnxslim1x1.report.markdown import plain, table
from onnxslim1x1.report.outcome import Outcome, judgement
from onnxslim1x1.report.slimming import layer_table
from onnxslim1x1.report.style import named_table
from onnxslim1x1.report.validation import before_and_after, verdict_lines
from onnxslim1x1.runtime.verdict import Gate

_WIDTH = 400  # pages scroll


def summary_text(outcome: Outcome) -> str:
    """Verdict on top, then before and after, promises, layers and warnings."""
    sign = "✅" if outcome.passed else "❌"
    parts = [f"## {sign} {plain(outcome.title)}", _models(outcome)]
    if outcome.report is not None:
        parts += [*map(plain, verdict_lines(outcome.report)), table(before_and_after(outcome.report)),
                  "\n".join(f"* {plain(m.name)}: {plain(m.reason)} ({m.code})" for m in outcome.report.mismatches)]
    parts += [_gates(outcome.gates), _layers(outcome), _bullets(outcome.warnings)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _models(outcome: Outcome) -> str:
    if outcome.unchanged is not None:
        return f"{plain(outcome.original)} is left as it is: {plain(outcome.unchanged)}"
    return f"{plain(outcome.original)} → {plain(outcome.rewritten or 'no file')}"


def _gates(gates: Iterable[Gate]) -> str:
    rows = [("✅" if g.passed else "❌", g.name, g.kind, judgement(g)) for g in gates]
    return table(named_table(("", "gate", "about", "found"), rows, left=(1, 2, 3), width=_WIDTH)) if rows else ""


def _layers(outcome: Outcome) -> str:
    parts = []
    if outcome.regressed:
        rows = [(x.node or x.tensor, x.op_type, f"{x.rel_error:.3g}", f"{x.snr_db:.1f} dB") for x in outcome.regressed]
        parts.append("Layers that add an error of their own:\n\n" + table(
            named_table(("layer", "operator", "relative error", "SNR"), rows, left=(1,), width=_WIDTH)))
    if outcome.layers:
        parts.append(_folded(f"{len(outcome.layers)} layers were rewritten", table(layer_table(outcome.layers))))
    if outcome.declined:
        shown = [f"* {plain(x.layer)}: {plain(x.reason)} ({x.code})" for x in outcome.declined]
        parts.append(_folded(f"{len(shown)} layers were left alone", "\n".join(shown)))
    return "\n\n".join(parts)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _bullets(warnings: Iterable[str]) -> str:
    return "\n".join(f"* warning: {plain(text)}" for text in warnings)
