"""Fitting linear maps to samples: ridge regression toward known weights, from moments alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.moments import Moments

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regression:
    """The fitted map ``rows @ matrix.T + bias``, matrix (O, d) and bias (O,), and the moments of its inputs."""

    matrix: Matrix
    bias: NDArray[np.float64]
    inputs: Moments


def regress(joint: Moments, start: Matrix, *, ridge: float) -> Regression:
    """Map from inputs x (d,) to targets t (O,) that stays near known weights.

    ``M = (S_tx + l W) (S_xx + l I)^-1`` with l = ridge * tr(S_xx) / d.

    Args:
        joint: moments of the rows (x, t), of dimension d + O.
        start: W (O, d).
        ridge: relative to the mean variance of the inputs.
    """
    from scipy.linalg import cho_factor, cho_solve

    size = start.shape[1]
    mean, covariance = joint.mean.astype(np.float64), joint.covariance
    inputs = Moments(mean=joint.mean[:size], covariance=covariance[:size, :size], count=joint.count)
    gram = inputs.ridged(ridge)
    cross = covariance[size:, :size].astype(np.float64) + ridge * inputs.variance * start
    matrix: Matrix = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), cross.T, check_finite=False).T
    return Regression(matrix=matrix, bias=mean[size:] - matrix @ mean[:size], inputs=inputs)
