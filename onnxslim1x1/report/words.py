"""Findings of a validation as sentences, the same on a terminal, in Markdown and on a page.

All take the value that was measured or the record that was read again: what is infinite in one is None in the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxslim1x1.report.accuracy import FRACTIONS
from onnxslim1x1.report.format import decibel
from onnxslim1x1.report.validation_records import (
    FigureRecord,
    LatencyRecord,
    LayerErrorRecord,
    OutputRecord,
    ShiftedRecord,
    ValidationRecord,
)
from onnxslim1x1.runtime.benchmark import LatencyComparison
from onnxslim1x1.runtime.compare import OutputDiff
from onnxslim1x1.runtime.evidence import Figure, LayerError, Shifted
from onnxslim1x1.runtime.verdict import Gate

AnyFigure = Figure | FigureRecord
AnyLatency = LatencyComparison | LatencyRecord

IDENTICAL, NOT_FINITE = "identical", "not finite"
STANDING = {"checker": "ONNX checker", "interface": "inputs and outputs match", "finite": "no new NaN or infinity"}
_LABELS = {"top1": "top-1", "top5": "top-5", "agreement": "same class", "kl": "KL divergence",
           "ece": "calibration error", "ece_to_original": "calibration to the original", "si_sdr_db": "SI-SDR",
           "pixel_agreement": "same class of pixels", "topk_box_agreement": "same boxes", "box_iou": "box IoU",
           "psnr_db": "PSNR", "snr_db": "SNR", "ssim": "SSIM", "mask_iou": "mask IoU",
           "cosine": "cosine", "rel_error": "relative error"}
_IN_PER_CENT = FRACTIONS | {"ece", "ece_to_original"}
# in the direction of worse and of better, for figures that should be high and for those that should be low
_MOVES = {"higher": ("drop", "gain"), "lower": ("rise", "fall")}


def known(value: float | None) -> float | None:
    """A number, or None for what is unknown, infinite or undefined."""
    return value if value is not None and math.isfinite(value) else None


def label(name: str) -> str:
    """What a figure is called."""
    return _LABELS.get(name, name.removesuffix("_db").replace("_", " "))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How values of a figure are written: times `factor`, with a format and a unit, which differences may have too."""

    factor: float
    form: str
    unit: str
    unit_of_change: str

    def number(self, value: float) -> str:
        """Without the unit, and without a minus that is none: ``-0.00``."""
        text = format(self.factor * value, self.form)
        return text.removeprefix("-") if float(text) == 0 else text

    def value(self, value: float | None) -> str:
        """With the unit."""
        number = known(value)
        return NOT_FINITE if number is None else f"{self.number(number)}{self.unit}"

    def change(self, value: float) -> str:
        """A difference of two values with its unit."""
        return f"{self.number(value)}{self.unit_of_change}"


def scale(figure: AnyFigure) -> Scale:
    """How a figure is written."""
    if not figure.unit and figure.name in _IN_PER_CENT:
        return Scale(factor=100.0, form=".2f", unit="%", unit_of_change=" points")
    unit = f" {figure.unit}" if figure.unit else ""
    return Scale(factor=1.0, form=".2f" if figure.unit == "dB" else ".4g", unit=unit, unit_of_change=unit)


def is_change(figure: AnyFigure) -> bool:
    """Whether its value is a difference of two, rather than a comparison of its own."""
    return figure.original is not None and figure.rewritten is not None


def figure_words(figure: AnyFigure, *, exact: bool = False) -> str:
    """``drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images``.

    Args:
        figure: with its interval.
        exact: whether the output that it judges is identical in both models, so that what is no number is infinite.
    """
    value, written = known(figure.value), scale(figure)
    if value is None:
        return f"{IDENTICAL if exact else NOT_FINITE}, {_images(figure.images)}"
    if not is_change(figure):
        return ", ".join(filter(None, (written.value(value), _interval(figure, 1.0), _images(figure.images),
                                       _p_value(figure))))
    worse, better = _MOVES[figure.better]
    is_worse = (value < 0) == (figure.better == "higher")
    sign = math.copysign(1.0, value) if value else -1.0 if figure.better == "higher" else 1.0
    move = f"{worse if is_worse or not value else better} {written.change(sign * value)}"
    return ", ".join(filter(None, (move, _interval(figure, sign), _images(figure.images), _p_value(figure))))


def _interval(figure: AnyFigure, sign: float) -> str:
    low, high = known(figure.low), known(figure.high)
    if low is None or high is None:
        return ""
    first, last = sorted((sign * low, sign * high))
    written = scale(figure)
    return f"{100 * figure.confidence:g} % interval {written.number(first)} to {written.number(last)}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _p_value(figure: AnyFigure) -> str:
    return "" if figure.p_value is None else f"p = {figure.p_value:.2g}"


def interval_text(figure: AnyFigure) -> str:
    """``-0.70 to -0.10``, as its value is; empty where there is none."""
    return _interval(figure, 1.0).partition("interval ")[2]


def excess_words(shifted: Shifted | ShiftedRecord) -> str:
    """How much more the rewritten model lost: ``0.31 points more, -0.10 to 0.72``."""
    excess, low, high = known(shifted.excess), known(shifted.low), known(shifted.high)
    if excess is None:
        return NOT_FINITE
    written = scale(shifted.figure)
    more = f"{written.change(abs(excess))} {'less' if excess < 0 else 'more'}"
    if low is None or high is None:
        return more
    sign = -1.0 if excess < 0 else 1.0
    first, last = sorted((sign * low, sign * high))
    return f"{more}, {written.number(first)} to {written.number(last)}"


def exact_outputs(found: ValidationRecord) -> set[str]:
    """Names of the outputs that are identical in both models."""
    return {output.name for output in found.outputs if output.max_abs == 0}


def growth_words(layer: LayerError | LayerErrorRecord) -> str:
    """How many times as large as what it reads the error of a tensor is."""
    growth = known(layer.growth)
    if growth is not None:
        return f"{growth:.2f}x"
    return "-" if layer.rel_error == 0 else "enters here"


def snr(output: OutputDiff | OutputRecord) -> str:
    """Signal-to-noise ratio of an output in words."""
    found = known(output.snr_db)
    if found is not None:
        return decibel(found)
    return IDENTICAL if output.max_abs == 0 else NOT_FINITE


def setting(latency: AnyLatency) -> str:
    """What a latency was measured with: ``2 threads, batch 8``; a batch of one goes without saying."""
    threads = latency.original.threads
    text = f"{threads} thread{'' if threads == 1 else 's'}" if threads else "automatic threads"
    return text if latency.batch == 1 else f"{text}, batch {latency.batch}"


def latency_words(latency: AnyLatency, where: str = "") -> str:
    """The measured ratio with its interval and the noise floor; `where` tells it apart from others."""
    return (f"{latency.verdict}{where}: {latency.speedup:.2f}x, 95 % interval {latency.speedup_low:.2f} to "
            f"{latency.speedup_high:.2f}; noise floor (the original against itself) {latency.noise_low:.2f} to "
            f"{latency.noise_high:.2f}; {latency.original.runs} runs each")


def gate_name(gate: Gate) -> str:
    """What a gate is called."""
    return STANDING.get(gate.name, gate.name)


def gate_value(gate: Gate) -> str:
    """What was found: ``-`` if it could not be measured; one that passed without a number was infinite."""
    value = ("inf" if gate.passed else "-") if gate.value is None else format(gate.value, ".4g")
    return value if gate.confidence is None else f"{value} at {100 * gate.confidence:g} % confidence"


def gate_words(gate: Gate) -> str:
    """``min_snr_db: FAILED (29.96, bound 30)``."""
    return f"{gate_name(gate)}: {'passed' if gate.passed else 'FAILED'} ({gate_value(gate)}, bound {gate.bound:g})"
