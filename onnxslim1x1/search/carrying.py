"""A plan with the factors that it stands for, for a model and data that it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.blas import limited_blas
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.search.pipeline import Calibration, Subject, factors_of, workbench
from onnxslim1x1.search.plan import RewritePlan
from onnxslim1x1.search.plan_check import blaming, refreshed, require_data, require_fit, require_model
from onnxslim1x1.spec import Factorization


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Carried:
    """What a plan means.

    Attributes:
        subject: the prepared model.
        plan: in graph order, everything predicted anew.
        factors: by layer.
    """

    subject: Subject
    plan: RewritePlan
    factors: Mapping[str, Factorization]


def carried(asked: RewritePlan, model: Model, chosen: DataOptions | None, options: RunOptions, where: str) -> Carried:
    """Find the factors of a plan.

    Args:
        asked: the plan.
        model: the model that it was made for.
        chosen: the images that it was made with (see `planned_data`), or None.
        options: threads and progress; everything else is that of the plan.
        where: how messages call the plan.

    Raises:
        PlanMismatchError: the plan does not fit the model, or was made for another model or other data.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
    """
    require_model(asked, model)
    with blaming(where):
        subject = Subject.of(model, options)
        require_fit(asked, subject.layers, where)
        data = None if chosen is None else Calibration.of(chosen, subject)
    if data is not None:
        require_data(asked, data.record, where)
    wanted = {layer.layer: layer.weighted for layer in asked.layers}
    with limited_blas(asked.blas_threads):
        bench = workbench(subject, [x for x in subject.layers if x.name in wanted], data, options,
                          weighed=[x for x in subject.layers if wanted.get(x.name)])
        fresh = refreshed(asked, subject, bench)
        return Carried(subject=subject, plan=fresh, factors=factors_of(fresh, bench, data, options))


def where_of(plan: RewritePlan | str | Path) -> str:
    """How messages call a plan."""
    return "plan" if isinstance(plan, RewritePlan) else str(plan)

