"""Eigen-decompositions of small Gram matrices: the only spectral work that a factorisation needs.

A matrix A of shape (m, n) with m << n has the left singular vectors of A A^T (m, m), whose ``eigh`` in float64
is several times faster than an SVD of A (Golub and Van Loan, Matrix Computations, section 8.6).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def eigh_descending(symmetric: NDArray[Any]) -> tuple[Matrix, Matrix]:
    """Eigenvalues (m,), largest first and clipped at 0, and eigenvectors (m, m) in the same order.

    Args:
        symmetric: positive semi-definite matrix (m, m).
    """
    values, vectors = np.linalg.eigh(np.asarray(symmetric, dtype=np.float64))
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])


def gram(matrix: NDArray[Any]) -> Matrix:
    """A A^T in float64 for A of shape (m, n)."""
    rows = np.asarray(matrix, dtype=np.float64)
    product: Matrix = rows @ rows.T
    return product


def fractions(values: Matrix) -> tuple[float, ...]:
    """Eigenvalues as parts of their sum; all zero for a zero matrix."""
    total = float(values.sum())
    return tuple(float(v) for v in values / total) if total > 0 else (0.0,) * len(values)


def orthonormal_rows(matrix: Matrix) -> Matrix:
    """Orthonormal basis (r, n) of the row space of a full-rank matrix (r, n), r <= n, by QR."""
    q, _ = np.linalg.qr(matrix.T)
    return np.ascontiguousarray(q.T)
