"""`reduce`: a 1x1 reduction to r channels in front of the KxK convolution (GoogLeNet, Szegedy et al. 2014).

Data-free: the mode-C unfolding ``W_C`` (C, n*O) ``= U s V^T`` gives ``A = U_r^T`` and ``B = A W_C`` refolded, the best
r-channel bottleneck in Frobenius norm (Eckart and Young 1936).

Data-aware: whiten the channels by their covariance ``Cc = L L^T``, take the left singular vectors of the unfolding of
``W x_C L``, so ``A = U_r^T L^-1`` (as an orthonormal basis of the same row space), then refit the KxK factor exactly:
``B = Wm S At^T (At S At^T)^-1`` with ``At = I_n (x) A`` and the centred patch covariance S. The mean that the
bottleneck loses goes into the bias: ``b' = b + (Wm - B At) m``.
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
            rel_error=math.sqrt(self._spectrum.tail(ranks[0])),
        )


class _FromData:
    """Channel whitening, then the exact refit of the KxK factor and of the bias."""

    def __init__(self, strategy: Reduce, spec: ConvSpec, weight: Array, bias: Array | None,
                 statistics: Moments) -> None:
        self._strategy, self._spec = strategy, spec
        self._bias = np.zeros(spec.out_channels) if bias is None else np.asarray(bias, dtype=np.float64)
        self._matrix = patch_matrix(weight)  # (O, n*C)
        self._mean = np.asarray(statistics.mean, dtype=np.float64)
        self._covariance = np.asarray(statistics.covariance, dtype=np.float64)
        self._ridge = statistics.ridge
        self._seen = self._matrix @ self._covariance  # Wm S, (O, n*C)
        self._energy = float(np.sum(self._seen * self._matrix))  # tr[Wm S Wm^T]
        self._basis, self._spectrum = self._channel_basis()

    @property
    def spectrum(self) -> Spectrum:
        return self._spectrum

    def _channel_basis(self) -> tuple[Matrix, Spectrum]:
        """Rows of U^T L^-1 (C, C), most important first, and the whitened spectrum."""
        n, channels = self._spec.positions, self._spec.in_channels
        blocks = self._covariance.reshape(n, channels, n, channels)
        channel = np.einsum("kckd->cd", blocks) / n + self._ridge * np.eye(channels)
        values, vectors = eigh_descending(channel)
        root = np.sqrt(np.maximum(values, self._ridge))
        # (O, n, C) -> (C, O*n), then L^T from the left: the unfolding of W x_C L
        unfolded = self._matrix.reshape(-1, channels).T
        energy, left = eigh_descending(gram((vectors * root).T @ unfolded))
        return left.T @ (vectors / root).T, Spectrum(fractions=fractions(energy))

    def truncate(self, ranks: Ints) -> Factorization:
        first, second = self._strategy.chain(self._spec, ranks)
        down = orthonormal_rows(self._basis[: ranks[0]])  # (r, C)
        up, output_rel_error = self._refit(down)
        composed = (up.reshape(-1, len(down)) @ down).reshape(len(up), -1)  # B At
        residual = self._matrix - composed
        return Factorization(
            strategy=self._strategy.name,
            ranks=ranks,
            factors=(factor("reduce", first, down),
                     factor("kernel", second, kernel_of(up, second), self._bias + residual @ self._mean)),
            rel_error=_ratio(float(np.sum(residual**2)), float(np.sum(self._matrix**2))),
            output_rel_error=output_rel_error,
        )

    def _refit(self, down: Matrix) -> tuple[Matrix, float]:
        """Best (O, n*r) kernel behind `down` under S + ridge*I, and its error under S alone."""
        from scipy.linalg import cho_factor, cho_solve

        n, (rank, channels) = self._spec.positions, down.shape
        half = down @ self._covariance.reshape(n, channels, n * channels)  # At S, (n, r, n*C)
        reduced = (half.reshape(-1, channels) @ down.T).reshape(n * rank, n * rank)  # At S At^T
        target = (self._seen.reshape(-1, channels) @ down.T).reshape(-1, n * rank)  # Wm S At^T
        pulled = (self._matrix.reshape(-1, channels) @ down.T).reshape(-1, n * rank)  # Wm At^T
        regular = reduced + self._ridge * np.eye(n * rank)
        up = cho_solve(cho_factor(regular), (target + self._ridge * pulled).T).T
        lost = self._energy - 2 * float(np.sum(up * target)) + float(np.sum((up @ reduced) * up))
        return up, _ratio(lost, self._energy)


def _ratio(part: float, whole: float) -> float:
    """Square root of a ratio of energies; 0 where there is no energy to lose."""
    return math.sqrt(max(part, 0.0) / whole) if whole > 0 else 0.0
