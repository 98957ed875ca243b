"""From a model and a budget to a plan, and from a plan to a rewritten model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxslim1x1 import __version__
from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.prepare import Prepared, prepare
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import Shapes, infer_shapes
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime.blas import blas_threads
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.hardware import channel_block, environment
from onnxslim1x1.runtime.inputs import layers_with_shapes
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.microbench import compare_chain, time_chain
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.store import NO_STORE, Shelf
from onnxslim1x1.runtime.stored import code_digest, model_shelf, moments_of, weightings_of
from onnxslim1x1.runtime.whole_model import WholeModel
from onnxslim1x1.search.plan import (
    Budget,
    PlannedData,
    PlannedLayer,
    PlannedModel,
    RewritePlan,
    SkippedLayer,
    cost_after,
)
from onnxslim1x1.search.planner import Measure, Planner, matching
from onnxslim1x1.search.reconstruction import FitSettings, carry_out, symmetric
from onnxslim1x1.search.sensitivity import measure_sensitivities
from onnxslim1x1.search.solve import HeldOut, Solver
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvSpec, Cost, Factorization

METADATA_KEY = "onnxslim1x1"
DROP_WITH_DATA = 0.01  # of the accuracy, where no budget is given
ERROR_WITHOUT_DATA = 0.05  # of the weights: conservative, since nothing tells what the inputs look like
FROM_WEIGHTS = "weights"

_SENSITIVITY_CODE = ("linalg", "strategies", "graph", "runtime/calibration.py", "runtime/patches.py",
                     "runtime/gradients.py", "runtime/parts.py", "runtime/loss.py", "runtime/replay.py",
                     "search/sensitivity.py", "search/candidates.py")
_LEAST_TO_DIVIDE = 40  # fewer images serve for fitting and for judging alike
_JUDGED_MACS = 1.2e11  # a measured loss costs about a second of one core, whatever the model
_JUDGING = (64, 256)  # images at least and at most
_WEIGHED_MACS = 2e11
_WEIGHING = (96, 400)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A loaded and prepared model with its layers.

    Attributes:
        source: the model as it was given.
        prepared: with normalizations folded.
        layers: of the prepared model.
        shapes: of the prepared model.
    """

    source: Model
    prepared: Prepared
    layers: tuple[Layer, ...]
    shapes: Shapes

    @classmethod
    def of(cls, source: Model, options: RunOptions) -> Subject:
        """Prepare a model.

        Raises:
            ModelError, RuntimeFailure, OptionError: the model or the shapes cannot be used.
        """
        prepared = prepare(source)
        shapes = options.shapes(prepared.model)
        return cls(source=source, prepared=prepared, shapes=shapes,
                   layers=layers_with_shapes(prepared.model, shapes, run=True))

    def clock(self, options: RunOptions) -> WholeModel:
        """What times whole models next to this one."""
        return WholeModel(self.source, self.prepared.model, self.shapes, options)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed and what was prepared, one line each."""
        return self.shapes.notes + self.prepared.notes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RewriteResult:
    """A rewritten model.

    Attributes:
        model: the model; its weights may still lie in the file that it came from.
        plan: what was carried out.
        notes: what else changed, one line each.
        frozen: weights that became constants.
    """

    model: Model
    plan: RewritePlan
    notes: tuple[str, ...]
    frozen: int = 0

    @property
    def applied(self) -> tuple[PlannedLayer, ...]:
        """Layers that were replaced."""
        return self.plan.layers

    @property
    def skipped(self) -> tuple[SkippedLayer, ...]:
        """Layers that were not, with reasons."""
        return self.plan.skipped

    @property
    def changed(self) -> bool:
        """Whether onnxruntime has anything to gain: folding alone is what it does by itself."""
        return bool(self.applied or self.frozen)

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as one message with all weights in it."""
        return self.model.inlined()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Made:
    """A plan, and the factors that it stands for.

    Attributes:
        plan: the plan.
        factors: by layer name.
        held_out: calibration images that nothing was fitted to, or None without any images.
    """

    plan: RewritePlan
    factors: Mapping[str, Factorization]
    held_out: Dataset | None


def make_plan(subject: Subject, budget: Budget, calibration: DataOptions | None, options: RunOptions) -> Made:
    """Decide what to rewrite, and find the factors.

    Raises:
        UnknownLayerError, RankError, InfeasibleBudget: the request cannot be met.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
    """
    matching(subject.layers, budget)  # a pattern that selects nothing is found before the images are read
    data = None if calibration is None else Calibration.of(calibration, subject)
    budget = _completed(budget, data)
    ground = groundwork(subject, budget, data=data, options=options)
    solver = Solver(ground.bench, ground.planner, budget, clock=subject.clock(options),
                    held_out=ground.held_out, fitting=None if data is None else data.fitting)
    found = solver.solve(FitSettings(seed=options.seed, threads=options.threads), options.stage)
    before = total_cost(subject.layers)
    plan = RewritePlan(
        tool=f"onnxslim1x1 {__version__}", model=PlannedModel.of(subject.source), seed=options.seed,
        environment=environment(threads=options.threads, provider=options.provider), blas_threads=blas_threads(),
        dims=dict(options.dims),
        input_shapes={name: tuple(shape) for name, shape in options.input_shapes.items()},
        budget=budget, data=None if data is None else data.record, before=before, promise=found.promise,
        after=cost_after(before, found.layers), notes=subject.notes, layers=found.layers, skipped=found.skipped)
    return Made(plan=plan, factors=found.factors, held_out=None if data is None else data.promised)


def _completed(budget: Budget, data: Calibration | None) -> Budget:
    """The budget with a limit where it says nothing; a drop in accuracy can only be judged with data."""
    if data is None:
        budget = replace(budget, max_drop=None)
        return replace(budget, max_error=ERROR_WITHOUT_DATA) if budget.is_open else budget
    return replace(budget, max_drop=DROP_WITH_DATA) if budget.is_open else budget


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Groundwork:
    """What decisions rest on.

    Attributes:
        bench: the layers with statistics and sensitivities.
        planner: their candidates, timed if they are chosen by the time that they save.
        held_out: what judges on held-out images, or None without data.
    """

    bench: Workbench
    planner: Planner
    held_out: HeldOut | None


def groundwork(subject: Subject, budget: Budget, *, data: Calibration | None, options: RunOptions) -> Groundwork:
    """Collect statistics, sensitivities and times, as far as the budget needs them.

    Raises:
        As `make_plan`.
    """
    bench, held_out = _measured_bench(subject, budget, data, options)
    planner = Planner(bench, budget, measure=measured(options), progress=options.stage("factorising"))
    if budget.needs_times:
        planner.timed(lambda spec: time_chain((spec,), threads=options.threads, provider=options.provider,
                                              store=options.store), options.stage("timing"))
    return Groundwork(bench=bench, planner=planner, held_out=held_out)


def _measured_bench(subject: Subject, budget: Budget, data: Calibration | None,
                    options: RunOptions) -> tuple[Workbench, HeldOut | None]:
    """The bench with statistics and sensitivities, and what judges on held-out images."""
    model = subject.prepared.model
    fitted = _reachable(subject, budget, channel_block(options.provider))
    if data is None:
        return workbench(subject, fitted, None, options), None
    judge = _judge(model, data.judging, options)  # first: labels may not fit
    drafts = budget.max_error is None  # whose errors are told from 0.003 on
    bench = workbench(subject, fitted, data, options, weighed=fitted, drafts=drafts)
    if budget.max_drop is not None or budget.has_target:
        shelf = judged_shelf(subject, data, options).at(drafts=drafts)
        layers = [x for x in fitted if x.name not in budget.ranks and isinstance(bench.families(x), tuple)]
        with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
            measure_sensitivities(bench, layers, judge.along(model, Path(folder)), shelf=shelf,
                                  progress=options.stage("sensitivity"))
    promised = judge if budget.max_drop is None else _judge(model, data.promised, options)
    return bench, HeldOut(loss=judge, drop=promised.drop)


def _judge(model: Model, data: Dataset, options: RunOptions) -> HeldOutLoss:
    return HeldOutLoss(model, data, labels=data.labels, threads=options.threads)


def judged_shelf(subject: Subject, data: Calibration, options: RunOptions) -> Shelf:
    """Where losses on held-out images are kept: for the model, the images, the seed, the block and the code."""
    if options.store.folder is None:
        return NO_STORE.shelf()
    return model_shelf(subject.source, options).at(
        fitted=data.fitting.digest, weighing=data.weighing.digest, judging=data.judging.digest, seed=options.seed,
        block=channel_block(options.provider), code=code_digest(*_SENSITIVITY_CODE))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Calibration images, divided by what they are for.

    Attributes:
        fitting: for covariances; all but every fifth image.
        weighing: for gradients, a spread subset of `fitting`.
        judging: for the measured loss of swaps, a spread subset of every fifth image.
        promised: every fifth image, for the promise that is kept in the end.
        record: all of it, as a plan describes it.
    """

    fitting: Dataset
    weighing: Dataset
    judging: Dataset
    promised: Dataset
    record: PlannedData

    @classmethod
    def of(cls, options: DataOptions, subject: Subject) -> Calibration:
        """Open the images and divide them; a handful serves every purpose at once.

        Raises:
            DataError: they cannot be used.
        """
        data = options.open(subject.prepared.model, subject.shapes)
        numbers = np.arange(len(data))
        divided = len(data) >= _LEAST_TO_DIVIDE
        held = numbers % 5 == 2 if divided else np.ones(len(data), dtype=bool)
        kept = ~held if divided else held
        promised = replace(data.subset(numbers[held]), name=f"{data.name}, held out" if divided else data.name)
        macs = max(total_cost(subject.layers).macs, 1)
        judging, weighing = (min(max(int(budget / macs), least), most) for budget, (least, most) in (
            (_JUDGED_MACS, _JUDGING), (_WEIGHED_MACS, _WEIGHING)))
        return cls(fitting=data.subset(numbers[kept]), weighing=data.subset(_spread(numbers[kept], weighing)),
                   judging=data.subset(_spread(numbers[held], judging)), promised=promised,
                   record=PlannedData.of(options, data))


def _spread(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the numbers, evenly spread."""
    picks = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(np.int64)
    return numbers[picks]


def _reachable(subject: Subject, budget: Budget, block: int) -> list[Layer]:
    """Layers that the budget may change, so the only ones that need statistics."""
    dry = Workbench(subject.prepared.model, subject.layers, block=block)
    allowed = set() if budget.only_explicit else matching(subject.layers, budget)
    return [layer for layer in subject.layers if layer.name in budget.ranks
            or (layer.name in allowed and isinstance(dry.families(layer), tuple))]


def workbench(subject: Subject, fitted: Sequence[Layer], data: Calibration | None, options: RunOptions, *,
              weighed: Sequence[Layer] = (), drafts: bool = False) -> Workbench:
    """Workbench of all layers, with statistics for those in `fitted` and output weightings for those in `weighed`.

    Raises:
        DataError, RuntimeFailure: the data cannot be used.
    """
    moments: dict[str, Moments] = {}
    weightings: dict[str, OutputWeighting] = {}
    model = subject.prepared.model
    eligible = [layer for layer in fitted if layer.ineligible is None and layer.spec.groups == 1 and layer.spec.kernel]
    if data is not None and eligible:
        shelf = model_shelf(subject.source, options)
        moments = moments_of(model, eligible, data.fitting, shelf=shelf, options=options)
        if weighed:
            weightings = weightings_of(model, weighed, data.weighing, shapes=subject.shapes.tensors, shelf=shelf,
                                       options=options)
    return Workbench(model, subject.layers, block=channel_block(options.provider), moments=moments,
                     weightings=weightings, drafts=drafts)


def factors_of(plan: RewritePlan, bench: Workbench, data: Calibration | None,
               options: RunOptions) -> Mapping[str, Factorization]:
    """Factors of a plan, with the refits that it names.

    Raises:
        RankError: a rank is out of range.
        DataError, RuntimeFailure, OutputError: the data cannot be used, or the disk is full.
    """
    if data is None:
        return symmetric(bench, plan.layers)
    settings = FitSettings(seed=plan.seed, threads=options.threads, progress=options.stage("reconstruction"))
    return carry_out(bench, plan.layers, data.fitting, settings)


def rewrite(subject: Subject, plan: RewritePlan, factors: Mapping[str, Factorization]) -> RewriteResult:
    """Put factors in the place of the planned layers.

    Raises:
        PlanMismatchError: the plan names a layer that the model does not have.
    """
    edit = GraphEdit(subject.prepared.model)
    layers = {layer.name: layer for layer in subject.layers}
    for planned in plan.layers:
        layer = layers.get(planned.layer)
        if layer is None:
            raise PlanMismatchError(f"{subject.source.where}: has no layer {planned.layer}; make a new plan")
        replace_layer(edit, layer, factors[planned.layer].factors)
    return RewriteResult(model=edit.result({METADATA_KEY: provenance(plan)}), plan=plan,
                         notes=subject.prepared.notes, frozen=subject.prepared.frozen)


def provenance(plan: RewritePlan) -> str:
    """What a rewritten model says about its making, as JSON for its metadata."""
    return json.dumps({
        "tool": plan.tool, "source_sha256": plan.model.sha256,
        "data": plan.data.name if plan.data else FROM_WEIGHTS, "seed": plan.seed,
        "layers": {p.layer: {"strategy": p.strategy, "ranks": list(p.ranks)} for p in plan.layers}})


def measured(options: RunOptions) -> Measure:
    """Speed-up of a chain over a layer, measured in onnxruntime."""
    def speedup(original: ConvSpec, chain: tuple[ConvSpec, ...]) -> float:
        return compare_chain(original, chain, threads=options.threads, provider=options.provider, store=options.store)

    return speedup


def model_cost(model: Model, shapes: Shapes) -> Cost:
    """Cost of all layers of a model at the input shapes of `shapes`."""
    return total_cost(layers_with_shapes(model, infer_shapes(model, input_shapes=shapes.inputs), run=True))


def total_cost(layers: Sequence[Layer]) -> Cost:
    """Sum over layers; layers whose shapes are unknown add no MACs."""
    return Cost(params=sum(x.spec.params for x in layers), macs=sum(x.spec.macs or 0 for x in layers))
