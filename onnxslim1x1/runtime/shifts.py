"""Both models on inputs that are changed on purpose, to see whether the rewritten one degrades faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.accuracy import AccuracyCollector, AccuracySettings
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.evidence import Shifted
from onnxslim1x1.runtime.images import Change, Pixels
from onnxslim1x1.runtime.metrics import Batch
from onnxslim1x1.runtime.series import Series, excess, figure
from onnxslim1x1.runtime.session import create_session, input_specs, patient_options
from onnxslim1x1.runtime.validate import (
    USUAL_CONFIDENCE,
    StageProgress,
    ValidationSettings,
    feed_batches,
    run_outputs,
)

# the figure that tells most, by task; the first that is there
_TELLING = ("top1", "agreement", "psnr_db", "mask_iou", "topk_box_agreement", "snr_db")
_PIXELS = 255.0
_NOISE = 8.0  # of 255
_BLUR = 0.005  # of the short side
_LEAST_BLUR = 0.5  # pixels
_KEPT = 7 / 8  # of each side by a crop


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """A change of images.

    Attributes:
        name: kind of change.
        strength: how much, for people.
        apply: takes an image (H, W, C) of floats in 0..1 and a source of randomness, and returns one of the same size.
    """

    name: str
    strength: str
    apply: Callable[[NDArray[np.float64], np.random.Generator], NDArray[Any]]

    def change(self, seed: int) -> Change:
        """The change for a data set: the same for the same place, whatever the batches are."""
        def changed(pixels: Pixels, row: int) -> Pixels:
            top = _PIXELS if pixels.dtype == np.uint8 or pixels.max(initial=0) > 1.5 else 1.0
            shifted = self.apply(pixels / top, np.random.default_rng([seed, row])) * top
            if pixels.dtype.kind in "ui":
                return np.clip(np.rint(shifted), 0, top).astype(pixels.dtype)
            return shifted.astype(pixels.dtype)

        return changed


def _blurred(image: NDArray[np.float64], _: np.random.Generator) -> NDArray[Any]:
    from scipy.ndimage import gaussian_filter

    sigma = max(_BLUR * min(image.shape[:2]), _LEAST_BLUR)
    return np.asarray(gaussian_filter(image, (sigma, sigma, 0), mode="nearest"))


def _cropped(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
    """A part of the image, at a random place, brought back to its size."""
    from PIL import Image

    height, width = image.shape[:2]
    h, w = max(1, round(_KEPT * height)), max(1, round(_KEPT * width))
    top, left = (int(rng.integers(0, n + 1)) for n in (height - h, width - w))
    part = image[top:top + h, left:left + w].astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(part[..., c])).resize((width, height), Image.Resampling.BILINEAR)
              for c in range(part.shape[2])]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


SHIFTS = (
    Shift(name="brightness", strength="+20 %", apply=lambda image, _: np.minimum(1.2 * image, 1.0)),
    Shift(name="brightness", strength="-20 %", apply=lambda image, _: 0.8 * image),
    Shift(name="noise", strength="sigma 8/255",
          apply=lambda image, rng: np.clip(image + rng.normal(0.0, _NOISE / _PIXELS, image.shape), 0.0, 1.0)),
    Shift(name="blur", strength="sigma 0.5 %", apply=_blurred),
    Shift(name="crop", strength="7/8 of sides", apply=_cropped),
)


def compare_shifted(paths: tuple[Path, Path], *, dataset: Dataset | None, settings: ValidationSettings,
                    progress: StageProgress | None = None) -> tuple[Shifted, ...]:
    """Run both models on the images as they are, then on every shift of them.

    The figure is the most telling one of the task: top-1 with labels, else how far both models agree. Its excess is
    tested image by image, so a figure that falls for both models alike has none.

    Args:
        paths: of the original and the rewritten model.
        dataset: of images.
        settings: as in `validate_models`.
        progress: is told the stage ``shifts`` and the fraction that is done.

    Raises:
        OptionError: there are no data.
        DataError: they are no images.
        RuntimeFailure: onnxruntime cannot run a model.
    """
    if dataset is None:
        raise OptionError("--shift: needs images that can be changed; give --data")
    options = patient_options(threads=settings.benchmark.threads)
    sessions = [create_session(p, options=options, provider=settings.benchmark.provider) for p in paths]
    changed = [dataset, *(dataset.changed(shift.change(settings.seed)) for shift in SHIFTS)]
    found: list[Series] = []
    for number, data in enumerate(changed):
        def told(done: float, before: int = number) -> None:
            if progress is not None:
                progress("shifts", (before + done) / len(changed))

        found.append(_telling(_gathered(sessions, paths, data, settings, told)))
    confidence = settings.tolerance.confidence or USUAL_CONFIDENCE
    clean = figure(found[0], confidence=confidence, seed=settings.seed)
    result = []
    for shift, series in zip(SHIFTS, found[1:], strict=True):
        more, low, high = excess(found[0], series, confidence=confidence, seed=settings.seed)
        result.append(Shifted(shift=shift.name, strength=shift.strength, clean=clean, excess=more, low=low, high=high,
                              figure=figure(series, confidence=confidence, seed=settings.seed)))
    return tuple(result)


def _gathered(sessions: Sequence[Any], paths: Sequence[Path], dataset: Dataset, settings: ValidationSettings,
              told: Callable[[float], None]) -> tuple[Series, ...]:
    """Series of one pass over the data."""
    collector = AccuracyCollector(AccuracySettings(task=settings.accuracy.task))
    for done, feeds, rows in feed_batches(input_specs(sessions[0], settings.shapes), dataset, settings):
        labels = None if dataset.labels is None else dataset.labels[done - rows:done]
        old, new = (run_outputs(s, feeds, rows, p, limited=False) for s, p in zip(sessions, paths, strict=True))
        if collector.chosen is None:
            collector.start(feeds, old, rows)
        same = [name for name, value in old.items() if name in new and new[name].shape == value.shape]
        collector.add(Batch(original={n: old[n] for n in same}, rewritten={n: new[n] for n in same}, rows=rows,
                            labels=labels))
        told(done / len(dataset))
    return collector.series()


def _telling(found: Sequence[Series]) -> Series:
    return min(found, key=lambda s: _TELLING.index(s.name) if s.name in _TELLING else len(_TELLING))
