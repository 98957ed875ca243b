"""Streaming mean and covariance.

Sums are kept in float64; each block is multiplied in float32, whose rounding is far below the sampling error
of a covariance (relative error about sqrt(rows) * 2^-24 per block). Rows are shifted by the mean of the first block:
without it, a mean far above the spread cancels all digits of the covariance (Chan, Golub and LeVeque 1983).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_ROWS_AT_ONCE = 4096
_SLAB = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """First two moments of input patches.

    Attributes:
        mean: (d,), of the patch vector.
        covariance: (d, d), centred: E[(x - mean)(x - mean)^T].
        count: number of patches that were seen.
    """

    mean: NDArray[np.floating[Any]]
    covariance: NDArray[np.floating[Any]]
    count: int

    @property
    def variance(self) -> float:
        """Mean variance, tr(covariance) / d, or 1e-30 if that is less."""
        return max(float(np.trace(self.covariance, dtype=np.float64)) / len(self.mean), 1e-30)

    def regularized(self, dtype: type[np.floating[Any]] = np.float64) -> NDArray[np.floating[Any]]:
        """Covariance with a ridge of 1e-5 to 1e-3 of the mean variance.

        The ridge keeps a least-squares fit stable and exact at full rank; it grows when fewer than ten patches were
        seen per dimension.
        """
        dimension = len(self.mean)
        scarcity = min(1.0, 10.0 * dimension / max(self.count, 1))
        return self.ridged(1e-5 + 1e-3 * scarcity, dtype)

    def shrunk(self) -> Moments:
        """Moments with ``d / count`` of the mean variance added to all variances.

        A sample covariance underestimates small variances the more, the fewer patches there are per dimension (its
        eigenvalues spread by about ``sqrt(d / count)``: Ledoit and Wolf 2004), and a factorisation would drop just
        those directions.
        """
        ridged = self.ridged(len(self.mean) / max(self.count, 1))
        return Moments(mean=self.mean, covariance=ridged.astype(np.float32), count=self.count)

    def ridged(self, ridge: float, dtype: type[np.floating[Any]] = np.float64) -> NDArray[np.floating[Any]]:
        """Covariance with `ridge` of the mean variance added to all variances."""
        ridged = self.covariance.astype(dtype)
        ridged[np.diag_indices(len(ridged))] += self.variance * ridge
        return ridged


class MomentAccumulator:
    """Accumulates `Moments` of rows that arrive in blocks.

    Small blocks are gathered first: the product of a block costs its rows, but adding it to the sum costs the square of
    the dimension each time.
    """

    def __init__(self, dimension: int) -> None:
        self._shift: NDArray[np.float32] | None = None
        self._sum = np.zeros(dimension)
        self._outer = np.zeros((dimension, dimension))
        self._count = 0
        self._waiting: list[NDArray[np.float32]] = []

    def add(self, rows: NDArray[Any]) -> None:
        """Add a block of rows (p, d)."""
        if len(rows):
            self._waiting.append(np.array(rows, dtype=np.float32))  # a copy: the caller may use its memory again
        if sum(map(len, self._waiting)) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        block = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting.clear()
        if self._shift is None:
            self._shift = block.mean(axis=0, dtype=np.float64).astype(np.float32)
        block -= self._shift
        self._sum += block.sum(axis=0, dtype=np.float64)
        self._outer += block.T @ block
        self._count += len(block)

    def result(self) -> Moments:
        """Mean and centred covariance of everything that was added, stored in float32.

        Raises:
            ValueError: nothing was added.
        """
        self._flush()
        if self._shift is None:
            raise ValueError("no rows were added")
        offset = self._sum / self._count
        covariance = np.empty(self._outer.shape, dtype=np.float32)
        for part in _slabs(len(offset)):
            covariance[part] = self._outer[part] / self._count - np.outer(offset[part], offset)
        mean = (self._shift + offset).astype(np.float32)
        return Moments(mean=mean, covariance=covariance, count=self._count)


def _slabs(size: int) -> Iterator[slice]:
    """Rows of a large matrix a few at a time, so that what is computed from them stays in the cache."""
    return (slice(start, start + _SLAB) for start in range(0, size, _SLAB))
