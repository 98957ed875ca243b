"""Per-image values of a figure of accuracy, and the figure with its interval that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.runtime.evidence import Better, Figure
from onnxslim1x1.runtime.intervals import Float64, Statistic, bootstrap, mcnemar, paired_difference, wilson

Columns = tuple[Float64, ...]

ECE_BINS = 15  # as Guo et al. 2017


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Series:
    """What one figure is made of: a few numbers for each image.

    Attributes:
        name: of the figure.
        output: of the model, or empty for all of them.
        unit: of the figure.
        better: whether higher or lower is better.
        statistic: makes the figure of columns.
        columns: of the comparison of both models, or of the rewritten model where both have a figure of their own.
        original: the same of the original, or None where there is only the comparison.
        hits: whether the one column holds hits and misses, 1 and 0.
    """

    name: str
    output: str = ""
    unit: str = ""
    better: Better = "higher"
    statistic: Statistic
    columns: Columns
    original: Columns | None = None
    hits: bool = False

    def __len__(self) -> int:
        known = ~np.isnan(self.columns[0])
        return int(known.sum())

    @property
    def all_columns(self) -> Columns:
        """Of the rewritten model (or the comparison), then of the original."""
        return self.columns + (self.original or ())

    def difference(self, *columns: Float64, axis: int = -1) -> Float64:
        """The value of the figure from `all_columns`, which may be resampled."""
        if self.original is None:
            return self.statistic(*columns, axis=axis)
        half = len(columns) // 2
        return self.statistic(*columns[:half], axis=axis) - self.statistic(*columns[half:], axis=axis)


def figure(series: Series, *, confidence: float, seed: int = 0) -> Figure:
    """The figure with its interval: closed formulas for hits, else resampled over the images.

    Raises:
        ValueError: there are no images.
    """
    if not len(series):
        raise ValueError(f"{series.name}: no images")
    own = None if series.original is None else float(series.statistic(*series.original, axis=-1))
    rewritten = float(series.statistic(*series.columns, axis=-1))
    p_value, bounds = None, None
    if series.hits:
        second = series.columns[0] > 0.5
        if series.original is None:
            bounds = wilson(int(second.sum()), len(second), confidence)
        else:
            first = series.original[0] > 0.5
            bounds = paired_difference(first, second, confidence)
            p_value = mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))
    else:
        bounds = bootstrap(series.all_columns, series.difference, confidence=confidence, seed=seed)
    low, high = bounds or (None, None)
    return Figure(name=series.name, output=series.output, unit=series.unit, better=series.better, original=own,
                  rewritten=None if own is None else rewritten, value=rewritten if own is None else rewritten - own,
                  low=low, high=high, confidence=confidence, p_value=p_value, images=len(series))


def excess(clean: Series, shifted: Series, *, confidence: float,
           seed: int = 0) -> tuple[float, float | None, float | None]:
    """How much more the rewritten model loses than the original from one set of inputs to another, with its interval.

    Args:
        clean: the figure on the inputs as they are.
        shifted: the same figure on changed inputs, image by image.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        The excess in the unit of the figure, positive where the rewritten model loses more, and the ends of its
        interval.
    """
    sign = 1.0 if clean.better == "higher" else -1.0
    many = len(clean.all_columns)

    def lost(*columns: Float64, axis: int = -1) -> Float64:
        before = clean.difference(*columns[:many], axis=axis)
        after = shifted.difference(*columns[many:], axis=axis)
        with np.errstate(invalid="ignore"):  # identical on both: infinity - infinity
            return np.where(before == after, 0.0, sign * (before - after))

    columns = clean.all_columns + shifted.all_columns
    low, high = bootstrap(columns, lost, confidence=confidence, seed=seed) or (None, None)
    return float(lost(*columns)), low, high


# statistics: all take columns and reduce one axis


def mean(values: Float64, *, axis: int = -1) -> Float64:
    """Mean over the images."""
    return np.asarray(values.mean(axis=axis))


def known_mean(values: Float64, *, axis: int = -1) -> Float64:
    """Mean over the images that have a value; NaN stands for none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / known.sum(axis=axis))


def ratio_db(signal: Float64, noise: Float64, *, axis: int = -1) -> Float64:
    """Signal-to-noise ratio 10 log10(sum signal / sum noise), signal and noise being energies; inf without noise."""
    return _decibel(signal.sum(axis=axis), noise.sum(axis=axis))


def mean_db(noise: Float64, *, axis: int = -1) -> Float64:
    """10 log10(1 / mean noise) dB: the peak signal-to-noise ratio of squared errors relative to the squared peak."""
    mean_noise = np.asarray(noise.mean(axis=axis))
    return _decibel(np.ones_like(mean_noise), mean_noise)


def root_ratio(signal: Float64, noise: Float64, *, axis: int = -1) -> Float64:
    """Relative error sqrt(sum noise / sum signal); 0 without noise, inf if there is only noise."""
    above, below = np.asarray(noise.sum(axis=axis)), np.asarray(signal.sum(axis=axis))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0.0, 0.0, np.sqrt(above / below))


def cosine(signal: Float64, other: Float64, product: Float64, *, axis: int = -1) -> Float64:
    """Sum product / sqrt(sum signal * sum other), in [-1, 1]; 0 if one of them is 0 everywhere, 1 if both are."""
    first, second = np.asarray(signal.sum(axis=axis)), np.asarray(other.sum(axis=axis))
    norm = np.sqrt(first) * np.sqrt(second)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.clip(product.sum(axis=axis) / norm, -1.0, 1.0)
    return np.where(norm > 0.0, value, np.where(first == second, 1.0, 0.0))


def calibration_error(confidence: Float64, correct: Float64, *, axis: int = -1) -> Float64:
    """Expected calibration error: sum over 15 bins of confidence of |hits - summed confidence| / images.

    Guo et al. 2017 (On Calibration of Modern Neural Networks), with bins of equal width. Images without a confidence
    (NaN) count as none.

    Args:
        confidence: probability of the class that the model gives, in [0, 1].
        correct: 1 where that class is right, else 0.
        axis: that counts images; only the last one.
    """
    if axis not in (-1, confidence.ndim - 1):
        raise ValueError(f"axis {axis} is not the last one")
    rows = confidence.reshape(-1, confidence.shape[-1])
    known = ~np.isnan(rows)
    bins = np.where(known, np.minimum(np.nan_to_num(rows) * ECE_BINS, ECE_BINS - 1), 0).astype(np.int64)
    gaps = np.where(known, correct.reshape(rows.shape) - rows, 0.0)
    places = (bins + ECE_BINS * np.arange(len(rows))[:, None]).ravel()
    sums = np.bincount(places, weights=gaps.ravel(), minlength=ECE_BINS * len(rows)).reshape(len(rows), ECE_BINS)
    return np.asarray(np.abs(sums).sum(axis=1) / np.maximum(known.sum(axis=1), 1)).reshape(confidence.shape[:-1])


def _decibel(signal: Any, noise: Any) -> Float64:
    """10 log10(signal / noise): inf without noise, -inf if there is nothing but noise."""
    signal, noise = np.asarray(signal, np.float64), np.asarray(noise, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 10.0 * np.log10(signal / noise)
    return np.where(noise == 0.0, math.inf, value)


def joined(parts: Sequence[NDArray[Any]]) -> Float64:
    """One column from the parts of the batches."""
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
