"""How much the loss of a network depends on each output direction of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OutputWeighting:
    """How much the network's loss depends on each output direction of a layer.

    Attributes:
        covariance: D (O, O): sum over output positions, mean over images, of g g^T, where g is the gradient of the
            log-likelihood with respect to the layer's output. An output error d changes the loss by about
            ``tr[D E[d d^T]] / 2`` (the Fisher information; errors of different positions taken as independent).
    """

    covariance: NDArray[np.floating[Any]]

    def root(self) -> Matrix:
        """Symmetric root (O, O) of D, its eigenvalues floored at a tenth of their mean.

        The floor keeps directions alive that the few images of the estimate did not exercise.
        """
        values, vectors = np.linalg.eigh(np.asarray(self.covariance, dtype=np.float64))
        floored = np.maximum(values, max(float(values.mean()), 1e-30) * 0.1)
        root: Matrix = (vectors * np.sqrt(floored)) @ vectors.T
        return root
