"""`onnxslim1x1.slim` as a whole, and its plan carried out with the steps of the reconstruction added one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxslim1x1
from onnxslim1x1.search.plan import PlannedLayer

from .job import Job

OURS = "ours"

# Label -> what becomes of each planned layer. All rows rewrite the same layers with the same families and ranks, and
# each adds a step to the one before; what `ours` adds to the last one is the correction of what shortcuts bring.
ABLATION: tuple[tuple[str, Callable[[PlannedLayer], PlannedLayer]], ...] = (
    ("symmetric", lambda layer: replace(layer, weighted=False, refit=None)),
    ("+weighting", lambda layer: replace(layer, refit=None)),
    ("+asymmetric", lambda layer: replace(layer, refit=layer.refit and replace(layer.refit, residual=False))),
)


def slim(job: Job) -> str:
    """Write the slimmed model and its plan; it is not checked here, the benchmark measures it."""
    with job.images() as images:
        result = onnxslim1x1.slim(job.model, Path(job.output), budget=onnxslim1x1.Budget(target_macs=job.budget),
                                  calibration=images, run=job.run, check=None)
    plan = result.plan
    if job.plan is not None and plan.data is not None:
        Path(job.plan).parent.mkdir(parents=True, exist_ok=True)
        onnxslim1x1.save_plan(replace(plan, data=replace(plan.data, path=Path(plan.data.path).name)), Path(job.plan))
    families: dict[str, int] = {}
    for layer in plan.layers:
        families[layer.strategy] = families.get(layer.strategy, 0) + 1
    return ", ".join(f"{number} {name}" for name, number in sorted(families.items()))


def carry_out(job: Job, edit: Callable[[PlannedLayer], PlannedLayer]) -> str:
    """Write the model of the plan that `slim` has left, its layers edited."""
    if job.plan is None or not Path(job.plan).exists():
        raise SystemExit(f"no plan is there: let {OURS} run before")
    plan = onnxslim1x1.load_plan(Path(job.plan))
    with job.images() as images:
        onnxslim1x1.apply(job.model, replace(plan, layers=tuple(map(edit, plan.layers))), Path(job.output),
                          calibration=images, run=job.run)
    return "the plan of ours"
