"""What ``analyze --json`` writes: every field of these classes is a key of the document, with its description.

A report is made from records alone, so one that was kept as JSON can be turned into pages and tables at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from onnxslim1x1.runtime.benchmark import Latency
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.roofline import RoofPlace
from onnxslim1x1.search.analysis import NodeProfile, Proposal
from onnxslim1x1.search.comparison import ComparedTotals, Match
from onnxslim1x1.spec import ConvSpec, Ineligible, Ints


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A model file.

    Attributes:
        path: as it was given, or None for a model in memory.
        sha256: digest of the file, or None if it was not asked for.
        opset: version of the default operator set.
        file_bytes: size of the file and of its external data, or None if it is unknown.
    """

    path: str | None
    sha256: str | None
    opset: int
    file_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRecord:
    """What one run costs; seconds are medians over the runs.

    Attributes:
        end_to_end: latency without the profiler.
        profiled_s: seconds of a run with the profiler.
        kernel_s: seconds of all kernels.
        mapped_s: seconds of the kernels that belong to a node of the model.
        reorder_s: seconds of layout reorders, inserted transposes and copies.
        cast_s: seconds of inserted casts.
        layers_s: seconds of the layers of the table.
        overhead_s: seconds of a run outside of all kernels; negative where the profiler costs more.
        profiling_s: seconds that the profiler adds to a run.
        by_op: seconds of all kernels by operator.
        unmapped: name, operator and seconds of kernels that could not be mapped.
    """

    end_to_end: Latency
    profiled_s: float
    kernel_s: float
    mapped_s: float
    reorder_s: float
    cast_s: float
    layers_s: float | None
    overhead_s: float
    profiling_s: float
    by_op: Mapping[str, float]
    unmapped: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TotalsRecord:
    """Sums over all layers, those included that were not asked for by ``--top``.

    Attributes:
        layers: how many there are.
        params: parameters.
        macs: multiply-accumulates of one run, of the layers whose shape is known.
        macs_after: the same if every proposal were taken.
        saved_s: seconds that all proposals together would save, predicted; None if nothing was measured.
        measured: what one run costs, or None if nothing was measured.
    """

    layers: int
    params: int
    macs: int
    macs_after: int
    saved_s: float | None
    measured: MeasuredRecord | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RooflineRecord:
    """Measured limits of the machine.

    Attributes:
        peak: MACs per second of the fastest of a few well-shaped layers.
        bandwidth: bytes per second that large elementwise operators read and write.
        ridge: intensity in MACs per byte from which on arithmetic is the limit.
        provider: execution provider.
        threads: intra-op threads that were asked for; 0 leaves the choice to onnxruntime.
        cases: name and rate of everything that was timed.
    """

    peak: float
    bandwidth: float
    ridge: float
    provider: str
    threads: int
    cases: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRecord:
    """What the leading directions of a space carry of the response energy.

    Attributes:
        size: how many directions there are.
        directions: how many of them carry the share that is the key.
        ranks: some numbers of directions.
        kept: share of the energy that as many directions carry.
    """

    size: int
    directions: Mapping[str, int]
    ranks: tuple[int, ...]
    kept: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectraRecord:
    """How redundant a layer is; None where there is nothing to divide.

    Attributes:
        inputs: directions of the input channels, which `reduce` divides.
        outputs: directions of the output channels, which `expand` divides.
        positions: patterns over the kernel positions that all pairs of channels share.
        separable: directions between the first kernel axis and the others, which `spatial` divides.
    """

    inputs: CurveRecord | None
    outputs: CurveRecord | None
    positions: CurveRecord | None
    separable: CurveRecord | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpectraRecord:
    """The spectra of a layer by what they were taken from.

    Attributes:
        weights: of the weights alone, or None where they are not known.
        activations: of the response on calibration images, or None without any.
    """

    weights: SpectraRecord | None
    activations: SpectraRecord | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecord:
    """One convolution or dense layer.

    Attributes:
        name: of the node, or of its output where it has none.
        index: of the node in the graph.
        op_type: operator.
        kind: dense, transposed, depthwise, grouped, pointwise or conv.
        output: tensor that it writes.
        in_shape: of its input, or None if unknown.
        out_shape: of its output, or None if unknown.
        spec: geometry.
        params: number of weights and biases.
        macs: multiply-accumulates of one run, or None if a shape is unknown.
        bytes: of its inputs, weights and outputs, each tensor once, or None if unknown.
        intensity: MACs per byte, or None if unknown.
        time_s: measured seconds of one run, what was fused into it included, or None.
        inserted_s: measured seconds of reorders and casts that were put in for it, not part of `time_s`, or None.
        gmacs_per_s: achieved rate in 1e9 MACs per second, or None.
        provider: execution provider that ran it, or None.
        roof: its place under the roofline of the machine, or None if it was not measured.
        spectra: how redundant it is.
        declined: why it is left alone, or None.
        proposal: what could be done, from the weights alone, or None.
    """

    name: str
    index: int
    op_type: str
    kind: str
    output: str
    in_shape: Ints | None
    out_shape: Ints | None
    spec: ConvSpec
    params: int
    macs: int | None
    bytes: int | None
    intensity: float | None
    time_s: float | None
    inserted_s: float | None
    gmacs_per_s: float | None
    provider: str | None
    roof: RoofPlace | None
    spectra: LayerSpectraRecord
    declined: Ineligible | None
    proposal: Proposal | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisRecord:
    """An analysis of one model.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        command: what made it.
        model: what was analysed.
        environment: the machine, or None if nothing was measured.
        totals: sums over all layers.
        roofline: of the machine, or None if nothing was measured.
        layers: in the order and the number that was asked for.
        nodes: every node of the main graph; empty if nothing was measured.
        warnings: one line each.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: Literal[1]
    tool: str
    command: Literal["analyze"]
    model: ModelRecord
    environment: Environment | None
    totals: TotalsRecord
    roofline: RooflineRecord | None
    layers: tuple[LayerRecord, ...]
    nodes: tuple[NodeProfile, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRecord:
    """Two models side by side.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        command: what made it.
        totals: sums over all layers.
        matches: which layers belong together, in the order of the first model.
        before: analysis of the first model.
        after: analysis of the second model.
        warnings: one line each.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: Literal[1]
    tool: str
    command: Literal["compare"]
    totals: ComparedTotals
    matches: tuple[Match, ...]
    before: AnalysisRecord
    after: AnalysisRecord
    warnings: tuple[str, ...]


Record = AnalysisRecord | ComparisonRecord
