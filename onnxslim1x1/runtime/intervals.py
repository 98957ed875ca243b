"""Confidence intervals and tests for two models that saw the same images.

Hits and misses have closed formulas; everything else is resampled over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Bounds = tuple[float, float]
Statistic = Callable[..., Float64]  # (*columns, axis=-1): reduces that axis, which counts images

_RESAMPLES = 1000
_AT_ONCE = 2_000_000  # resampled values that are held in memory


def wilson(hits: int, images: int, confidence: float) -> Bounds:
    """Interval for a fraction: Wilson's score interval (Newcombe 1998, Statistics in Medicine 17:857, method 3).

    Args:
        hits: 0..images.
        images: at least 1.
        confidence: such as 0.95.
    """
    from scipy.special import ndtri  # `scipy.stats`, which has this, too, takes half a second to import

    z, p = float(ndtri(0.5 + confidence / 2)), hits / images
    centre, half = p + z * z / (2 * images), z * math.sqrt(p * (1 - p) / images + (z / (2 * images)) ** 2)
    low, high = ((centre + end) / (1 + z * z / images) for end in (-half, half))
    return 0.0 if hits == 0 else low, 1.0 if hits == images else high


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test: of those images that one model alone gets right, half for each.

    Args:
        only_first: images that the first model alone gets right.
        only_second: images that the second model alone gets right.
    """
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_], confidence: float) -> Bounds:
    """Interval for mean(second) - mean(first) of hits on the same images.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17:2635): Wilson's intervals of both fractions, squared and added
    with the correlation of the pairs, which is corrected for continuity where it is positive. It covers well for few
    images and for fractions near 0 and 1, too, where the usual normal approximation does not.

    Args:
        first: hits of the first model, (N,), at least one.
        second: hits of the second model on the same images, (N,).
        confidence: such as 0.95.
    """
    n = len(first)
    p1, p2 = float(first.mean()), float(second.mean())
    (l1, u1), (l2, u2) = (wilson(int(x.sum()), n, confidence) for x in (first, second))
    phi, delta = _phi(first, second), p2 - p1
    low = delta - _span(p2 - l2, u1 - p1, phi)
    high = delta + _span(u2 - p2, p1 - l1, phi)
    return max(low, -1.0), min(high, 1.0)


def _phi(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only = int((first & ~second).sum()), int((~first & second).sum())
    product = (both + only[0]) * (only[1] + neither) * (both + only[1]) * (only[0] + neither)
    if not product:
        return 0.0
    determinant = both * neither - only[0] * only[1]
    return (max(determinant - n / 2, 0.0) if determinant > 0 else determinant) / math.sqrt(product)


def _span(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def bootstrap(columns: tuple[Float64, ...], statistic: Statistic, *, confidence: float, seed: int = 0) -> Bounds | None:
    """Percentile interval of a statistic of per-image values, resampled over images (Efron and Tibshirani 1993, 13.3).

    Args:
        columns: values of the same N images, each (N,).
        statistic: takes the columns and reduces their last axis.
        confidence: such as 0.95.
        seed: of the resampling.

    Returns:
        Lower and upper end; None for too few images: even from the smallest to the largest value, N values enclose
        what half of all images lie below with a probability of 1 - 2^(1 - N) only.
    """
    images = len(columns[0])
    if 2.0 ** (1 - images) > 1.0 - confidence:
        return None
    point = float(statistic(*columns, axis=-1))
    if not math.isfinite(point):  # identical or broken throughout: no resampling says more
        return point, point
    rng, draws = np.random.default_rng(seed), list[Float64]()
    rows = max(1, _AT_ONCE // images)
    for start in range(0, _RESAMPLES, rows):
        picks = rng.integers(0, images, (min(rows, _RESAMPLES - start), images))
        draws.append(statistic(*(column[picks] for column in columns), axis=-1))
    tail = (1 - confidence) / 2
    # ratios in decibel may be infinite: quantiles that never interpolate, which scipy's bootstrap does not offer
    low, high = np.quantile(np.concatenate(draws), (tail, 1 - tail), method="inverted_cdf").tolist()
    return low, high
