"""The outcome of `slim` as tables and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxslim1x1.report.analysis import reasons
from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, shape
from onnxslim1x1.report.outcome import Outcome
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.report.validation import validation_json, validation_report
from onnxslim1x1.search.plan import PlannedLayer, Promise, RewritePlan
from onnxslim1x1.spec import Cost, Ineligible

if TYPE_CHECKING:
    from onnxslim1x1.api import SlimResult


def slim_report(result: SlimResult) -> list[str | Table]:
    """What was rewritten, what was not and why, and the validation."""
    parts = decision_parts(result.plan)
    if result.validation:
        parts += [*validation_report(result.validation)]
    else:
        parts.append(f"{cost_change(result.before, result.after)}; not validated")
    return [*parts, outcome_line(result)]


def decision_parts(plan: RewritePlan) -> list[str | Table]:
    """What a plan rewrites, and what it leaves alone and why."""
    parts: list[str | Table] = [layer_table(plan.layers), ""] if plan.layers else []
    parts += [f"left alone: {len(plan.skipped)} layers"] if plan.skipped else []
    return [*parts, *reasons(Ineligible(code=s.code, reason=s.reason) for s in plan.skipped), "",
            *promise_lines(plan.promise)]


def promise_lines(promise: Promise) -> list[str | Table]:
    """What was asked for, predicted and measured before the final comparison, one line each."""
    lines: list[str | Table] = []
    if promise.target_speedup is not None and promise.measured_speedup is not None:
        lines.append(f"speed-up: {promise.measured_speedup:.2f}x of these layers' shapes, measured; "
                     f"{promise.target_speedup:g}x was asked for")
    if promise.held_out_drop is not None:
        limit = "" if promise.max_drop is None else f"; {promise.max_drop:g} was allowed"
        lines.append(f"drop: at most {promise.held_out_drop:.4f}, estimated on held-out calibration images{limit}")
    if promise.held_out_loss is not None:
        expected = "" if promise.predicted_loss is None else f"; {promise.predicted_loss:.4f} was predicted"
        lines.append(f"loss: {promise.held_out_loss:.4f} on held-out calibration images{expected}")
    return [*lines, ""] if lines else []


def layer_table(layers: tuple[PlannedLayer, ...]) -> Table:
    """Rewritten layers with predicted error and, where it was measured, the gain of each."""
    headers = ("layer", "family", "rank", "error", "MACs", "after", "alone")
    rows = [(p.layer, p.strategy, shape(p.ranks), f"{p.error:.3f}", count(p.before.macs), count(p.after.macs),
             "-" if p.speedup is None else f"{p.speedup:.2f}x") for p in layers]
    shown = len(headers) if any(p.speedup is not None for p in layers) else len(headers) - 1
    return named_table(headers[:shown], [row[:shown] for row in rows], left=(1,))


def cost_change(before: Cost, after: Cost) -> str:
    """Cost of all layers before and after."""
    return (f"MACs {count(before.macs)} -> {count(after.macs)}, parameters {count(before.params)} -> "
            f"{count(after.params)}")


def outcome_line(result: SlimResult) -> str:
    """One line: what was written."""
    if result.unchanged:
        copied = f"; {result.output} is a copy of the input" if result.output else ""
        return f"unchanged: {result.unchanged}{copied}"
    if result.output is None:
        return "no file was written"
    return f"wrote {result.output}"


def slim_json(result: SlimResult) -> dict[str, Any]:
    """The same as data."""
    return document("slim", {
        "environment": result.environment, "model": {
            "path": result.source.path if result.source else None, "sha256": result.plan.model.sha256,
            "opset": result.source.opset if result.source else None}, "output": result.output,
        "unchanged": result.unchanged,
        "totals": {"before": result.before, "after": result.after}, "plan": jsonable(result.plan),
        "validation": validation_json(result.validation) if result.validation else None,
        "warnings": result.notes,
    })


def slim_outcome(result: SlimResult) -> Outcome:
    """What a pipeline wants to know of it."""
    original = result.source.where if result.source else "model"
    return Outcome(command="slim", original=original, rewritten=None if result.output is None else f"{result.output}",
                   report=result.validation, layers=result.plan.layers, declined=result.plan.skipped,
                   unchanged=result.unchanged, warnings=result.notes)
