"""`expand`: the KxK convolution to r channels, then a 1x1 expansion (Zhang et al. 2016, section 3.1).

The optimum has a closed form: with U the r leading eigenvectors of ``R W S W^T R`` the chain is ``U^T R W``, then
``R^-1 U`` (reduced-rank regression); the error at every rank is the tail of the eigenvalues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxslim1x1.linalg.spectra import eigh_descending, fractions
from onnxslim1x1.spec import ConvSpec, Factorization, Ineligible, Ints, Spectrum
from onnxslim1x1.strategies.base import (
    Array,
    Decomposition,
    divided_chain,
    factor,
    kernel_of,
    require_ranks,
    spatial_refusal,
)
from onnxslim1x1.strategies.problem import LayerProblem, Matrix

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting


class Expand:
    """KxK C->r with the stride, the padding and the dilation of the original, then 1x1 r->O."""

    name = "expand"

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Decline what has no spatial kernel, what is grouped, and what has one output channel."""
        refusal = spatial_refusal(spec)
        if refusal is None and self.max_ranks(spec)[0] < 2:
            refusal = Ineligible(code="few_channels", reason=f"{spec.out_channels} output channel(s) have no rank")
        return refusal

    def max_ranks(self, spec: ConvSpec) -> Ints:
        """(min(O, n*C),)."""
        return (min(spec.out_channels, spec.patch),)

    def chain(self, spec: ConvSpec, ranks: Ints) -> tuple[ConvSpec, ...]:
        """Only the last factor has a bias."""
        require_ranks(self, spec, ranks)
        return divided_chain(spec, tuple(range(len(spec.kernel))), ranks[0])

    def decompose(self, spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None, weighting: OutputWeighting | None = None) -> Decomposition:
        """See `onnxslim1x1.strategies.base.Strategy.decompose`."""
        return _Expansion(self, LayerProblem(spec, weight, bias, statistics=statistics, weighting=weighting))


class _Expansion:
    """All ranks of one layer."""

    def __init__(self, family: Expand, problem: LayerProblem) -> None:
        self._family, self._problem = family, problem
        weighted = problem.weighted(problem.weighted(problem.response).T)  # R W S W^T R
        self._energies, self._basis = eigh_descending(weighted)
        self._up: Matrix = self._basis
        if problem.weighting is not None:
            self._up = np.linalg.solve(problem.weighting, self._basis).astype(np.float64)
        # W - F = R^-1 (I - U U^T) R W, so what is lost is the sum of energy * ||R^-1 u||^2 over the other directions
        lost = (self._energies * (self._up**2).sum(axis=0))[::-1].cumsum()[::-1]
        self._kept = [problem.energy - x for x in (*lost.tolist(), 0.0)]
        self._kept_weighted = [0.0, *self._energies.cumsum().tolist()]

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(fractions=fractions(self._energies))

    def error(self, ranks: Ints) -> float:
        require_ranks(self._family, self._problem.spec, ranks)
        return self._problem.error(self._kept[ranks[0]])

    def loss(self, ranks: Ints) -> float:
        require_ranks(self._family, self._problem.spec, ranks)
        return self._problem.loss(self._kept_weighted[ranks[0]])

    def truncate(self, ranks: Ints) -> Factorization:
        problem = self._problem
        first, second = self._family.chain(problem.spec, ranks)
        (rank,) = ranks
        up = self._up[:, :rank]
        down = self._basis[:, :rank].T @ problem.weighted(problem.matrix)
        composed = up @ down
        rel_error, output_rel_error = problem.errors(composed, self._kept[rank])
        return Factorization(
            strategy=self._family.name,
            ranks=ranks,
            factors=(factor("kernel", first, kernel_of(down, first)),
                     factor("expand", second, kernel_of(up, second), problem.shifted_bias(composed))),
            rel_error=rel_error,
            output_rel_error=output_rel_error,
        )
