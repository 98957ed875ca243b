"""What a validation can find out beyond differences of outputs: values only, which verdicts and reports are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]

_SLOWED_DOWN = 1.5  # by denormal numbers; without any, two quickest runs differ by less even on a busy machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure of accuracy with its interval.

    Attributes:
        name: ``top1``, ``agreement``, ``kl``, ``psnr_db``, ``ssim``, ``mask_iou``, ... or that of a custom metric.
        output: name of the output that it judges.
        unit: ``""`` for fractions and ratios, else ``dB``, ``nats``, ...
        better: whether a higher or a lower value is better.
        original: of the original alone, against labels or references; None for a figure that compares both models.
        rewritten: of the rewritten model alone, likewise.
        value: rewritten - original where both have one of their own, else the comparison of the two.
        low: lower end of the interval of `value` at `confidence`; None where none can be given, as is `high`.
        high: its upper end.
        confidence: of the interval, such as 0.95.
        p_value: of the hypothesis that both models are equally good (McNemar for top-1), or None.
        images: how many it rests on.
    """

    name: str
    output: str
    unit: str
    better: Better
    original: float | None
    rewritten: float | None
    value: float
    low: float | None
    high: float | None
    confidence: float
    p_value: float | None
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What one model takes up besides time.

    Attributes:
        load_s: median seconds to create a session.
        arena_bytes: what onnxruntime's arena held at most while it ran; None where it does not say.
        resident_bytes: growth of the resident memory of a process of its own that loads and runs the model; None where
            it cannot be measured.
        file_bytes: size of the file with its external data.
        denormal_slowdown: time of a run over that of one with denormal numbers (below 1.2e-38) as zero; 1 where there
            are none, or where the processor does not mind them. None if it was not measured.
    """

    load_s: float
    arena_bytes: int | None
    resident_bytes: int | None
    file_bytes: int
    denormal_slowdown: float | None = None


def denormal_warnings(footprints: tuple[Footprint, Footprint] | None) -> list[str]:
    """Which model denormal numbers slow down so much that they, and not the rewrite, may decide about the speed-up."""
    return [f"denormal numbers make the {name} model {one.denormal_slowdown:.1f} times slower on these inputs, which "
            f"says nothing about the rewrite: compare on real inputs (--data), with weights below 1.2e-38 set to zero"
            for name, one in zip(("original", "rewritten"), footprints or (), strict=False)
            if one.denormal_slowdown is not None and one.denormal_slowdown > _SLOWED_DOWN]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """Error of one intermediate tensor, against the tensor of the original that it stands for.

    Attributes:
        tensor: name in the original.
        counterpart: name in the rewritten model.
        node: node of the original that computes it.
        op_type: of that node.
        snr_db: signal-to-noise ratio over all images.
        rel_error: ||y - y'|| / ||y||.
        growth: rel_error / largest rel_error of the tensors that the node reads; inf where error enters here, None if
            there is none.
        rewritten: whether a layer that was rewritten computes it.
    """

    tensor: str
    counterpart: str
    node: str
    op_type: str
    snr_db: float
    rel_error: float
    growth: float | None
    rewritten: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Shifted:
    """Both models on inputs that were changed on purpose.

    Attributes:
        shift: ``brightness``, ``noise``, ``blur``, ``crop``, ...
        strength: what was done, as text with its unit, such as ``+20 %``.
        figure: the figure on the changed inputs.
        clean: the same figure on the inputs as they are.
        excess: how much more the rewritten model lost than the original, in the unit of the figure; positive is worse.
        low: lower end of the interval of `excess` at the confidence of the figure.
        high: its upper end.
    """

    shift: str
    strength: str
    figure: Figure
    clean: Figure
    excess: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorstSample:
    """An image on which the rewritten model is furthest from the original.

    Attributes:
        index: place in the data set.
        name: of the file, or of the place.
        loss: how far, by the measure `measure`; larger is worse.
        measure: ``kl`` or ``rel_error``.
        note: what both say, in words (class 3 became 5).
        picture: small PNG as a data URI, or None where the input is no image.
    """

    index: int
    name: str
    loss: float
    measure: str
    note: str
    picture: str | None
