"""Fitting linear maps to samples: ridge regression toward known weights, from moments alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.moments import Moments

Matrix = NDArray[np.float64]

RIDGES = (25.0, 3.0, 0.4, 0.05)  # the first all but keeps the weights


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Affine:
    """``rows @ matrix.T + bias``: matrix (O, q), bias (O,)."""

    matrix: Matrix
    bias: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regression:
    """Result of `regress`: the fitted map and the moments of its inputs."""

    map: Affine
    inputs: Moments


def regress(joint: Moments, start: Matrix, *, ridge: float, dtype: type[np.floating[Any]] = np.float64) -> Regression:
    """Map from inputs x (d,) to targets t (O,) that stays near known weights.

    ``M = (S_tx + l W) (S_xx + l I)^-1`` with l = ridge * tr(S_xx) / d.

    Args:
        joint: moments of the rows (x, t), of dimension d + O.
        start: W (O, d).
        ridge: relative to the mean variance of the inputs.
        dtype: to solve in.
    """
    from scipy.linalg import cho_factor, cho_solve

    size = start.shape[1]
    mean, covariance = joint.mean.astype(np.float64), joint.covariance
    inputs = Moments(mean=joint.mean[:size], covariance=covariance[:size, :size], count=joint.count)
    gram = inputs.covariance.astype(dtype)
    added = ridge * max(float(np.trace(gram)) / size, 1e-30)
    gram[np.diag_indices(size)] += added
    cross = covariance[size:, :size].astype(np.float64) + added * start
    solved: Any = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), cross.T.astype(dtype),
                            check_finite=False)
    matrix: Matrix = solved.T.astype(np.float64)
    return Regression(map=Affine(matrix=matrix, bias=mean[size:] - matrix @ mean[:size]), inputs=inputs)


def squared_error(found: Affine, joint: Moments, *, root: Matrix | None = None) -> float:
    """``E ||R (M x + b - t)||^2`` of a map (M, b), from the moments of rows (x, t) alone.

    Args:
        found: the map.
        joint: moments of the rows, of dimension d + O.
        root: R (O, O), or None for the identity.
    """
    size = found.matrix.shape[1]
    mean, covariance = joint.mean.astype(np.float64), joint.covariance
    shift = found.matrix @ mean[:size] + found.bias - mean[size:]
    cross = found.matrix @ covariance[:size, size:].astype(np.float64)
    seen = found.matrix.astype(covariance.dtype) @ covariance[:size, :size]  # not worth a copy of it in float64
    error = seen.astype(np.float64) @ found.matrix.T
    error += covariance[size:, size:] + np.outer(shift, shift) - cross - cross.T
    return float(np.trace(error) if root is None else np.vdot(root @ error, root))


def best_ridge(fitting: Moments, checking: Moments, start: Matrix, *, root: Matrix | None = None) -> float:
    """The ridge of `regress` whose map, fitted to some rows, errs least on others; tried from the strongest down.

    The choice is made in float32: the maps of two ridges differ by far more than its rounding.

    Args:
        fitting: moments of the rows (x, t) to fit to.
        checking: of other rows.
        start: W (O, d).
        root: R (O, O) that weighs the errors, or None.
    """
    chosen, least = RIDGES[0], np.inf
    for ridge in RIDGES:
        error = squared_error(regress(fitting, start, ridge=ridge, dtype=np.float32).map, checking, root=root)
        if error >= least:
            break
        chosen, least = ridge, error
    return chosen
