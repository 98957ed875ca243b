"""An output that holds several kinds of values, such as boxes in pixels beside scores from 0 to 1, taken apart.

Pooled, the squared error would be that of the largest values alone: a detector whose boxes are right to a pixel may
have lost all its scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_APART = 10.0  # factor between the spreads (standard deviations) of fields that are of different kinds
_CONSTANT = 1e-6  # of the largest spread: a field that varies less is no kind of its own
_LEAST_VARIANCE = 1e-6  # of the variance of all values of a part


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """How the fields of an output divide into parts that are judged apart.

    A field is one index on the shortest axis besides that of the images: a channel of a map, a column of a table of
    boxes. Fields belong to one part as long as their standard deviations follow each other within a factor of 10.

    Attributes:
        axis: of the fields.
        of_field: part of each field.
        variances: of each part, what its squared errors are relative to: its variance over the images, mean over all
            that it holds. Not the variance of all values: a detector writes much the same for every image, and one
            that writes nothing else any more would seem right. Of a single image, or where nothing depends on it,
            there is nothing better to take.
    """

    axis: int
    of_field: NDArray[np.int64]
    variances: tuple[float, ...]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Parts:
        """Of an output on some images (N, ...)."""
        exact = _wide(values)
        axis = 1 + int(np.argmin(exact.shape[1:]))
        fields = np.moveaxis(exact, axis, 0).reshape(exact.shape[axis], len(exact), -1)
        of_field = _divided(np.sqrt([_variance(field) for field in fields]))
        return cls(axis=axis, of_field=of_field, variances=tuple(
            _variance(fields[of_field == part]) for part in range(int(of_field.max()) + 1)))

    def losses(self, expected: NDArray[Any], found: NDArray[Any]) -> list[float]:
        """Mean squared error of each part, relative to its variance."""
        squared = np.moveaxis((_wide(found) - _wide(expected)) ** 2, self.axis, 0)
        return [float(squared[self.of_field == part].mean()) / variance for part, variance in enumerate(self.variances)]

    def seeds(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Random signs (N, ...) scaled so that the squared gradient is that of the mean loss of the parts."""
        wide = _wide(signs)
        size = wide[0].size / len(self.of_field)  # values of a field
        scales = [1 / np.sqrt(len(self.variances) * variance * size * int((self.of_field == part).sum()))
                  for part, variance in enumerate(self.variances)]
        by_field = np.array(scales)[self.of_field]
        shape = [-1 if axis == self.axis else 1 for axis in range(wide.ndim)]
        scaled: NDArray[np.float64] = (wide * by_field.reshape(shape)).reshape(signs.shape)
        return scaled


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    """Values (N, ...) with at least one axis besides that of the images."""
    exact: NDArray[np.float64] = values.astype(np.float64)
    return exact.reshape(len(exact), -1) if exact.ndim == 1 else exact


def _variance(values: NDArray[np.float64]) -> float:
    """Variance over the images of (N, ...) or (fields, N, ...), mean over all else."""
    images = values.ndim - 2
    whole = max(float(values.var()), 1e-30)
    if values.shape[images] < 2:
        return whole
    return max(float(values.var(axis=images, ddof=1).mean()), _LEAST_VARIANCE * whole)


def _divided(spreads: NDArray[np.float64]) -> NDArray[np.int64]:
    """Part of each field: a new one begins where the next spread is ten times smaller, and is not next to nothing."""
    order = np.argsort(-spreads, kind="stable")
    part = np.zeros(len(spreads), dtype=np.int64)
    least = _CONSTANT * spreads[order[0]]
    for before, here in pairwise(order):
        new = spreads[here] * _APART < spreads[before] and spreads[here] > least
        part[here] = part[before] + int(new)
    return part
