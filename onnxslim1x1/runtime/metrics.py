"""Figures of accuracy: what a metric is, and those of classes and of numbers.

A metric takes in both models' outputs batch by batch and keeps a few numbers per image, never the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.runtime.compare import kl_divergence, label_ranks, log_probabilities
from onnxslim1x1.runtime.series import (
    Columns,
    Series,
    calibration_error,
    cosine,
    joined,
    known_mean,
    mean,
    ratio_db,
    root_ratio,
)

AnyArray = NDArray[Any]
Float64 = NDArray[np.float64]

TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Outputs of both models for the same images.

    Attributes:
        original: by output.
        rewritten: the same outputs, of the same shapes.
        rows: how many images; outputs whose first axis does not count them belong to all of them.
        labels: class indices (rows,), or None.
    """

    original: Mapping[str, AnyArray]
    rewritten: Mapping[str, AnyArray]
    rows: int
    labels: NDArray[np.int64] | None = None

    def pair(self, output: str) -> tuple[Float64, Float64] | None:
        """One output of both models in float64, image by image, or None where it cannot be compared."""
        if output not in self.original or output not in self.rewritten:
            return None
        found = [np.asarray(side[output], np.float64) for side in (self.original, self.rewritten)]
        if not found[0].ndim or len(found[0]) != self.rows:
            found = [values[np.newaxis] for values in found]
        return found[0], found[1]


class Metric(Protocol):
    """Gathers one or more figures. An output that cannot be compared, or is not finite, never raises."""

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        ...

    def series(self) -> tuple[Series, ...]:
        """What was gathered; figures without a single image are left out."""
        ...


class Columned:
    """Values per image that grow batch by batch, by name."""

    def __init__(self) -> None:
        self._parts: dict[str, list[AnyArray]] = {}

    def put(self, **values: AnyArray) -> None:
        """Append values, each (images,)."""
        for name, part in values.items():
            self._parts.setdefault(name, []).append(np.asarray(part, np.float64))

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __call__(self, *names: str) -> Columns:
        """Columns of these names over all images."""
        return tuple(joined(self._parts[name]) for name in names)


class ClassMetric:
    """Top-1 and top-5 with labels, agreement, Kullback-Leibler divergence and expected calibration error.

    An image for which a model gives a NaN or infinite score counts as wrong and as a disagreement, and is left out of
    `kl` and `ece`. Without labels the calibration error is that of the rewritten model's confidence against the class
    that the original gives (`ece_to_original`).
    """

    def __init__(self, output: str) -> None:
        self._output, self._columns, self._classes = output, Columned(), 0

    def add(self, batch: Batch) -> None:
        """Take in scores (N, K) or (N, K, 1, 1) of both models, and labels in 0..K-1 for all batches or none."""
        pair = batch.pair(self._output)
        if pair is None:
            return
        first, second = (scores.reshape(len(scores), -1) for scores in pair)
        self._classes = first.shape[1]
        good = [np.asarray(np.isfinite(scores).all(axis=1)) for scores in (first, second)]
        both, top = good[0] & good[1], first.argmax(axis=1)
        kl = np.full(len(first), np.nan)
        kl[both] = kl_divergence(first[both], second[both])
        same = both & (top == second.argmax(axis=1))
        self._columns.put(kl=kl, agreement=same, follows=_confidence(second, good[1]))
        if batch.labels is not None:
            for side, scores, fine in (("original", first, good[0]), ("rewritten", second, good[1])):
                ranks = label_ranks(scores, batch.labels)
                self._columns.put(**{f"top1_{side}": fine & (ranks < 1), f"top5_{side}": fine & (ranks < TOP),
                                     f"confidence_{side}": _confidence(scores, fine)})

    def series(self) -> tuple[Series, ...]:
        """See the class."""
        if "agreement" not in self._columns:
            return ()
        found = []
        if "top1_original" in self._columns:
            found += [self._hits(name) for name in ("top1", "top5") if name == "top1" or self._classes > TOP]
            found.append(Series(
                name="ece", output=self._output, better="lower", statistic=calibration_error,
                columns=self._columns("confidence_rewritten", "top1_rewritten"),
                original=self._columns("confidence_original", "top1_original")))
        found.append(Series(name="agreement", output=self._output, statistic=mean, hits=True,
                            columns=self._columns("agreement")))
        found.append(Series(name="kl", output=self._output, unit="nats", better="lower", statistic=known_mean,
                            columns=self._columns("kl")))
        if "top1_original" not in self._columns:
            found.append(Series(name="ece_to_original", output=self._output, better="lower",
                                statistic=calibration_error, columns=self._columns("follows", "agreement")))
        return tuple(one for one in found if len(one))

    def _hits(self, name: str) -> Series:
        return Series(name=name, output=self._output, statistic=mean, hits=True,
                      columns=self._columns(f"{name}_rewritten"), original=self._columns(f"{name}_original"))


def _confidence(scores: Float64, good: NDArray[np.bool_]) -> Float64:
    """Probability of the class with the largest score, (N,); NaN where scores are not finite."""
    found = np.full(len(scores), np.nan)
    if good.any():
        found[good] = np.minimum(np.exp(log_probabilities(scores[good])).max(axis=1), 1.0)
    return found


class SignalMetric:
    """Signal-to-noise ratio of an output, and on demand relative error, cosine and scale-invariant ratio.

    All are taken over all images together, with y of the original and y' of the rewritten model:
    ``snr_db = 10 log10(sum y^2 / sum (y - y')^2)``, ``rel_error = ||y - y'|| / ||y||``,
    ``cosine = <y, y'> / (||y|| ||y'||)``, ``si_sdr_db``: the same ratio after y is scaled to fit y' best, image by
    image (Le Roux et al. 2019). Where y is not finite values are left out; where only y' is not, the error is infinite.

    Args:
        output: which one.
        also: further figures, ``rel_error``, ``cosine`` or ``si_sdr_db``.
    """

    def __init__(self, output: str, also: tuple[str, ...] = ()) -> None:
        self._output, self._also, self._columns = output, also, Columned()

    def add(self, batch: Batch) -> None:
        """Take in an output of any shape."""
        pair = batch.pair(self._output)
        if pair is None or not pair[0].size:
            return
        old, new = (values.reshape(len(values), -1) for values in pair)
        fine = np.isfinite(old)
        broken = (fine & ~np.isfinite(new)).any(axis=1)
        both = fine & np.isfinite(new)
        if not both.all():
            old, new = np.where(both, old, 0.0), np.where(both, new, 0.0)
        signal, product, other = (np.einsum("ij,ij->i", a, b) for a, b in ((old, old), (old, new), (new, new)))
        noise = np.where(broken, np.inf, ((new - old) ** 2).sum(axis=1))
        self._columns.put(signal=signal, noise=noise, product=np.where(broken, 0.0, product),
                          other=np.where(broken, np.inf, other))
        if "si_sdr_db" in self._also:
            with np.errstate(divide="ignore", invalid="ignore"):
                fitted = np.where(signal > 0.0, product**2 / signal, 0.0)  # energy of what of y is in y'
            left = np.maximum(other - fitted, 0.0)
            left[left <= 1e-14 * other] = 0.0  # rounding
            self._columns.put(fitted=fitted, left=np.where(broken, np.inf, left))

    def series(self) -> tuple[Series, ...]:
        """See the class."""
        if "signal" not in self._columns:
            return ()
        made = {
            "snr_db": lambda: Series(name="snr_db", output=self._output, unit="dB", statistic=ratio_db,
                                     columns=self._columns("signal", "noise")),
            "rel_error": lambda: Series(name="rel_error", output=self._output, better="lower", statistic=root_ratio,
                                        columns=self._columns("signal", "noise")),
            "cosine": lambda: Series(name="cosine", output=self._output, statistic=cosine,
                                     columns=self._columns("signal", "other", "product")),
            "si_sdr_db": lambda: Series(name="si_sdr_db", output=self._output, unit="dB", statistic=ratio_db,
                                        columns=self._columns("fitted", "left")),
        }
        return tuple(made[name]() for name in ("snr_db", *self._also))
