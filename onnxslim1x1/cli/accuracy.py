"""Options about accuracy: what `validate` finds out, and the gates of `bisect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.options import GateOption

if TYPE_CHECKING:
    from onnxslim1x1.runtime.validate import ValidationSettings

ConfidenceOption = Annotated[float | None, typer.Option(
    help="Judge accuracy gates by the worse end of this interval, such as 0.95, instead of the figure itself "
         "(intervals are shown at 0.95 without it).")]


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyFlags:
    """What is found out about accuracy."""

    task: Annotated[str, typer.Option(
        help="auto, classification, image, detection, segmentation, regression or audio.")] = "auto"
    metric: Annotated[list[str] | None, typer.Option(
        help="A figure of your own: module:function; repeatable.")] = None
    confidence: ConfidenceOption = None
    per_layer: Annotated[bool, typer.Option(
        "--per-layer", help="Compare every intermediate tensor: where error enters and how it grows.")] = False
    plot: Annotated[Path | None, typer.Option(
        help="With --per-layer: draw the errors into this file, .svg, .png or .pdf.")] = None
    shift: Annotated[bool, typer.Option(
        "--shift", help="Run both models on changed images, too: brightness, noise, blur, crops.")] = False
    worst: Annotated[int, typer.Option(
        help="Images with the largest loss that are named, with pictures in --json.")] = 8

    def settings(self, base: ValidationSettings) -> ValidationSettings:
        """The settings with these options.

        Raises:
            OptionError: an option makes no sense.
        """
        from dataclasses import replace

        from onnxslim1x1.runtime.accuracy import AccuracySettings

        accuracy = AccuracySettings(task=self.task, metrics=tuple(self.metric or ()), worst=self.worst,
                                    per_layer=self.per_layer, shift=self.shift)
        return replace(base, accuracy=accuracy, tolerance=replace(base.tolerance, confidence=self.confidence))


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyGates:
    """Promises about accuracy that layers may break."""

    max_drop: Annotated[float | None, typer.Option(
        help="Gate: top-1 drop at most (0.01 is one point); without labels, the part of images whose class "
             "changes.")] = None
    min_agreement: Annotated[float | None, typer.Option(
        help="Gate: part of images with the same class at least.")] = None
    min_snr: Annotated[float | None, typer.Option(
        help="Gate: signal-to-noise ratio of the worst output at least, in dB.")] = None
    gate: GateOption = None
    confidence: ConfidenceOption = None

    def settings(self) -> ValidationSettings:
        """As a value of the API.

        Raises:
            OptionError: a bound makes no sense.
        """
        from onnxslim1x1.runtime.validate import Tolerance, ValidationSettings
        from onnxslim1x1.runtime.verdict import Bound

        tolerance = Tolerance(max_drop=self.max_drop, min_agreement=self.min_agreement, min_snr_db=self.min_snr,
                              figures=Bound.parsed(self.gate), confidence=self.confidence)
        return ValidationSettings(tolerance=tolerance, measure_latency=False)


