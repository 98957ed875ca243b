"""`onnxslim1x1.slim`, as a whole and with its reconstruction steps added one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxslim1x1

from .job import Job

OURS = "ours"

# label -> keywords of `onnxslim1x1.Steps`; None leaves them at their defaults. Each row adds a step to the one before.
ABLATION: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("symmetric", {"weighting": False, "asymmetric": False, "matched": False}),
    ("+weighting", {"asymmetric": False, "matched": False}),
    ("+asymmetric", {"residual": False, "rectified": False, "matched": False}),
    ("+residual", {"rectified": False, "matched": False}),
    ("+rectified", {"matched": False}),
    (OURS, None),
)


def slim(job: Job, steps: dict[str, Any] | None) -> str:
    """Write the slimmed model; it is not checked here, the benchmark measures it."""
    chosen = {} if steps is None else {"steps": onnxslim1x1.Steps(**steps)}
    with job.images() as images:
        result = onnxslim1x1.slim(
            job.model, Path(job.output), budget=onnxslim1x1.Budget(target_macs=job.budget), calibration=images,
            run=job.run, check=None, **chosen)
    families: dict[str, int] = {}
    for layer in result.plan.layers:
        families[layer.strategy] = families.get(layer.strategy, 0) + 1
    return ", ".join(f"{number} {name}" for name, number in sorted(families.items()))
