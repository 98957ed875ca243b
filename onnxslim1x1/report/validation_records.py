"""What ``validate --json`` and ``slim --json`` write: every field of these classes is a key of the document.

They mirror the values that a validation ends in, but for numbers that are infinite or undefined: JSON has none of
these, so they are None here, and the descriptions say what that means. Values that are always finite are taken as they
are. A test fails if one of the values has a field that its mirror lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from onnxslim1x1.runtime.benchmark import Latency, Samples, Verdict
from onnxslim1x1.runtime.compare import Classification, Mismatch
from onnxslim1x1.runtime.evidence import Better, Footprint
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.verdict import CheckResult, Gate
from onnxslim1x1.search.plan import RewritePlan
from onnxslim1x1.spec import Cost, Ints


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputRecord:
    """How far one output of the rewritten model is from that of the original, over all runs.

    Attributes:
        name: of the output.
        shape: of the first run.
        dtype: numpy name.
        max_abs: largest absolute difference; None if it is infinite, as all differences are where only the rewritten
            model gives NaN or infinite values.
        mean_abs: mean absolute difference; None if it is infinite.
        max_rel: max_abs / mean absolute value of the original; None if it is infinite.
        mean_rel: mean_abs / mean absolute value of the original; None if it is infinite.
        cosine: of the angle between both, in [-1, 1].
        snr_db: signal-to-noise ratio; None if it is infinite: of identical outputs (max_abs is 0), else minus infinity.
        nan_count_original: values of the original that are NaN or infinite; they are left out.
        nan_count_rewritten: values of the rewritten model that are NaN or infinite.
        nan_count_new: values that only the rewritten model makes NaN or infinite.
    """

    name: str
    shape: Ints
    dtype: str
    max_abs: float | None
    mean_abs: float | None
    max_rel: float | None
    mean_rel: float | None
    cosine: float
    snr_db: float | None
    nan_count_original: int
    nan_count_rewritten: int
    nan_count_new: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRecord:
    """What rewriting did to the latency, measured by turns.

    Attributes:
        original: latency of A.
        rewritten: latency of B.
        speedup: median over the rounds of A / B; above 1 the rewritten model is faster.
        speedup_low: lower end of the 95 % bootstrap interval of `speedup`.
        speedup_high: its upper end.
        noise_low: lower end of the same interval for A / A', two sessions of the original.
        noise_high: its upper end.
        samples: times of single runs, or None where they were not kept.
        batch: images in one run.
        sittings: how often all three sessions were made anew.
        cpus: logical processors that the process might use.
        verdict: faster or slower only if the whole interval lies beyond 1 and beyond the noise.
    """

    original: Latency
    rewritten: Latency
    speedup: float
    speedup_low: float
    speedup_high: float
    noise_low: float
    noise_high: float
    samples: Samples | None
    batch: int
    sittings: int
    cpus: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureRecord:
    """One figure of accuracy with its interval.

    Attributes:
        name: top1, agreement, kl, psnr_db, ..., or that of a custom metric.
        output: name of the output that it judges.
        unit: empty for fractions and ratios, else dB, nats, ...
        better: whether a higher or a lower value is better.
        original: of the original alone; None for a figure that compares both models, or if it is infinite.
        rewritten: of the rewritten model alone, likewise.
        value: rewritten - original where both have one of their own, else the comparison of the two; None if it is
            infinite or undefined, as the ratio of a signal to no noise is.
        low: lower end of the interval of `value`, or None where none can be given.
        high: its upper end.
        confidence: of the interval, such as 0.95.
        p_value: of the hypothesis that both models are equally good, or None.
        images: how many it rests on.
    """

    name: str
    output: str
    unit: str
    better: Better
    original: float | None
    rewritten: float | None
    value: float | None
    low: float | None
    high: float | None
    confidence: float
    p_value: float | None
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerErrorRecord:
    """Error of one intermediate tensor, against the tensor of the original that it stands for.

    Attributes:
        tensor: name in the original.
        counterpart: name in the rewritten model.
        node: node of the original that computes it.
        op_type: of that node.
        snr_db: signal-to-noise ratio over all images; None if it is infinite: without any error, or with an infinite
            one.
        rel_error: norm of the difference / norm of the original; None if it is infinite.
        growth: rel_error / largest rel_error of the tensors that the node reads; None if error enters here (rel_error
            is not 0) or if there is none.
        rewritten: whether a layer that was rewritten computes it.
    """

    tensor: str
    counterpart: str
    node: str
    op_type: str
    snr_db: float | None
    rel_error: float | None
    growth: float | None
    rewritten: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftedRecord:
    """Both models on inputs that were changed on purpose.

    Attributes:
        shift: brightness, noise, blur, crop, ...
        strength: what was done, as text with its unit.
        figure: on the changed inputs.
        clean: the same figure on the inputs as they are.
        excess: how much more the rewritten model lost than the original, in the unit of the figure; positive is worse;
            None if it is infinite or undefined.
        low: lower end of its interval at the confidence of the figure, or None.
        high: its upper end.
    """

    shift: str
    strength: str
    figure: FigureRecord
    clean: FigureRecord
    excess: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstRecord:
    """An image on which the rewritten model is furthest from the original.

    Attributes:
        index: place in the data set.
        name: of the file, or of the place.
        loss: how far, by `measure`; larger is worse; None if it is infinite.
        measure: what `loss` is.
        note: what both models say, in words.
        picture: small PNG as a data URI, or None where the input is no image.
    """

    index: int
    name: str
    loss: float | None
    measure: str
    note: str
    picture: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationRecord:
    """The original and the rewritten model, side by side.

    Attributes:
        checker: verdicts of the ONNX checker.
        mismatches: inputs and outputs that do not match.
        outputs: differences of the outputs that do.
        classification: agreement of the first output with scores of classes, or None without one.
        latencies: comparisons, the one that gates judge first; empty if none was measured.
        size_original_bytes: size of the file with its external data.
        size_rewritten_bytes: the same of the rewritten model.
        images: how many were run.
        data: name of the data set, or how the inputs were drawn.
        gates: the promises and whether they hold.
        cost_original: parameters and MACs, or None if they are unknown.
        cost_rewritten: the same of the rewritten model.
        random_inputs: whether there was no data set.
        figures: accuracy by task, with intervals.
        footprints: memory, loading time and size of the original and the rewritten model, or None if they were not
            measured.
        layers: error of every intermediate tensor, in the order of computation; empty if it was not asked for.
        shifts: both models on inputs that were changed on purpose; empty if it was not asked for.
        worst: images on which the two are furthest apart, the worst first.
        task: what the model is judged as.
        task_reason: why.
        notes: what was left out or assumed, one line each.
        passed: whether every promise holds.
        warnings: why the figures may mean little, one line each.
    """

    checker: CheckResult
    mismatches: tuple[Mismatch, ...]
    outputs: tuple[OutputRecord, ...]
    classification: Classification | None
    latencies: tuple[LatencyRecord, ...]
    size_original_bytes: int
    size_rewritten_bytes: int
    images: int
    data: str
    gates: tuple[Gate, ...]
    cost_original: Cost | None
    cost_rewritten: Cost | None
    random_inputs: bool
    figures: tuple[FigureRecord, ...]
    footprints: tuple[Footprint, Footprint] | None
    layers: tuple[LayerErrorRecord, ...]
    shifts: tuple[ShiftedRecord, ...]
    worst: tuple[WorstRecord, ...]
    task: str
    task_reason: str
    notes: tuple[str, ...]
    passed: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidateRecord:
    """A validation of two models.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        command: what made it.
        environment: the machine.
        original: path of the original model.
        rewritten: path of the rewritten model.
        validation: what was found.
        warnings: one line each.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: Literal[1]
    tool: str
    command: Literal["validate"]
    environment: Environment
    original: str
    rewritten: str
    validation: ValidationRecord
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """The model that was made faster.

    Attributes:
        path: as it was given, or None for a model in memory.
        sha256: digest of the file.
        opset: version of the default operator set, or None if it is unknown.
    """

    path: str | None
    sha256: str
    opset: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeRecord:
    """Cost of all layers.

    Attributes:
        before: of the original.
        after: of the result.
    """

    before: Cost
    after: Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class SlimRecord:
    """A model that was made faster, or why it was not.

    Attributes:
        schema_version: version of this structure.
        tool: name and version of the maker.
        command: what made it.
        environment: the machine, or None if it is unknown.
        model: the original.
        output: file that was written, or None.
        unchanged: why the result is the original, or None if it is not.
        totals: cost of all layers.
        plan: what was decided, as in a plan file.
        validation: comparison of the original and the rewritten model, or None if it was not wanted; if the rewrite
            was taken back, of what was tried.
        warnings: one line each.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: Literal[1]
    tool: str
    command: Literal["slim"]
    environment: Environment | None
    model: SourceRecord
    output: str | None
    unchanged: str | None
    totals: ChangeRecord
    plan: RewritePlan
    validation: ValidationRecord | None
    warnings: tuple[str, ...]


Validated = ValidateRecord | SlimRecord
