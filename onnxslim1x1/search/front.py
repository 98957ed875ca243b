"""What speed costs in accuracy: choices from one that saves little time to one that saves all there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.compare import looks_like_classifier
from onnxslim1x1.runtime.hardware import Environment, environment
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Shelf
from onnxslim1x1.runtime.stored import model_shelf
from onnxslim1x1.runtime.whole_model import WholeModel
from onnxslim1x1.search.allocate import saved_seconds, total_loss, total_saved
from onnxslim1x1.search.candidates import Candidate
from onnxslim1x1.search.pipeline import (
    DROP_WITH_DATA,
    Calibration,
    Groundwork,
    Subject,
    groundwork,
    judged_shelf,
    total_cost,
)
from onnxslim1x1.search.plan import Budget, PlannedData, PlannedLayer, PlannedModel, SkippedLayer, cost_after
from onnxslim1x1.search.planner import Planner, matching
from onnxslim1x1.search.reconstruction import assembled
from onnxslim1x1.search.solve import placeholders
from onnxslim1x1.search.speeds import Clock
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Cost, Factorization

LossKind = Literal["kl_divergence", "output_error", "mixed", "weight_error"]
Progress = Callable[[float], None]
Chosen = Mapping[str, Candidate]

POINTS = 14
MEASURED = 4

_KIND = "front"
_METHOD = 1  # part of the key of kept figures: raise it when they are no longer comparable
_ALL = 1 - 1e-9  # of what can be saved: sums of the same numbers in another order differ in the last digit
_LEAST_LEFT = 0.01  # of the time: layers timed one by one may seem to save more than the whole model takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What a point of the front really is, with factors fitted to the original model's inputs alone.

    Attributes:
        speedup: measured time of the model as it was given, over that of the rewritten one.
        loss: on held-out images, or None without data.
        drop: upper bound of what is lost in top-1 accuracy on held-out images (for other outputs than class scores the
            loss), or None without data.
    """

    speedup: float
    loss: float | None = None
    drop: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontPoint:
    """One choice of layers, families and ranks that no other one beats both in speed and in loss, as predicted.

    Attributes:
        speedup: time of the model as it was given over that of the rewritten one, from layers timed one by one.
        loss: sum of what the layers cost, each rewritten alone.
        macs_kept: MACs of all layers, new over old.
        params_kept: parameters of all layers, new over old.
        layers: what is rewritten, in graph order.
        measured: of the whole model, or None if this point was not measured.
    """

    speedup: float
    loss: float
    macs_kept: float
    params_kept: float
    layers: tuple[PlannedLayer, ...]
    measured: Measurement | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """The Pareto front of speed and loss for a model on this machine.

    Attributes:
        model: what was explored.
        opset: of the model.
        environment: the machine that all times are from.
        data: what the factors are fitted to, or None: to the weights alone.
        held_out: images that drops are measured on, and losses on at most 256 of them; None without data.
        loss_kind: what a loss is: the mean Kullback-Leibler divergence in nats where all outputs are class scores,
            the squared error of the outputs relative to their variance where none is, the mean of both kinds
            otherwise; without data the squared error of the weights relative to their square, summed over the layers.
        before: cost of all layers of the model as it was given.
        whole_s: its seconds per run, undisturbed (10 % quantile).
        points: by rising speed-up and loss.
        never: layers that no point rewrites for want of a faster form, or because the budget says so.
        notes: what was assumed, one line each.
    """

    model: PlannedModel
    opset: int
    environment: Environment
    data: PlannedData | None
    held_out: int | None
    loss_kind: LossKind
    before: Cost
    whole_s: float
    points: tuple[FrontPoint, ...]
    never: tuple[SkippedLayer, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds per run of the model as it was given, and once it is prepared: with frozen weights it may be faster."""

    whole_s: float
    prepared_s: float

    def speedup(self, saved_s: float) -> float:
        """``whole / (prepared - saved)``, at most 100."""
        return self.whole_s / max(self.prepared_s - saved_s, self.whole_s * _LEAST_LEFT)


def explore(subject: Subject, budget: Budget, calibration: DataOptions | None, options: RunOptions) -> Front:
    """Find the front, and measure a few of its points on images that nothing was fitted to.

    Statistics, sensitivities, times and measured points are kept in the store: the next call takes them from there.

    Args:
        subject: the model.
        budget: limits that hold for every point: errors, patterns and explicit ranks.
        calibration: real inputs, unlabelled.
        options: threads, provider, shapes, seed, progress and store.

    Raises:
        OptionError: the budget names a target, or an input cannot be used.
        UnknownLayerError, RankError: the budget does not fit the model.
        ModelError, DataError, RuntimeFailure: an input cannot be used.
    """
    _require_no_target(budget)
    matching(subject.layers, budget)  # a pattern that selects nothing is found before the images are read
    data = None if calibration is None else Calibration.of(calibration, subject)
    # a drop is what sensitivities and times are collected for; no point is held to it
    ground = groundwork(subject, replace(budget, max_drop=DROP_WITH_DATA), data=data, options=options)
    shelf, clock, before = _shelf(subject, data, options), subject.clock(options), total_cost(subject.layers)
    times = _times(clock, subject, shelf)
    chosen = choices(ground.planner)
    points = [predicted(ground.planner, choice, before=before, times=times) for choice in chosen]
    found = measure(ground, [chosen[i] for i in spread(len(chosen))], clock=clock, shelf=shelf,
                    progress=options.stage("measuring"))
    for number, measurement in zip(spread(len(chosen)), found, strict=True):
        points[number] = replace(points[number], measured=measurement)
    return Front(
        model=PlannedModel.of(subject.source), opset=subject.source.opset, points=tuple(points), before=before,
        environment=environment(threads=options.threads, provider=options.provider), whole_s=times.whole_s,
        data=None if data is None else data.record, held_out=None if data is None else len(data.promised),
        loss_kind="weight_error" if data is None else _loss_kind(subject), never=_never(ground.planner, budget),
        notes=subject.notes + _few(data))


def choices(planner: Planner, points: int = POINTS) -> list[Chosen]:
    """Choices of least loss for savings from a part of all that can be saved to all of it, in equal steps of seconds.

    Those that another one equals or beats in both are left out, and those whose loss is not finite.

    Args:
        planner: its candidates are timed.
        points: how many at most.
    """
    most = planner.most(saved_seconds)
    if most <= 0:
        return []
    found = [planner.saving(most * _ALL * step / points, saved_seconds) for step in range(1, points + 1)]
    kept: list[Chosen] = []
    for choice in sorted(found, key=lambda c: (-total_saved(c), total_loss(c))):
        if math.isfinite(total_loss(choice)) and (not kept or total_loss(choice) < total_loss(kept[-1])):
            kept.append(choice)
    return kept[::-1]


def predicted(planner: Planner, choice: Chosen, *, before: Cost, times: Times) -> FrontPoint:
    """A choice as a point that was not measured."""
    layers = planner.selection(choice).layers
    after = cost_after(before, layers)
    return FrontPoint(speedup=times.speedup(total_saved(choice)), loss=total_loss(choice), layers=layers,
                      macs_kept=after.macs / max(before.macs, 1), params_kept=after.params / max(before.params, 1))


def spread(count: int, picks: int = MEASURED) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread, the last one included."""
    return sorted({math.ceil((i + 1) * count / picks) - 1 for i in range(picks)}) if count else []


def measure(ground: Groundwork, chosen: Sequence[Chosen], *, clock: Clock, shelf: Shelf | None = None,
            progress: Progress | None = None) -> list[Measurement]:
    """Build the models of some choices and judge them, unless that is on the shelf.

    Args:
        ground: the layers with their statistics, and what judges; without that only speed is measured.
        chosen: the choices.
        clock: times whole models.
        shelf: where results of earlier runs are taken from, and new ones put.
        progress: is told the fraction that is done.

    Raises:
        RuntimeFailure: onnxruntime cannot run a model.
    """
    place = shelf or NO_STORE.shelf()
    keys = [{name: [c.strategy, list(c.ranks), ground.bench.is_weighted(ground.bench.layers[name])]
             for name, c in choice.items()} for choice in chosen]
    kept = [place.value(_KIND, choice=key) for key in keys]
    missing = [number for number, value in enumerate(kept) if value is None]
    factors = _factors(ground, [chosen[number] for number in missing])
    for done, (number, found) in enumerate(zip(missing, factors, strict=True)):
        kept[number] = asdict(_judged(ground, found, clock))
        place.put_value(_KIND, kept[number], choice=keys[number])
        if progress:
            progress((done + 1) / len(missing))
    return [Measurement(**value) for value in kept]


def _judged(ground: Groundwork, factors: Mapping[str, Factorization], clock: Clock) -> Measurement:
    model, judge = assembled(ground.bench, factors), ground.held_out
    return Measurement(speedup=clock.speedup(model), loss=judge.loss(model) if judge else None,
                       drop=judge.drop(model) if judge else None)


def _factors(ground: Groundwork, chosen: Sequence[Chosen]) -> list[dict[str, Factorization]]:
    """Factors of all choices layer by layer: the bench holds the decompositions of one layer at a time."""
    if ground.held_out is None:
        return [placeholders(ground.bench, choice) for choice in chosen]
    return _real_factors(ground.bench, chosen)


def _real_factors(bench: Workbench, chosen: Sequence[Chosen]) -> list[dict[str, Factorization]]:
    found: list[dict[str, Factorization]] = [{} for _ in chosen]
    for name in bench.layers:
        for factors, choice in zip(found, chosen, strict=True):
            if name in choice:
                factors[name] = bench.factors(name, choice[name].strategy, choice[name].ranks)
    return found


def _times(clock: WholeModel, subject: Subject, shelf: Shelf) -> Times:
    """Times of the whole model, kept with the times of its layers so that both are from the same machine."""
    def taken() -> dict[str, Any]:
        whole = clock.whole_s
        faster = clock.speedup(subject.prepared.model) if subject.prepared.frozen else 1.0  # folding is done anyway
        return {"whole_s": whole, "prepared_s": whole / faster}

    return Times(**shelf.once(_KIND, taken, choice=None))


def _shelf(subject: Subject, data: Calibration | None, options: RunOptions) -> Shelf:
    """Where figures of whole models are kept: all that decides about a loss and about a time is in the key."""
    if options.store.folder is None:
        return NO_STORE.shelf()
    place = model_shelf(subject.source, options) if data is None else judged_shelf(subject, data, options).at(
        promised=data.promised.digest)
    return place.at(method=_METHOD, seed=options.seed, shapes=dict(subject.shapes.inputs),
                    machine=asdict(environment(threads=options.threads, provider=options.provider)))


def _require_no_target(budget: Budget) -> None:
    for option, value in (("--target-macs", budget.target_macs), ("--target-params", budget.target_params),
                          ("--target-speedup", budget.target_speedup), ("--max-drop", budget.max_drop)):
        if value is not None:
            raise OptionError(f"{option} {value:g}: contradicts --explore, which shows what every speed-up costs; drop "
                              "one of the two")


def _loss_kind(subject: Subject) -> LossKind:
    shapes = [subject.shapes.tensors.get(o.name) for o in subject.prepared.model.proto.graph.output]
    scores = {shape is not None and looks_like_classifier(shape) for shape in shapes}
    return "mixed" if len(scores) > 1 else "kl_divergence" if scores == {True} else "output_error"


def _never(planner: Planner, budget: Budget) -> tuple[SkippedLayer, ...]:
    """Layers without a candidate, with reasons."""
    return tuple(s for s in planner.selection({}).skipped
                 if not planner.options.get(s.layer) and s.layer not in budget.ranks)


def _few(data: Calibration | None) -> tuple[str, ...]:
    if data is None or len(data.fitting) + len(data.promised) <= data.record.images:
        return ()
    return (f"{data.record.images} images are too few to hold some out: losses are measured on those that the factors "
            "are fitted to",)
