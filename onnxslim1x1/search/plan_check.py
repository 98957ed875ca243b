"""Whether a plan fits the model and the data in front of it, and what it means for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from onnxslim1x1 import __version__
from onnxslim1x1.errors import DataError, OptionError, PlanMismatchError, RankError, RuntimeFailure
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.options import DataOptions
from onnxslim1x1.search.hints import did_you_mean
from onnxslim1x1.search.pipeline import Subject, total_cost
from onnxslim1x1.search.plan import (
    PlannedData,
    PlannedLayer,
    Promise,
    RewritePlan,
    SkippedLayer,
    cost_after,
)
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies import STRATEGIES, by_name
from onnxslim1x1.strategies.base import require_ranks

_MOST_THREADS = 1024
_DECISIVE = ("cpu", "onnxruntime")  # what the last digits, and the best ranks, depend on


def require_model(plan: RewritePlan, model: Model) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        PlanMismatchError: the digests differ.
    """
    digest = model.sha256()
    if digest != plan.model.sha256:
        name = f" ({plan.model.path})" if plan.model.path else ""
        raise PlanMismatchError(f"{model.where}: its SHA-256 {digest[:12]}... is not that of the plan, "
                                f"{plan.model.sha256[:12]}...{name}; make a plan for this model")


def require_fit(plan: RewritePlan, layers: Sequence[Layer], where: str) -> None:
    """Refuse what an edit may have broken: names, families, ranks, refits, seed and threads.

    Raises:
        PlanMismatchError: with the place in the plan; `where` names the plan.
    """
    known = {layer.name: layer for layer in layers}
    places = {f"layers[{i}]": p.layer for i, p in enumerate(plan.layers)}
    places |= {f"skipped[{i}]": s.layer for i, s in enumerate(plan.skipped)}
    named: dict[str, str] = {}
    for place, name in places.items():
        if name not in known:
            raise PlanMismatchError(f"{where}: {place}.layer: the model has no layer {name}{did_you_mean(name, known)}")
        if name in named:
            raise PlanMismatchError(f"{where}: {place}.layer: {name} stands in {named[name]}, too; remove one of the "
                                    "two")
        named[name] = place
    for number, planned in enumerate(plan.layers):
        place = f"{where}: layers[{number}]"
        _require_rewritable(planned, known[planned.layer], place)
        _require_refit(planned, f"{place}.refit", has_data=plan.data is not None)
    if plan.seed < 0:
        raise PlanMismatchError(f"{where}: seed: {plan.seed} is negative; 0 is the least")
    for place, threads in (("environment.threads", plan.environment.threads), ("blas_threads", plan.blas_threads)):
        if not 0 <= threads <= _MOST_THREADS:
            raise PlanMismatchError(f"{where}: {place}: {threads} lies outside of 0 to {_MOST_THREADS}")


def _require_rewritable(planned: PlannedLayer, layer: Layer, where: str) -> None:
    families = [strategy.name for strategy in STRATEGIES]
    if planned.strategy not in families:
        raise PlanMismatchError(f"{where}.strategy: unknown family {planned.strategy}"
                                f"{did_you_mean(planned.strategy, families)}")
    strategy = by_name(planned.strategy)
    refusal = layer.ineligible or strategy.check(layer.spec)
    if refusal is not None:
        raise PlanMismatchError(f"{where}: {planned.strategy} cannot serve {layer.name} ({refusal.reason}); choose "
                                "another family, or move the layer to skipped")
    try:
        require_ranks(strategy, layer.spec, planned.ranks)
    except RankError as error:
        raise PlanMismatchError(f"{where}.ranks: {error}") from error


def _require_refit(planned: PlannedLayer, where: str, *, has_data: bool) -> None:
    if planned.refit is None:
        return
    if planned.refit.ridge <= 0:
        raise PlanMismatchError(f"{where}.ridge: {planned.refit.ridge:g} is not positive; the larger "
                                "it is, the nearer the weights stay to the original ones")
    if not has_data:
        raise PlanMismatchError(f"{where}: needs calibration data, but the plan names none; set it to null, or make a "
                                "new plan with data")


def planned_data(plan: RewritePlan, given: DataOptions | str | Path | None, where: str) -> DataOptions | None:
    """The calibration data to open for a plan: what is given, else what the plan names; None if it needs none.

    A path is read as the plan says.

    Raises:
        PlanMismatchError: the plan was made without data and some is given, or its data is not there any more.
    """
    if plan.data is None:
        if given is not None:
            path = given.path if isinstance(given, DataOptions) else given
            raise PlanMismatchError(f"{where}: the plan was made from the weights alone, without {path}; leave the "
                                    "calibration data out, or make a new plan with it")
        return None
    if isinstance(given, DataOptions):
        return given
    if given is None and not Path(plan.data.path).exists():
        raise PlanMismatchError(f"{where}: data.path: {plan.data.path} is not there; say with --calibration where "
                                f"these {plan.data.images} images are now")
    return plan.data.options(None if given is None else Path(given))


def require_data(plan: RewritePlan, found: PlannedData, where: str) -> None:
    """Refuse other data than that which the plan was made with, or the same read in another way.

    Raises:
        PlanMismatchError: the digests differ; the message says in what else they do.
    """
    if plan.data is not None and found.sha256 != plan.data.sha256:
        raise PlanMismatchError(f"{found.path}: {_difference(plan.data, found, where)}; give the same images, or make "
                                "a new plan with these")


def _difference(planned: PlannedData, found: PlannedData, where: str) -> str:
    if found.images != planned.images:
        return f"holds {found.images} images, but {where} was made with {planned.images}"
    for item in fields(found.preprocess):
        new, old = getattr(found.preprocess, item.name), getattr(planned.preprocess, item.name)
        if new != old and item.name not in ("name", "expects"):  # these two change nothing in what a model is fed
            return f"is read with {item.name} {new}, but {where} was made with {old}"
    return f"holds other images than {where} was made with, or they are read in another order or way"


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """What an option of the plan is wrong about is the plan's fault, not that of the user's options."""
    try:
        yield
    except OptionError as error:
        raise PlanMismatchError(f"{where}: {error}") from error


@contextmanager
def comparing(*, random: bool, advice: str = "") -> Iterator[None]:
    """Where a model cannot be run, or fed random inputs, say how to do without the comparison that needs it.

    Args:
        random: whether the inputs are random.
        advice: what else to do then, behind the message.
    """
    try:
        yield
    except (RuntimeFailure, DataError) as error:
        if isinstance(error, DataError) and not random:
            raise
        raise type(error)(f"{error}{advice if random else ''}; what cannot be run cannot be compared (--no-validate "
                          "skips that)") from error


def refreshed(plan: RewritePlan, subject: Subject, bench: Workbench) -> RewritePlan:
    """The plan in graph order with everything that follows from layers, families and ranks computed anew.

    Layers that it does not name are left alone.
    """
    planned = {p.layer: _predicted(p, bench) for p in plan.layers}
    skipped = {s.layer: s for s in plan.skipped}
    layers = tuple(planned[name] for name in bench.layers if name in planned)
    before = total_cost(subject.layers)
    return replace(
        plan, before=before, after=cost_after(before, layers), layers=layers, promise=Promise(),
        notes=subject.notes, skipped=tuple(
            skipped.get(name) or SkippedLayer(layer=name, code="not_planned", reason="the plan does not name it")
            for name in bench.layers if name not in planned))


def _predicted(planned: PlannedLayer, bench: Workbench) -> PlannedLayer:
    layer = bench.layers[planned.layer]
    found = bench.candidate(layer, by_name(planned.strategy), planned.ranks)
    return replace(planned, error=found.error, before=layer.spec.cost, after=found.cost, speedup=None)


def differences(plan: RewritePlan, here: Environment) -> tuple[str, ...]:
    """One line if the plan comes from elsewhere: the result may differ from the one it would give there."""
    pairs = [(name, getattr(plan.environment, name), getattr(here, name)) for name in _DECISIVE]
    pairs.append(("tool", plan.tool, f"onnxslim1x1 {__version__}"))
    found = [f"{name} {old}, here {new}" for name, old, new in pairs if old != new]
    if not found:
        return ()
    return (f"the plan was made elsewhere ({'; '.join(found)}): the result may differ in its last digits, and other "
            "ranks may be faster here",)
