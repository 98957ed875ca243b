"""Patches reordered for a seam, and the spectral decomposition of what the seam divides."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.spectra import gram, orthonormal_rows
from onnxslim1x1.spec import Ints
from onnxslim1x1.strategies.problem import Matrix

_LARGE = 1024


class Blocks:
    """Reordering of patches (positions, channels) into (position of what is behind, block of the factor in front).

    Attributes:
        positions: P, how many positions the factors behind cover.
        size: B, length of a block.
        kernel_behind: sizes of the axes that are left, 1 for those that the factor in front covers.
        capacity: largest rank of the unfolding, min(B, O*P).
        break_even: rank from which on two factors have as many parameters as one, about B*O*P / (B + O*P).
    """

    def __init__(self, kernel: Ints, channels: int, *, axes: Ints, outputs: int) -> None:
        self._shape = (*kernel, channels)
        rest = tuple(a for a in range(len(kernel)) if a not in axes)
        self._order = (*rest, *axes, len(kernel))
        self._in_order = self._order == tuple(range(len(kernel) + 1))
        self.kernel_behind = tuple(1 if a in axes else k for a, k in enumerate(kernel))
        self.positions = math.prod(self.kernel_behind)
        self.size = math.prod(kernel[a] for a in axes) * channels
        behind = outputs * self.positions
        self.capacity = min(self.size, behind)
        self.break_even = min(self.size * behind // (self.size + behind) + 1, self.capacity)

    def rows(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """(m, n*C) -> (m, P, B)."""
        if self._in_order:
            return matrix.reshape(len(matrix), self.positions, self.size)
        shaped = matrix.reshape(-1, *self._shape).transpose(0, *(a + 1 for a in self._order))
        return np.ascontiguousarray(shaped).reshape(len(matrix), self.positions, self.size)

    def unordered(self, matrix: Matrix) -> Matrix:
        """(m, P, B) -> (m, n*C): the inverse of `rows`."""
        if self._in_order:
            return matrix.reshape(len(matrix), -1)
        shaped = matrix.reshape(len(matrix), *(self._shape[a] for a in self._order))
        back = np.argsort(self._order)
        return np.ascontiguousarray(shaped.transpose(0, *(int(a) + 1 for a in back))).reshape(len(matrix), -1)

    def composed(self, first: Matrix, second: Matrix) -> Matrix:
        """Kernel (O, n, C) of a factor in front (r, B) and what is behind it (O, P, r)."""
        product = (second.reshape(-1, len(first)) @ first).reshape(len(second), self.positions, self.size)
        return self.unordered(product).reshape(len(second), -1, self._shape[-1])

    def square(self, matrix: Matrix) -> Matrix:
        """(n*C, n*C) -> (P, B, P, B)."""
        if self._in_order:
            return matrix.reshape(self.positions, self.size, self.positions, self.size)
        width = len(self._order)
        shaped = matrix.reshape(*self._shape, *self._shape)
        shaped = shaped.transpose(*self._order, *(a + width for a in self._order))
        return np.ascontiguousarray(shaped).reshape(self.positions, self.size, self.positions, self.size)


class Unfolding:
    """``K = L^T X`` with ``L L^T`` the covariance of the blocks and ``X = (R W)^T``, decomposed on its smaller side.

    Attributes:
        rows: X (B, O*P).
        block: covariance of the blocks (B, B), or None for the identity.
        tall: whether K has more rows than columns.
    """

    def __init__(self, rows: Matrix, block: Matrix | None) -> None:
        self.rows, self.block = rows, block
        self.tall = len(rows) > rows.shape[1]

    @cached_property
    def lower(self) -> Matrix | None:
        """L (B, B), or None for the identity."""
        if self.block is None:
            return None
        from scipy.linalg import cholesky

        root: Matrix = cholesky(self.block, lower=True, check_finite=False)
        return root

    @cached_property
    def gram(self) -> Matrix:
        """Gram matrix of the smaller side: K K^T (B, B), or K^T K (O*P, O*P) of a tall K."""
        if not self.tall:
            return gram(self.rows if self.lower is None else self.lower.T @ self.rows)
        product = self.rows.T @ (self.rows if self.block is None else self.block @ self.rows)
        return (product + product.T) / 2

    def directions(self, vectors: Matrix) -> Matrix:
        """Rows (r, B) with the span of U_r^T L^-1, for every r, from eigenvectors of `gram` (columns).

        They are orthonormal without data, else of length 1.
        """
        if self.tall:
            return orthonormal_rows(vectors.T @ self.rows.T)
        whitened = self.whitened(vectors)
        lengths: Matrix = np.linalg.norm(whitened, axis=1, keepdims=True)
        return whitened / lengths

    def whitened(self, vectors: Matrix) -> Matrix:
        """U^T L^-1 from U (columns)."""
        if self.lower is None:
            return np.ascontiguousarray(vectors.T)
        from scipy.linalg import solve_triangular

        solved = solve_triangular(self.lower, vectors, trans="T", lower=True, check_finite=False)
        return np.ascontiguousarray(solved.T)


def eigenvalues(symmetric: Matrix) -> Matrix:
    """Eigenvalues, largest first and clipped at 0, in a third of the time that eigenvectors take.

    Large matrices are decomposed in single precision, which halves that time again; sums of eigenvalues are then right
    to about 1e-7 of their total.
    """
    found, scale = (np.linalg.eigvalsh(symmetric), 1.0) if len(symmetric) <= _LARGE else _rounded(symmetric)
    return np.maximum(np.asarray(found, dtype=np.float64)[::-1] * scale, 0.0)


def _rounded(symmetric: Matrix) -> tuple[NDArray[Any], float]:
    """Eigenvalues in single precision, and their scale: the squares of small weights would be out of range."""
    from scipy.linalg import eigvalsh

    scale = max(float(symmetric.diagonal().max()), 1e-300)
    single = (symmetric / scale).astype(np.float32)
    return eigvalsh(single, overwrite_a=True, check_finite=False, driver="evd"), scale


def cumulated(energies: Matrix) -> list[float]:
    """Sum of the leading energies, for every number of them from 0 on."""
    return [0.0, *energies.cumsum(dtype=np.float64).tolist()]
