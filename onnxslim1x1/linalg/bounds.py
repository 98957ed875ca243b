"""What a low rank must lose, without a spectrum: a bound that one product and one Cholesky factorization give.

Let t be the energy behind rank r, the sum of the m - r smallest of m eigenvalues with the sum T. By the concavity of
the logarithm ``log det <= r log((T - t) / r) + (m - r) log(t / (m - r))``, whose right side grows with t up to its
largest value T (m - r) / m: so the determinant bounds t from below. Fewer columns only have smaller eigenvalues
(interlacing, Horn and Johnson, Matrix Analysis, theorem 4.3.4), so some columns may be enough to know.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARTS = 2  # in which the columns are looked at
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
    size, width = rows.shape
    whole = float(np.vdot(matrix, matrix))
    if rank >= size or not 0 < whole < math.inf:
        return 0.0
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
    try:
        diagonal = np.linalg.cholesky(shifted).diagonal().astype(np.float64)
    except np.linalg.LinAlgError:
        return 0.0
    if not diagonal.min() > 0:
        return 0.0
    log_determinant = 2 * float(np.log(diagonal).sum()) - size * relative
    found = _energy(log_determinant, total + size * rounding, rank=rank, size=size)
    return max(found - 2 * (size - rank) * rounding, 0.0)  # once for the shift, once for what was rounded


def _energy(log_determinant: float, total: float, *, rank: int, size: int) -> float:
    """The t at which the two sides of the inequality are equal."""
    low, high = 0.0, total * (size - rank) / size
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = (size - rank) * math.log(middle / (size - rank)) if middle > 0 else -math.inf
        reached += rank * math.log((total - middle) / rank)
        low, high = (middle, high) if reached < log_determinant else (low, middle)
    return low
