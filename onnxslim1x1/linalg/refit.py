"""Fitting linear maps to samples: ridge regression toward known weights, and behind a ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.moments import Moments

Rows = NDArray[np.float32]
Matrix = NDArray[np.float64]

_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)  # grows, so that the relaxed targets end at the constraint


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Affine:
    """``rows @ matrix.T + bias``: matrix (O, q), bias (O,)."""

    matrix: Matrix
    bias: NDArray[np.float64]

    def __call__(self, rows: Rows) -> Rows:
        """Outputs (rows, O) in float32."""
        found: Rows = rows @ self.matrix.T.astype(np.float32) + self.bias.astype(np.float32)
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Regression:
    """Result of `regress`: the fitted map and the moments of its inputs."""

    map: Affine
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
    gram = inputs.covariance.astype(np.float64)
    added = ridge * max(float(np.trace(gram)) / size, 1e-30)
    gram[np.diag_indices(size)] += added
    cross = covariance[size:, :size].astype(np.float64) + added * start
    matrix: Any = cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), cross.T, check_finite=False).T
    return Regression(map=Affine(matrix=matrix, bias=mean[size:] - matrix @ mean[:size]), inputs=inputs)


class RidgeFit:
    """Least squares of many targets on the same rows, with a ridge toward a start.

    Minimises ``||Y - X B^T - b||^2 / rows + ridge * ||B - B0||^2`` over B and b.
    """

    def __init__(self, rows: Rows, *, ridge: float) -> None:
        from scipy.linalg import cho_factor

        self._rows = rows
        self._mean = rows.mean(axis=0, dtype=np.float64)
        centred = rows - self._mean.astype(np.float32)
        gram = (centred.T @ centred).astype(np.float64) / len(rows)
        self._ridge = ridge * max(float(np.trace(gram)) / len(gram), 1e-30)
        gram[np.diag_indices(len(gram))] += self._ridge
        self._solver = cho_factor(gram, overwrite_a=True, check_finite=False)
        self._centred = centred

    def solve(self, targets: Rows, start: Matrix) -> Affine:
        """Fit (O, q) and bias to targets (rows, O)."""
        from scipy.linalg import cho_solve

        mean = targets.mean(axis=0, dtype=np.float64)
        cross = ((targets - mean.astype(np.float32)).T @ self._centred).astype(np.float64) / len(targets)
        matrix: Any = cho_solve(self._solver, (cross + self._ridge * start).T, check_finite=False).T
        return Affine(matrix=matrix, bias=mean - matrix @ self._mean)


def match_moments(rows: Rows, targets: Rows, start: Affine, *, part: float = 0.5, most: float = 1.5) -> Affine:
    """The map with the means of the targets, and with part of the deviation that it lacks.

    A least-squares fit of rank r shrinks the variance of what it predicts, and that compounds with depth. Row c of the
    matrix is scaled by ``1 + part * (g_c - 1)`` with ``g_c = sd(t_c) / sd(f_c(x))``, limited to 1..most.

    Args:
        rows: inputs x (n, q).
        targets: t (n, O).
        start: f.
        part: of the missing deviation; 1 restores all of it, and with it noise.
        most: limit of g.
    """
    predicted = start(rows)
    missing = targets.std(axis=0, dtype=np.float64) / np.maximum(predicted.std(axis=0, dtype=np.float64), 1e-30)
    matrix = start.matrix * (1 + part * (missing.clip(1, most) - 1))[:, None]
    mean = rows.mean(axis=0, dtype=np.float64)
    return Affine(matrix=matrix, bias=targets.mean(axis=0, dtype=np.float64) - matrix @ mean)


def refit_behind_relu(rows: Rows, targets: Rows, start: Affine, *, shortcuts: Rows | None = None,
                      ridge: float = 1e-3, rounds: int = 5) -> Affine:
    """Fit a linear map so that what a ReLU lets through is right (Zhang et al. 2016, section 3.2).

    Minimises ``||relu(t + s) - relu(f(x) + s)||^2`` by alternation: with the prediction p = f(x) + s and the wanted
    r = relu(t + s), the relaxed target z is the better of ``min(0, p)`` and ``max(0, (l p + r) / (l + 1))`` for
    ``(r - relu(z))^2 + l (z - p)^2``; then f is refitted to z - s. The penalty l grows over the rounds.

    Args:
        rows: inputs x (n, q).
        targets: t (n, O).
        start: the map to start from, and to shrink toward.
        shortcuts: s (n, O) that is added before the ReLU, or None.
        ridge: relative to the mean variance of the inputs.
        rounds: of the alternation.
    """
    fit = RidgeFit(rows, ridge=ridge)
    wanted = np.maximum(targets if shortcuts is None else targets + shortcuts, 0)
    found = start
    for number in range(rounds):
        penalty = np.float32(_PENALTIES[min(number * len(_PENALTIES) // rounds, len(_PENALTIES) - 1)])
        predicted = found(rows)
        if shortcuts is not None:
            predicted += shortcuts
        relaxed = _relaxed(predicted, wanted, penalty)
        if shortcuts is not None:
            relaxed -= shortcuts
        found = fit.solve(relaxed, start.matrix)
    return found


def _relaxed(predicted: Rows, wanted: Rows, penalty: np.float32) -> Rows:
    below = np.minimum(predicted, 0)
    above = np.maximum((penalty * predicted + wanted) / (penalty + 1), 0)
    cost_below = wanted**2 + penalty * (below - predicted) ** 2
    cost_above = (wanted - above) ** 2 + penalty * (above - predicted) ** 2
    relaxed: Rows = np.where(cost_below < cost_above, below, above)
    return relaxed
