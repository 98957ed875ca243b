"""A plan, and what became of it, as tables and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.slimming import cost_change, decision_parts
from onnxslim1x1.report.style import Table
from onnxslim1x1.search.pipeline import RewriteResult
from onnxslim1x1.search.plan import PlannedData, RewritePlan

NOTHING = "the plan rewrites no layer"


def plan_report(plan: RewritePlan, output: Path) -> list[str | Table]:
    """What is to be rewritten, what is not and why, and what that would save."""
    what = cost_change(plan.before, plan.after) if plan.layers else "no layer is worth rewriting"
    return [*decision_parts(plan), what, basis_line(plan.data),
            f"wrote {output}; onnxslim1x1 apply MODEL {output} -o OUT carries it out"]


def apply_report(result: RewriteResult, output: Path) -> list[str | Table]:
    """What was rewritten, what was not and why, and what that saves."""
    plan = result.plan
    if not result.changed:
        return [*decision_parts(plan), f"unchanged: {NOTHING}; {output} is a copy of the input"]
    return [*decision_parts(plan), cost_change(plan.before, plan.after), basis_line(plan.data),
            f"wrote {output}; onnxslim1x1 validate compares it with the original"]


def basis_line(data: PlannedData | None) -> str:
    """What the factors are fitted to."""
    if data is None:
        return "from the weights alone; a plan with --calibration IMAGES finds better factors"
    return f"fitted to {data.images} images of {data.name}"


def plan_json(plan: RewritePlan, output: Path) -> dict[str, Any]:
    """The same as data; `plan` is the content of the file."""
    return document("plan", {
        "environment": plan.environment, "model": plan.model, "output": output,
        "totals": {"before": plan.before, "after": plan.after}, "plan": jsonable(plan), "warnings": plan.notes})


def apply_json(result: RewriteResult, output: Path) -> dict[str, Any]:
    """The same as data; what `plan` predicts is computed anew."""
    plan = result.plan
    return document("apply", {
        "model": plan.model, "output": output, "unchanged": None if result.changed else NOTHING,
        "totals": {"before": plan.before, "after": plan.after}, "plan": jsonable(plan), "warnings": result.notes})
