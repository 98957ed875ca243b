"""One layer as a least-squares problem."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies.base import Array, patch_matrix

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting

Matrix = NDArray[np.float64]


class LayerProblem:
    """Weights, covariance of the patches and weighting of the outputs of a layer.

    Attributes:
        spec: the layer.
        matrix: kernel W (O, n*C), position-major.
        covariance: S of the patches (n*C, n*C) with a ridge, or None without data (the identity).
        mean: of the patches (n*C,).
        bias: (O,).
        weighting: root R (O, O) of the output weighting, or None for the identity.
    """

    def __init__(self, spec: ConvSpec, weight: Array, bias: Array | None = None, *,
                 statistics: Moments | None = None, weighting: OutputWeighting | None = None) -> None:
        self.spec = spec
        self.matrix: Matrix = patch_matrix(weight)
        self.bias = np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)
        self.covariance: Matrix | None = None if statistics is None else statistics.regularized()
        self.mean = np.zeros(self.matrix.shape[1]) if statistics is None else np.asarray(statistics.mean, np.float64)
        self.weighting: Matrix | None = None if weighting is None else weighting.root()

    @cached_property
    def seen(self) -> Matrix:
        """W S, (O, n*C)."""
        return self.matrix if self.covariance is None else self.matrix @ self.covariance

    @cached_property
    def response(self) -> Matrix:
        """W S W^T, (O, O): covariance of the outputs."""
        product: Matrix = self.seen @ self.matrix.T
        return (product + product.T) / 2

    def weighted(self, rows: Matrix) -> Matrix:
        """R rows, for rows (O, m)."""
        if self.weighting is None:
            return rows
        product: Matrix = self.weighting @ rows
        return product

    @cached_property
    def energy(self) -> float:
        """tr[W S W^T]."""
        return float(np.trace(self.response))

    @cached_property
    def weighted_energy(self) -> float:
        """tr[R W S W^T R]."""
        return float(np.sum(self.weighted(self.response) * self.weighted(np.eye(len(self.matrix)))))

    def error(self, kept: float) -> float:
        """Relative output error sqrt(1 - kept / tr[W S W^T]) when a chain reproduces the energy `kept`."""
        return math.sqrt(max(self.energy - kept, 0.0) / self.energy) if self.energy > 0 else 0.0

    def loss(self, kept: float) -> float:
        """Predicted loss (tr[R W S W^T R] - kept) / 2 for the weighted energy `kept`.

        Without a weighting the energy is as good as its share of the whole: the squared relative error.
        """
        lost = max(self.weighted_energy - kept, 0.0)
        if self.weighting is not None:
            return lost / 2
        return lost / self.weighted_energy if self.weighted_energy > 0 else 0.0

    def errors(self, composed: Matrix, kept: float) -> tuple[float, float | None]:
        """Relative error of the weights, ||W - F||_F / ||W||_F, and of the outputs (None without data)."""
        if self.covariance is None:  # the outputs then have the covariance of the weights
            return self.error(kept), None
        whole = float(np.linalg.norm(self.matrix))
        lost = float(np.linalg.norm(self.matrix - composed))
        return lost / whole if whole > 0 else 0.0, self.error(kept)

    def shifted_bias(self, composed: Matrix) -> NDArray[np.float64]:
        """Best bias behind a composed kernel, b + (W - F) mean."""
        shifted: NDArray[np.float64] = self.bias + (self.matrix - composed) @ self.mean
        return shifted
