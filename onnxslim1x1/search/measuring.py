"""The measured part of an analysis: where the time goes, how near that is to the limits, how redundant layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.operators import QUANTIZED
from onnxslim1x1.graph.shapes import Shapes
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.hardware import channel_block, environment
from onnxslim1x1.runtime.inputs import model_inputs
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.profile import PROFILE_SETTINGS, ModelProfile, profile_model
from onnxslim1x1.runtime.roofline import measured_roofline
from onnxslim1x1.runtime.session import CPU, random_feeds
from onnxslim1x1.runtime.store import NO_STORE, Shelf
from onnxslim1x1.runtime.stored import MOMENTS_CODE, code_digest, model_shelf, moments_of
from onnxslim1x1.search import curves
from onnxslim1x1.search.analysis import Analysis, LayerProfile, layer_profiles, node_profiles, placed
from onnxslim1x1.search.pipeline import measured
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies.base import channel_refusal

ERROR_FROM_WEIGHTS = 0.3  # largest relative weight error of a proposal: data finds much better factors
ERROR_FROM_DATA = 0.1  # of the outputs

_LONGEST_PATCH = 6144  # columns of a covariance, whose square is held several times
_TOO_FAST = 1.1  # of the roof: a layer that is bound by arithmetic shows then that the roof is too low
_TOO_LITTLE = 0.5  # of a run, for all kernels of a provider that waits for each


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """A model with its layers, the shapes of its tensors, and the bytes that each layer must move, by its name."""

    model: Model
    layers: tuple[Layer, ...]
    shapes: Shapes
    moved: Mapping[str, int]


def profiled(subject: Subject, options: RunOptions) -> ModelProfile:
    """Where the time of a model goes, on seeded random inputs.

    Raises:
        DataError: an input cannot be fed.
        RuntimeFailure: onnxruntime cannot run the model.
        OptionError: the provider is not offered.
    """
    settings = replace(PROFILE_SETTINGS, threads=options.threads, provider=options.provider)
    feeds = random_feeds(model_inputs(subject.model, subject.shapes), seed=options.seed)
    return profile_model(subject.model.inlined(), feeds, settings=settings, where=subject.model.where,
                         progress=options.stage("profiling"))


def measured_analysis(costs: Analysis, subject: Subject, profile: ModelProfile, options: RunOptions, *,
                      calibration: DataOptions | None = None, max_error: float | None = None) -> Analysis:
    """An analysis with times, roofline, curves and proposals.

    Args:
        costs: what is known without measuring.
        subject: the model.
        profile: of it.
        options: threads, provider, seed, progress and store.
        calibration: real inputs, unlabelled, that curves and proposals rest on, too.
        max_error: largest relative error of a proposal, of the outputs with calibration, else of the weights; None for
            `ERROR_FROM_DATA` or `ERROR_FROM_WEIGHTS`.

    Raises:
        RuntimeFailure: onnxruntime cannot run the model on the images, or a layer alone.
        OptionError: the images do not fit.
        ModelError, DataError: weights or images cannot be used.
    """
    layers = subject.layers
    roofline = measured_roofline(threads=options.threads, provider=options.provider, store=options.store)
    bench, place, notes = _bench(subject, calibration, options)
    redundancy = curves.study(bench, layers, place, progress=options.stage("spectra"))
    limit = max_error
    if limit is None:
        limit = ERROR_FROM_WEIGHTS if calibration is None else ERROR_FROM_DATA
    profiles = layer_profiles(layers, times=_times(profile), bench=bench, max_error=limit, measure=measured(options),
                              progress=options.stage("rewrites"))
    nodes = node_profiles(subject.model.proto.graph.node, profile.nodes)
    found = tuple(placed(replace(p, bytes=subject.moved.get(p.layer.name)), nodes[p.layer.index],
                         roofline=roofline, redundancy=redundancy[p.layer.name]) for p in profiles)
    return replace(costs, environment=environment(threads=options.threads, provider=options.provider), layers=found,
                   profile=profile, roofline=roofline, nodes=nodes,
                   warnings=costs.warnings + notes + _doubts(found, profile))


def _times(profile: ModelProfile) -> dict[int, float]:
    """Seconds by node; where kernels could not be mapped, a node without any may have run in one of them."""
    return {n.index: n.seconds for n in profile.nodes
            if n.kernels or n.absorbed_into is not None or not profile.unmapped}


def _bench(subject: Subject, calibration: DataOptions | None,
           options: RunOptions) -> tuple[Workbench, Shelf, tuple[str, ...]]:
    """The layers with the moments of their patches, where results about them are kept, and notes."""
    model, block = subject.model, channel_block(options.provider)
    shelf = model_shelf(model, options)
    data = None if calibration is None else calibration.open(model, subject.shapes)
    place = _place(shelf, data, block, options)
    if data is None:
        return Workbench(model, subject.layers, block=block), place, ()
    able = [x for x in subject.layers if x.ineligible is None and channel_refusal(x.spec) is None]
    fitting = [x for x in able if x.spec.patch <= _LONGEST_PATCH]
    notes = () if len(fitting) == len(able) else (
        f"{len(able) - len(fitting)} layers have patches of more than {_LONGEST_PATCH} values and are judged by their "
        "weights alone",)
    moments = moments_of(model, fitting, data, shelf=shelf, options=options)
    return Workbench(model, subject.layers, block=block, moments=moments), place, notes


def _place(shelf: Shelf, data: Dataset | None, block: int, options: RunOptions) -> Shelf:
    if shelf.store.folder is None:
        return NO_STORE.shelf()
    images = {} if data is None else {"data": data.digest, "seed": options.seed}
    return shelf.at(block=block, code=code_digest(*curves.CODE, *MOMENTS_CODE), **images)


def _doubts(layers: Sequence[LayerProfile], profile: ModelProfile) -> tuple[str, ...]:
    """What speaks against the figures: layers above the roof, and kernels that take far less time than a run."""
    doubts: tuple[str, ...] = ()
    fast = [(p.layer.name, p.roof.fraction) for p in layers
            if p.roof and p.roof.bound == "compute" and p.roof.fraction > _TOO_FAST
            and p.layer.ineligible != QUANTIZED]  # the peak is that of floats
    if fast:
        doubts += (
            f"{len(fast)} layers run at more than the measured peak of the machine, {fast[0][0]} at {fast[0][1]:.2f} "
            "of it: it was busy when the peak was measured; run onnxslim1x1 cache --clear, and measure again when it "
            "is not",)
    whole = profile.end_to_end
    if whole.provider != CPU and profile.total_kernel_s < _TOO_LITTLE * whole.p10_s:
        doubts += (
            f"the kernels take only {100 * profile.total_kernel_s / whole.p10_s:.0f}% of a run: {whole.provider} seems "
            "to run them in the background, and what was recorded is how long it takes to start them",)
    return doubts
