"""What a low rank must lose, without a spectrum: a bound that one product and one Cholesky factorization give.

Let t be the energy behind rank r, the sum of the m - r smallest of m eigenvalues with the sum T. By the concavity of
the logarithm ``log det <= r log((T - t) / r) + (m - r) log(t / (m - r))``, whose right side grows with t up to its
largest value T (m - r) / m: so the determinant bounds t from below. Fewer rows or columns only have smaller
eigenvalues (interlacing, Horn and Johnson, Matrix Analysis, section 4.3), so some of them may be enough to know.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 1.4  # times the rank: as many rows are looked at first
_PARTS = 2  # in which the columns are looked at
_BLOCK = 256
_ROUNDING = 16  # times what rounding typically adds to an eigenvalue
_BISECTIONS = 60


def least_tail(matrix: NDArray[Any], rank: int, *, enough: float = 1.0) -> float:
    """Lower bound of the part of the energy of a matrix that no matrix of a rank can hold.

    Args:
        matrix: (m, n), in single precision.
        rank: of the approximation.
        enough: a bound from which on no better one is looked for.

    Returns:
        At most ``sum of s_i^2 for i > rank / ||matrix||_F^2`` (singular values s, largest first), at least 0; 0 where
        nothing can be said.
    """
    rows = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    whole = float(np.vdot(matrix, matrix))
    if rank >= len(rows) or not 0 < whole < math.inf:
        return 0.0
    some = rows[: math.ceil(_ROWS * rank)]
    best = _over_columns(some, rank, whole, enough=enough) if len(some) < len(rows) else 0.0
    return best if best >= enough else max(best, _over_columns(rows, rank, whole, enough=enough))


def _over_columns(rows: NDArray[Any], rank: int, whole: float, *, enough: float) -> float:
    """The best bound of ever more columns, until one is good enough."""
    size, width = rows.shape
    product, best = np.zeros((size, size), rows.dtype), 0.0
    step = max(size, -(-width // _PARTS))
    for start in range(0, width, step):
        part = rows[:, start : start + step]
        product += part @ part.T
        best = max(best, _behind(product, rank) / whole)
        if best >= enough:
            break
    return best


def _behind(product: NDArray[Any], rank: int) -> float:
    """Lower bound of the sum of the eigenvalues behind a rank, of a matrix that is known up to rounding."""
    size, total = len(product), float(product.diagonal().sum(dtype=np.float64))
    relative = _ROUNDING * float(np.finfo(product.dtype).eps)
    rounding = relative * total / math.sqrt(size)
    shifted = product.copy()
    shifted.flat[:: size + 1] += rounding
    log_determinant = _log_determinant(shifted) - size * relative
    if not math.isfinite(log_determinant):
        return 0.0
    found = _energy(log_determinant, total + size * rounding, rank=rank, size=size)
    return max(found - 2 * (size - rank) * rounding, 0.0)  # once for the shift, once for what was rounded


def _log_determinant(matrix: NDArray[Any]) -> float:
    """Of a positive definite matrix, which is overwritten; -inf for one that is not.

    Block by block, so that nearly all of the work is products of matrices: several times as fast as LAPACK's routine
    as numpy calls it.
    """
    found = 0.0
    for start in range(0, len(matrix), _BLOCK):
        here, behind = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        try:
            corner = np.linalg.cholesky(matrix[here, here])
        except np.linalg.LinAlgError:
            return -math.inf
        diagonal = corner.diagonal().astype(np.float64)
        if not diagonal.min() > 0:
            return -math.inf
        found += 2 * float(np.log(diagonal).sum())
        solved = np.linalg.solve(corner, matrix[here, behind])
        matrix[behind, behind] -= solved.T @ solved
    return found


def _energy(log_determinant: float, total: float, *, rank: int, size: int) -> float:
    """The t at which the two sides of the inequality are equal."""
    low, high = 0.0, total * (size - rank) / size
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = (size - rank) * math.log(middle / (size - rank)) if middle > 0 else -math.inf
        reached += rank * math.log((total - middle) / rank)
        low, high = (middle, high) if reached < log_determinant else (low, middle)
    return low
