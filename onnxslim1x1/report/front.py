"""What speed costs, as a table and as JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from onnxslim1x1.report.analysis import reasons
from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, ms, percent
from onnxslim1x1.report.style import NARROW, WIDE, Table, named_table
from onnxslim1x1.search.front import Front, FrontPoint, LossKind
from onnxslim1x1.spec import Ineligible

LOSS_LABELS: dict[LossKind, str] = {
    "kl_divergence": "loss: Kullback-Leibler divergence in nats",
    "output_error": "loss: relative squared error of the outputs",
    "mixed": "loss: divergences in nats and relative squared errors",
    "weight_error": "loss: sum of relative squared errors of the weights",
}
_NARROW_HEADERS = ("predicted", "loss", "MACs", "params", "layers", "measured", "loss", "drop")
_WIDE_HEADERS = ("predicted speed-up", "predicted loss", "MACs kept", "parameters kept", "layers rewritten",
                 "measured speed-up", "measured loss", "accuracy drop, at most")


def front_report(front: Front, plot: Path | None = None, *, wide: bool = False) -> list[str | Table]:
    """Table of the points, what its figures mean, and whether the predictions came true."""
    if not front.points:
        return ["nothing to trade: no layer that may change has a faster form", *_reasons(front)]
    return [_table(front, wide=wide), "", *_captions(front), *_trust(front),
            "slim MODEL -o OUT --target-speedup X makes a model that is X times as fast",
            *([f"wrote {plot}"] if plot else [])]


def _table(front: Front, *, wide: bool) -> Table:
    headers = _WIDE_HEADERS if wide else _NARROW_HEADERS
    shown = 6 if front.data is None else 8 if front.loss_kind == "kl_divergence" else 7
    return named_table(headers[:shown], [_row(p)[:shown] for p in front.points], width=WIDE if wide else NARROW)


def _row(point: FrontPoint) -> tuple[str, ...]:
    found = point.measured
    return (f"{point.speedup:.2f}x", small(point.loss), percent(point.macs_kept), percent(point.params_kept),
            str(len(point.layers)), f"{found.speedup:.2f}x" if found else "", small(found.loss) if found else "",
            small(found.drop) if found else "")


def small(value: float | None) -> str:
    """A positive number with two digits, 0.00042 as ``4.2e-04``; nothing for None."""
    if value is None:
        return ""
    return f"{value:.1e}" if abs(value) < 0.001 and value else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _captions(front: Front) -> list[str]:
    before = front.before
    lines = [f"the original takes {ms(front.whole_s)} ms per run, {count(before.macs)} MACs, "
             f"{count(before.params)} parameters", LOSS_LABELS[front.loss_kind]]
    if front.data is None:
        return [*lines, "what that does to the results is unknown: give --calibration IMAGES"]
    lines.append(f"measured on {front.held_out} of the {front.data.images} images of {front.data.name}")
    if front.loss_kind == "kl_divergence":
        lines.append("drop: upper bound of what top-1 accuracy loses there (0.01 is one point)")
    return lines


def _trust(front: Front) -> list[str]:
    """How far predictions are from what was measured, at worst."""
    pairs = [(p, p.measured) for p in front.points if p.measured]
    if not pairs:
        return []
    speed = max(abs(m.speedup / p.speedup - 1) for p, m in pairs)
    losses = [abs(math.log(m.loss / p.loss)) for p, m in pairs if m.loss and p.loss > 0 and 0 < m.loss < math.inf]
    loss = f" and a factor of {math.exp(max(losses)):.1f} in loss" if losses else ""
    return [f"predictions miss by up to {percent(speed, digits=0)} in speed-up{loss}"]


def _reasons(front: Front) -> list[str]:
    return reasons(Ineligible(code=s.code, reason=s.reason) for s in front.never)


def front_json(front: Front, plot: Path | None = None) -> dict[str, Any]:
    """The same as data; of each point also what it does to which layer."""
    return document("explore", {
        "environment": front.environment,
        "model": {"path": front.model.path, "sha256": front.model.sha256, "opset": front.opset},
        "data": front.data, "held_out_images": front.held_out, "loss": front.loss_kind, "plot": plot,
        "totals": {"before": front.before, "whole_s": front.whole_s},
        "points": [_point_json(p) for p in front.points], "never": front.never, "warnings": front.notes})


def _point_json(point: FrontPoint) -> dict[str, Any]:
    found: dict[str, Any] = jsonable(point)
    rewrites = {p.layer: {"strategy": p.strategy, "ranks": list(p.ranks)} for p in point.layers}
    return found | {"layers": len(rewrites), "rewrites": rewrites}
