"""`reduce`: a 1x1 reduction to r channels in front of the KxK convolution (GoogLeNet, Szegedy et al. 2014).

Data-free: the mode-C unfolding ``W_C`` (C, n*O) ``= U s V^T`` gives ``A = U_r^T`` and ``B = A W_C`` refolded, the
best r-channel bottleneck in Frobenius norm (Eckart and Young 1936).

Data-aware: whiten the channels by their covariance ``Cc = L L^T``, take the left singular vectors of the unfolding of
``W x_C L``, so ``A = U_r^T L^-1`` (as an orthonormal basis of the same row space), then refit the KxK factor
exactly: ``B = Wm S At^T (At S At^T)^-1`` with ``At = I_n (x) A`` and the centred patch covariance S. The mean that
the bottleneck loses goes into the bias: ``b' = b + (Wm - B At) m``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.linalg.spectra import eigh_descending, fractions, gram, orthonormal_rows
from onnxslim1x1.spec import ConvSpec, Factorization, Ineligible, Ints, Spectrum
from onnxslim1x1.strategies.base import (
    Array,
    Decomposition,
    factor,
    kernel_of,
    patch_matrix,
    require_ranks,
)

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments

Matrix = NDArray[np.float64]


class Reduce:
    """1x1 C->r, then KxK r->O with the stride, the padding and the dilation of the original."""

    name = "reduce"

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has no spatial kernel, what is grouped, and what has too few channels to reduce."""
        if spec.transposed:
            return Ineligible(code="transposed", reason="a transposed convolution has no reduction form yet")
        if not spec.kernel:
            return Ineligible(code="dense", reason="a dense layer has no spatial kernel to put a reduction before")
        if spec.is_depthwise:
            return Ineligible(code="depthwise", reason="a depthwise convolution mixes no channels")
        if spec.groups > 1:
            return Ineligible(code="grouped", reason=f"{spec.groups} groups: only ungrouped layers are factorised")
        if spec.is_pointwise:
            return Ineligible(code="pointwise", reason="a 1x1 kernel is the reduction itself")
        if self.max_ranks(spec)[0] < 2:
            return Ineligible(code="few_channels", reason=f"{spec.in_channels} input channel(s) cannot be reduced")
        return None

    def max_ranks(self, spec: ConvSpec) -> Ints:
        """(min(C, n*O),): the rank of the mode-C unfolding."""
        return (min(spec.in_channels, spec.positions * spec.out_channels),)

    def chain(self, spec: ConvSpec, ranks: Ints) -> tuple[ConvSpec, ...]:
        """1x1 at the input resolution without bias (zero padding must stay zero), then the original with C = r."""
        require_ranks(self, spec, ranks)
        (rank,) = ranks
        return (
            spec.pointwise(spec.in_channels, rank, size=spec.in_size, bias=False),
            replace(spec, in_channels=rank, bias=True),
        )

    def decompose(self, spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None) -> Decomposition:
        """See `onnxslim1x1.strategies.base.Strategy.decompose`."""
        if statistics is None:
            return _FromWeights(self, spec, weight, bias)
        return _FromData(self, spec, weight, bias, statistics)


class _FromWeights:
    """Truncated SVD of the mode-C unfolding."""

    def __init__(self, strategy: Reduce, spec: ConvSpec, weight: Array, bias: Array | None) -> None:
        self._strategy, self._spec, self._bias = strategy, spec, bias
        # (O, C, *k) -> (C, O*n)
        self._unfolded = np.asarray(weight, dtype=np.float64).swapaxes(0, 1).reshape(spec.in_channels, -1)
        values, self._basis = eigh_descending(gram(self._unfolded))
        self._spectrum = Spectrum(fractions=fractions(values))

    @property
    def spectrum(self) -> Spectrum:
        return self._spectrum

    def truncate(self, ranks: Ints) -> Factorization:
        first, second = self._strategy.chain(self._spec, ranks)
        down = self._basis[:, : ranks[0]].T  # (r, C)
        up = (down @ self._unfolded).reshape(ranks[0], self._spec.out_channels, *self._spec.kernel).swapaxes(0, 1)
        bias = np.zeros(self._spec.out_channels) if self._bias is None else np.asarray(self._bias, np.float64)
        return Factorization(
            strategy=self._strategy.name,
            ranks=ranks,
            factors=(factor("reduce", first, down), factor("kernel", second, np.ascontiguousarray(up), bias)),
            rel_error=self.error(ranks),
        )

    def error(self, ranks: Ints) -> float:
        require_ranks(self._strategy, self._spec, ranks)
        return math.sqrt(self._spectrum.tail(ranks[0]))


class _FromData:
    """Channel whitening, then the exact refit of the KxK factor and of the bias, for all ranks at once.

    The bases of all ranks are nested: with an orthonormal Q (C, C) whose first r rows span the r leading whitened
    directions, the system of rank r is the leading block of the rotated ``G = Qt S Qt^T`` (columns ordered by
    direction, then position). So are its Cholesky factors: one ``G = L L^T`` and one ``Z = L^-1 Qt S Wm^T`` give the
    error at every rank, ``tr[Wm S Wm^T] - ||Z_r||^2``, and ``B^T = L_r^-T Z_r`` where it is asked for.
    Here S is the covariance with a small ridge, which makes the refit exact at full rank.
    """

    def __init__(self, strategy: Reduce, spec: ConvSpec, weight: Array, bias: Array | None,
                 statistics: Moments) -> None:
        self._strategy, self._spec = strategy, spec
        self._bias = np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)
        self._matrix = patch_matrix(weight)  # (O, n*C)
        self._mean = np.asarray(statistics.mean, dtype=np.float64)
        covariance = statistics.regularized()
        seen = self._matrix @ covariance  # Wm S, (O, n*C)
        self._energy = float(np.sum(seen * self._matrix))  # tr[Wm S Wm^T]
        self._directions, self._spectrum = self._nested_directions(covariance)
        self._factor, self._reached = self._eliminate(covariance, seen)

    @property
    def spectrum(self) -> Spectrum:
        return self._spectrum

    def _nested_directions(self, covariance: Matrix) -> tuple[Matrix, Spectrum]:
        """Orthonormal rows (C, C), most important first, and the whitened spectrum."""
        n, channels = self._spec.positions, self._spec.in_channels
        channel = np.einsum("kckd->cd", covariance.reshape(n, channels, n, channels)) / n
        values, vectors = eigh_descending(channel)
        root = np.sqrt(np.maximum(values, values[0] * 1e-12))
        # (O, n, C) -> (C, O*n), then L^T from the left: the unfolding of W x_C L
        unfolded = self._matrix.reshape(-1, channels).T
        energy, left = eigh_descending(gram((vectors * root).T @ unfolded))
        basis = left.T @ (vectors / root).T  # rows of U^T L^-1
        return orthonormal_rows(basis), Spectrum(fractions=fractions(energy))

    def _eliminate(self, covariance: Matrix, seen: Matrix) -> tuple[Matrix, Matrix]:
        """Cholesky factor L (C*n, C*n) of the rotated covariance, and Z = L^-1 Qt S Wm^T (C*n, O)."""
        from scipy.linalg import cholesky, solve_triangular

        n, channels, q = self._spec.positions, self._spec.in_channels, self._directions
        half = q @ covariance.reshape(n, channels, n * channels)  # (n, C', n*C)
        rotated = (half.reshape(-1, channels) @ q.T).reshape(n, channels, n, channels)
        by_direction = rotated.transpose(1, 0, 3, 2).reshape(n * channels, n * channels)
        target = (seen.reshape(-1, channels) @ q.T).reshape(-1, n, channels).transpose(2, 1, 0)
        lower = cholesky(by_direction, lower=True, overwrite_a=True, check_finite=False)
        reached = solve_triangular(lower, target.reshape(n * channels, -1), lower=True, check_finite=False)
        return lower, reached

    def truncate(self, ranks: Ints) -> Factorization:
        from scipy.linalg import solve_triangular

        first, second = self._strategy.chain(self._spec, ranks)
        (rank,), n = ranks, self._spec.positions
        size = rank * n
        solved = solve_triangular(self._factor[:size, :size], self._reached[:size], trans="T", lower=True,
                                  check_finite=False)  # (r*n, O)
        up = solved.reshape(rank, n, -1).transpose(2, 1, 0).reshape(-1, n * rank)  # (O, n*r), position-major
        down = self._directions[:rank]
        residual = self._matrix - (up.reshape(-1, rank) @ down).reshape(self._matrix.shape)
        return Factorization(
            strategy=self._strategy.name,
            ranks=ranks,
            factors=(factor("reduce", first, down),
                     factor("kernel", second, kernel_of(up, second), self._bias + residual @ self._mean)),
            rel_error=_ratio(float(np.sum(residual**2)), float(np.sum(self._matrix**2))),
            output_rel_error=self.error(ranks),
        )

    def error(self, ranks: Ints) -> float:
        require_ranks(self._strategy, self._spec, ranks)
        reached = float(np.sum(self._reached[: ranks[0] * self._spec.positions] ** 2))
        return _ratio(self._energy - reached, self._energy)


def _ratio(part: float, whole: float) -> float:
    """Square root of a ratio of energies; 0 where there is no energy to lose."""
    return math.sqrt(max(part, 0.0) / whole) if whole > 0 else 0.0
