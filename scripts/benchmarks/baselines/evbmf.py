"""Rank of a matrix under noise by empirical variational Bayesian matrix factorisation (EVBMF).

Nakajima, Sugiyama, Babacan and Tomioka 2013, "Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 14, with the estimate of the noise variance that "Perfect dimensionality recovery by variational
Bayesian PCA" (NIPS 2012) gives. Kim et al. 2016 took it for the ranks of Tucker-2.

For Y (L, M) with L <= M, singular values g_h and noise variance v let alpha = L / M, x_h = g_h^2 / (M v),
t* = 2.5129 sqrt(alpha) and x* = (1 + t*)(1 + alpha / t*). The solution keeps the components with x_h > x*. The variance
minimises the free energy, the sum over h of

    x_h - log x_h                                               if x_h <= x*,
    x_h - t_h + log((t_h + 1) / x_h) + alpha log(t_h / alpha + 1) else,

with t_h = (x_h - (1 + alpha) + sqrt((x_h - (1 + alpha))^2 - 4 alpha)) / 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.spectra import eigh_descending, gram

_GRID = 400  # points of the first, logarithmic search: the free energy has several local minima


def evbmf_rank(matrix: NDArray[Any]) -> int:
    """Number of components that EVBMF keeps of a matrix, in [0, min(shape)]."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = wide.shape
    energies, _ = eigh_descending(gram(wide))  # g_h^2
    if energies[0] <= 0:
        return 0
    energies = np.maximum(energies, energies[0] * 1e-14)  # a singular matrix has log x_h = -inf otherwise
    threshold = _threshold(rows / columns)
    variance = _noise_variance(energies, columns, threshold)
    return int((energies > columns * variance * threshold).sum())


def _threshold(alpha: float) -> float:
    t = 2.5129 * math.sqrt(alpha)
    return (1 + t) * (1 + alpha / t)


def _noise_variance(energies: NDArray[np.float64], columns: int, threshold: float) -> float:
    """Minimiser of the free energy between the bounds of the theorem: a grid, then a refinement around its best."""
    from scipy.optimize import minimize_scalar

    rows = len(energies)
    kept = min(math.ceil(rows / (1 + rows / columns)) - 1, rows - 1)  # more components are never kept
    low = max(float(energies[kept]) / (columns * threshold), float(energies[kept:].mean()) / columns)
    high = max(float(energies.sum()) / (rows * columns), low * (1 + 1e-9))

    def energy(log_variance: float) -> float:
        return _free_energy(energies / (columns * math.exp(log_variance)), rows / columns, threshold)

    grid = np.linspace(math.log(low), math.log(high), _GRID)
    best = int(np.argmin([energy(g) for g in grid]))
    bounds = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    found = minimize_scalar(energy, bounds=bounds, method="bounded")
    return math.exp(float(found.x) if found.fun <= energy(grid[best]) else float(grid[best]))


def _free_energy(x: NDArray[np.float64], alpha: float, threshold: float) -> float:
    signal, noise = x[x > threshold], x[x <= threshold]
    centred = signal - (1 + alpha)
    t = (centred + np.sqrt(np.maximum(centred**2 - 4 * alpha, 0.0))) / 2
    kept = signal - t + np.log((t + 1) / signal) + alpha * np.log(t / alpha + 1)
    return float((noise - np.log(noise)).sum() + kept.sum())
