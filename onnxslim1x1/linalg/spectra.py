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
        symmetric: positive semi-definite matrix (m, m); single precision stays single.
    """
    if symmetric.dtype == np.float32:
        from scipy.linalg import eigh  # whose divide and conquer is quicker in single precision, unlike numpy's

        values, vectors = eigh(symmetric, driver="evd", check_finite=False)
    else:
        values, vectors = np.linalg.eigh(np.asarray(symmetric, dtype=np.float64))
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])


def gram(matrix: NDArray[Any]) -> Matrix:
    """A A^T for A of shape (m, n), in float64 unless that is float32."""
    rows = matrix if matrix.dtype == np.float32 else np.asarray(matrix, dtype=np.float64)
    product: Matrix = rows @ rows.T
    return product


def fractions(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Eigenvalues as parts of their sum; all zero for a zero matrix."""
    total = float(values.sum())
    return tuple(float(v) for v in values / total) if total > 0 else (0.0,) * len(values)


def orthonormal_rows(matrix: Matrix) -> Matrix:
    """Orthonormal basis (r, n) of the row space of a full-rank matrix (r, n), r <= n, by QR."""
    q, _ = np.linalg.qr(matrix.T)
    return np.ascontiguousarray(q.T)
