"""A layer as a least-squares problem, whole or behind the factors that were already split off."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.spec import ConvSpec, Ints
from onnxslim1x1.strategies.base import Array, patch_matrix

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting

Matrix = NDArray[np.floating[Any]]

LEAST_OF_DRAFT = 3e-3  # relative error: what single precision can tell from none


class Stage:
    """Outputs ``W x`` that a chain has to reproduce from the patches x of one of its seams.

    Patches are position-major: all channels of one kernel position together, as in `patch_matrix`.

    Attributes:
        kernel: size per axis, 1 along an axis that a factor in front covers.
        channels: C of the seam.
        outputs: O.
        weighting: root R (O, O) of the output weighting, or None for the identity.
        plain: whether S and R are the identity: there is neither data nor a weighting.
    """

    def __init__(self, kernel: Ints, channels: int, *, outputs: int, weighting: Matrix | None, data: bool) -> None:
        self.kernel, self.channels, self.outputs, self.weighting = kernel, channels, outputs, weighting
        self.plain = weighting is None and not data

    @property
    def matrix(self) -> Matrix:
        """W (O, n*C)."""
        raise NotImplementedError

    @property
    def seen(self) -> Matrix:
        """W S (O, n*C)."""
        raise NotImplementedError

    @property
    def response(self) -> Matrix:
        """W S W^T (O, O): covariance of the outputs."""
        raise NotImplementedError

    def covariance(self) -> Matrix | None:
        """S of the patches (n*C, n*C), or None for the identity."""
        raise NotImplementedError

    def weighted(self, rows: Matrix) -> Matrix:
        """R rows, for rows (O, m)."""
        if self.weighting is None:
            return rows
        product: Matrix = self.weighting @ rows
        return product

    def unweighted(self, rows: Matrix) -> Matrix:
        """R^-1 rows, for rows (O, m)."""
        if self.weighting is None:
            return rows
        solved: Matrix = np.linalg.solve(self.weighting, rows)
        return solved


class LayerProblem(Stage):
    """The whole layer: weights, covariance of the patches and weighting of the outputs.

    A draft is the same problem in single precision, with W, S and R scaled so that no product leaves its range.

    Attributes:
        spec: the layer.
        bias: (O,).
        mean: of the patches (n*C,).
        scale: what W has to be multiplied by, 1 but in a draft.
    """

    def __init__(self, spec: ConvSpec, weight: Array, bias: Array | None = None, *,
                 statistics: Moments | None = None, weighting: OutputWeighting | None = None,
                 draft: bool = False) -> None:
        root = None if weighting is None else weighting.root()
        matrix: Matrix = patch_matrix(weight)
        self.scale, self._unit, self._least = 1.0, 1.0, 0.0
        self._draft: Matrix | None = None
        if draft:
            self.scale, self._least = _magnitude(matrix), LEAST_OF_DRAFT
            self._unit = self.scale**2
            matrix = (matrix / self.scale).astype(np.float32)
            if root is not None:
                largest = _magnitude(root)
                self._unit *= largest**2
                root = (root / largest).astype(np.float32)
            if statistics is not None:
                variance = statistics.variance
                self._unit *= variance
                self._draft = statistics.regularized(np.float32)
                self._draft *= np.float32(1 / variance)
        super().__init__(spec.kernel, spec.in_channels, outputs=spec.out_channels, data=statistics is not None,
                         weighting=root)
        self.spec = spec
        self.bias = np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)
        self._matrix = matrix
        self._statistics = statistics
        self._covariance: ref[Matrix] | None = None
        self.mean = np.zeros(spec.patch) if statistics is None else np.asarray(statistics.mean, np.float64)

    def has_bias(self, bias: Array | None) -> bool:
        """Whether the problem was made with this bias."""
        return np.array_equal(self.bias, np.zeros_like(self.bias) if bias is None else bias)

    @property
    def matrix(self) -> Matrix:
        """W (O, n*C)."""
        return self._matrix

    def covariance(self) -> Matrix | None:
        """S with a ridge, which makes fits stable, and exact at full rank; None without data."""
        if self._statistics is None or self._draft is not None:
            return self._draft
        known = self._covariance() if self._covariance else None  # large: kept only as long as somebody works with it
        if known is None:
            known = self._statistics.regularized()
            self._covariance = ref(known)
        return known

    @cached_property
    def seen(self) -> Matrix:
        """W S, (O, n*C)."""
        covariance = self.covariance()
        return self.matrix if covariance is None else self.matrix @ covariance

    @cached_property
    def response(self) -> Matrix:
        """W S W^T, (O, O): covariance of the outputs."""
        product: Matrix = self.seen @ self.matrix.T
        return (product + product.T) / 2

    @cached_property
    def energy(self) -> float:
        """tr[W S W^T]."""
        return float(np.vdot(self.seen, self.matrix))

    @cached_property
    def weighted_energy(self) -> float:
        """tr[R W S W^T R]."""
        if self.weighting is None:
            return self.energy
        return float(np.sum(self.weighted(self.response) * self.weighting))

    def error(self, kept: float) -> float:
        """Relative output error sqrt(1 - kept / tr[W S W^T]) when a chain reproduces the energy `kept`."""
        found = math.sqrt(max(self.energy - kept, 0.0) / self.energy) if self.energy > 0 else 0.0
        return max(found, self._least)

    def loss(self, kept: float) -> float:
        """Predicted loss (tr[R W S W^T R] - kept) / 2 for the weighted energy `kept`.

        Without a weighting the energy is as good as its share of the whole: the squared relative error.
        """
        lost = max(self.weighted_energy - kept, 0.0)
        if self.weighting is not None:
            return lost / 2 * self._unit
        return lost / self.weighted_energy if self.weighted_energy > 0 else 0.0

    def errors(self, composed: Matrix, kept: float) -> tuple[float, float | None]:
        """Relative error of the weights, ||W - F||_F / ||W||_F, and of the outputs (None without data)."""
        if self._statistics is None:  # the outputs then have the covariance of the weights
            return self.error(kept), None
        whole = float(np.linalg.norm(self.matrix))
        lost = float(np.linalg.norm(self.matrix - composed))
        return lost / whole if whole > 0 else 0.0, self.error(kept)

    def shifted_bias(self, composed: Matrix) -> NDArray[np.float64]:
        """Best bias behind a composed kernel, b + (W - F) mean."""
        shifted: NDArray[np.float64] = self.bias + self.scale * ((self.matrix - composed) @ self.mean)
        return shifted


def _magnitude(values: Matrix) -> float:
    """Largest absolute value, or 1 if there is nothing but zeros."""
    return float(max(values.max(initial=0), -values.min(initial=0))) or 1.0
