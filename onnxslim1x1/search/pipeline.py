"""From a model and a budget to a plan, and from a plan to a rewritten model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from onnxslim1x1.runtime.calibration import collect_moments
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.gradients import output_weightings
from onnxslim1x1.runtime.hardware import channel_block
from onnxslim1x1.runtime.inputs import layers_with_shapes
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.microbench import compare_chain
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.search.plan import Budget, PlannedLayer, RewritePlan, SkippedLayer
from onnxslim1x1.search.planner import Measure, matching, select
from onnxslim1x1.search.sensitivity import measure_sensitivities
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import ConvSpec, Cost

METADATA_KEY = "onnxslim1x1"
ERROR_WITH_DATA = 0.1  # relative output error per layer that is allowed where no budget is given
ERROR_WITHOUT_DATA = 0.05  # of the weights: conservative, since nothing tells what the inputs look like
FROM_WEIGHTS = "weights"

_LEAST_TO_DIVIDE = 40  # fewer images serve for fitting and for judging alike
_MOST_WEIGHING = 96
_MOST_JUDGING = 64


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RewriteResult:
    """A rewritten model.

    Attributes:
        model: the model; its weights may still lie in the file that it came from.
        applied: layers that were replaced.
        skipped: layers that were not, with reasons.
        notes: what else changed, one line each.
        frozen: weights that became constants.
    """

    model: Model
    applied: tuple[PlannedLayer, ...]
    skipped: tuple[SkippedLayer, ...]
    notes: tuple[str, ...]
    frozen: int = 0

    @property
    def changed(self) -> bool:
        """Whether onnxruntime has anything to gain: folding alone is what it does by itself."""
        return bool(self.applied or self.frozen)

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as one message with all weights in it."""
        return self.model.inlined()


def make_plan(subject: Subject, budget: Budget, calibration: DataOptions | None,
              options: RunOptions) -> tuple[RewritePlan, Workbench]:
    """Decide what to rewrite; the workbench holds the factorisations that the decision rests on.

    Raises:
        UnknownLayerError, RankError, InfeasibleBudget: the request cannot be met.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
    """
    if budget.is_open:
        budget = replace(budget, max_error=ERROR_WITHOUT_DATA if calibration is None else ERROR_WITH_DATA)
    block = channel_block(options.provider)
    fitted = _reachable(subject, budget, block)
    data = None if calibration is None else Calibration.of(calibration, subject)
    weighed = fitted if data is not None and budget.target_macs is not None else ()
    bench = workbench(subject, fitted, data, options, weighed=weighed)
    if data is not None and weighed:
        judge = HeldOutLoss(subject.prepared.model, data.judging, threads=options.threads)
        measure_sensitivities(bench, [x for x in weighed if bench.candidates(x)], judge,
                              progress=options.stage("sensitivity"))
    found = select(bench, budget, measure=measured(options), progress=options.stage("factorising"))
    plan = RewritePlan(
        tool=f"onnxslim1x1 {__version__}", model_sha256=subject.source.sha256(), seed=options.seed, block=block,
        data=FROM_WEIGHTS if calibration is None else str(calibration.path),
        layers=found.layers, skipped=found.skipped)
    return plan, bench


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Calibration images, divided by what they are for.

    Attributes:
        fitting: for covariances; all but every fifth image.
        weighing: for gradients, a spread subset of `fitting`.
        judging: for the measured loss of swaps, a spread subset of every fifth image.
    """

    fitting: Dataset
    weighing: Dataset
    judging: Dataset

    @classmethod
    def of(cls, options: DataOptions, subject: Subject) -> Calibration:
        """Open the images and divide them; a handful serves every purpose at once.

        Raises:
            DataError: they cannot be used.
        """
        data = options.open(subject.prepared.model, subject.shapes)
        numbers = np.arange(len(data))
        held = numbers % 5 == 2 if len(data) >= _LEAST_TO_DIVIDE else np.ones(len(data), dtype=bool)
        kept = ~held if len(data) >= _LEAST_TO_DIVIDE else held
        return cls(fitting=data.subset(numbers[kept]), weighing=data.subset(_spread(numbers[kept], _MOST_WEIGHING)),
                   judging=data.subset(_spread(numbers[held], _MOST_JUDGING)))


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
              weighed: Sequence[Layer] = ()) -> Workbench:
    """Workbench of all layers, with statistics for those in `fitted` and output weightings for those in `weighed`.

    Raises:
        DataError, RuntimeFailure: the data cannot be used.
    """
    moments: dict[str, Moments] = {}
    weightings: dict[str, OutputWeighting] = {}
    model = subject.prepared.model
    eligible = [layer for layer in fitted if layer.ineligible is None and layer.spec.groups == 1 and layer.spec.kernel]
    if data is not None and eligible:
        moments = collect_moments(model, eligible, data.fitting, seed=options.seed, threads=options.threads,
                                  progress=options.stage("statistics"))
    if data is not None and weighed:
        weightings = output_weightings(model, weighed, data.weighing, shapes=subject.shapes.tensors,
                                       seed=options.seed, progress=options.stage("gradients"))
    return Workbench(model, subject.layers, block=channel_block(options.provider), moments=moments,
                     weightings=weightings)


def rewrite(subject: Subject, plan: RewritePlan, bench: Workbench) -> RewriteResult:
    """Carry a plan out.

    Raises:
        PlanMismatchError: the plan names a layer that the model does not have.
        RankError: a rank is out of range.
    """
    edit = GraphEdit(subject.prepared.model)
    for planned in plan.layers:
        layer = bench.layers.get(planned.layer)
        if layer is None:
            raise PlanMismatchError(f"{subject.source.where}: has no layer {planned.layer}; make a new plan")
        replace_layer(edit, layer, bench.factors(planned.layer, planned.strategy, planned.ranks).factors)
    return RewriteResult(model=edit.result({METADATA_KEY: provenance(plan)}), applied=plan.layers,
                         skipped=plan.skipped, notes=subject.prepared.notes, frozen=subject.prepared.frozen)


def provenance(plan: RewritePlan) -> str:
    """What a rewritten model says about its making, as JSON for its metadata."""
    return json.dumps({
        "tool": plan.tool, "source_sha256": plan.model_sha256, "data": Path(plan.data).name, "seed": plan.seed,
        "layers": {p.layer: {"strategy": p.strategy, "ranks": list(p.ranks)} for p in plan.layers}})


def measured(options: RunOptions) -> Measure:
    """Speed-up of a chain over a layer, measured in onnxruntime."""
    def speedup(original: ConvSpec, chain: tuple[ConvSpec, ...]) -> float:
        return compare_chain(original, chain, threads=options.threads, provider=options.provider)

    return speedup


def model_cost(model: Model, shapes: Shapes) -> Cost:
    """Cost of all layers of a model at the input shapes of `shapes`."""
    return total_cost(layers_with_shapes(model, infer_shapes(model, input_shapes=shapes.inputs), run=True))


def total_cost(layers: Sequence[Layer]) -> Cost:
    """Sum over layers; layers whose shapes are unknown add no MACs."""
    return Cost(params=sum(x.spec.params for x in layers), macs=sum(x.spec.macs or 0 for x in layers))
