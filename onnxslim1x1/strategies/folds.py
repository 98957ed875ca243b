"""What all families share: two convolutions in a row, from one spectral decomposition of one fold of the kernel.

The kernel axes are divided: the first factor covers the channels and some axes, the second covers the other axes.
None for the first is `reduce` (1x1, then KxK), all is `expand` (KxK, then 1x1), one is `spatial` (Kx1, then 1xK).
With the patch vector x ordered (position p of the second factor, block b of the first) the chain computes
``B (I_P (x) A) x`` with A (r, B) and B (O, P*r).

Data-aware: whiten the blocks by their covariance ``Cb = mean_p S_pp = L L^T``; the left singular vectors of the
unfolding of ``R W x_b L`` give ``A = U_r^T L^-1``, where R is the root of the output weighting (identity without).
The second factor is then the exact least-squares fit, which does not depend on R.

All ranks at once: with an orthonormal Q whose first r rows span the r leading directions, the normal equations of
rank r are the leading block of the rotated ``G = Qt S Qt^T`` (ordered by direction, then position). So are its
Cholesky factors: one ``G = L L^T`` and one ``Z = L^-1 Qt S W^T`` give the error at every rank,
``||W S^1/2||^2 - ||Z_r||^2``, and ``B^T = L_r^-T Z_r``. S carries a small ridge, which makes the fit exact at full
rank. Without data S is the identity.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxslim1x1.linalg.spectra import eigh_descending, fractions, gram, orthonormal_rows
from onnxslim1x1.spec import ConvSpec, Factorization, Ineligible, Ints, Spectrum
from onnxslim1x1.strategies.base import (
    Array,
    Decomposition,
    chain_cost,
    divided_chain,
    factor,
    kernel_of,
    require_ranks,
)
from onnxslim1x1.strategies.problem import LayerProblem, Matrix

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting


class TwoFactors:
    """Families of two convolutions that divide the kernel axes; `first_axes` says how."""

    name: str
    roles: tuple[str, str]

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Why the family cannot serve this geometry, or None."""
        raise NotImplementedError

    def first_axes(self, spec: ConvSpec) -> Ints:
        """Kernel axes that the first factor covers."""
        raise NotImplementedError

    def max_ranks(self, spec: ConvSpec) -> Ints:
        """(min(B, O*P),): the rank of the fold."""
        blocks = _Blocks(spec, self.first_axes(spec))
        return (min(blocks.size, spec.out_channels * blocks.positions),)

    def chain(self, spec: ConvSpec, ranks: Ints) -> tuple[ConvSpec, ...]:
        """Each factor keeps stride, padding and dilation on its own axes."""
        require_ranks(self, spec, ranks)
        return divided_chain(spec, self.first_axes(spec), ranks[0])

    def decompose(self, spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None, weighting: OutputWeighting | None = None) -> Decomposition:
        """See `onnxslim1x1.strategies.base.Strategy.decompose`."""
        problem = LayerProblem(spec, weight, bias, statistics=statistics, weighting=weighting)
        return _Fold(self, problem)


class _Fold:
    """All ranks of one fold; solved up to the break-even rank first, further only if that is asked for."""

    def __init__(self, family: TwoFactors, problem: LayerProblem) -> None:
        self._family, self._problem = family, problem
        self._limit = _break_even(family, problem.spec)
        self._solution = FoldSolution(problem, family.first_axes(problem.spec), self._limit)

    @property
    def spectrum(self) -> Spectrum:
        return Spectrum(fractions=fractions(self._solution.energies))

    def error(self, ranks: Ints) -> float:
        return self._problem.error(self._solved(ranks).kept[ranks[0]])

    def loss(self, ranks: Ints) -> float:
        return self._problem.loss(self._solved(ranks).kept_weighted[ranks[0]])

    def truncate(self, ranks: Ints) -> Factorization:
        solution, problem, spec = self._solved(ranks), self._problem, self._problem.spec
        (rank,) = ranks
        first, second = self._family.chain(spec, ranks)
        down, up = solution.directions[:rank], solution.second(rank)  # (r, B), (O, P, r)
        composed = solution.blocks.unordered(np.einsum("opr,rb->opb", up, down, optimize=True))
        rel_error, output_rel_error = problem.errors(composed, solution.kept[rank])
        return Factorization(
            strategy=self._family.name,
            ranks=ranks,
            factors=(factor(self._family.roles[0], first, kernel_of(down, first)),
                     factor(self._family.roles[1], second, kernel_of(up, second), problem.shifted_bias(composed))),
            rel_error=rel_error,
            output_rel_error=output_rel_error,
        )

    def _solved(self, ranks: Ints) -> FoldSolution:
        """The solution, extended to all ranks if `ranks` lies beyond what it holds."""
        require_ranks(self._family, self._problem.spec, ranks)
        if ranks[0] > self._limit:
            (self._limit,) = self._family.max_ranks(self._problem.spec)
            self._solution = FoldSolution(self._problem, self._family.first_axes(self._problem.spec), self._limit)
        return self._solution


def _break_even(family: TwoFactors, spec: ConvSpec) -> int:
    """Rank from which on a chain has as many parameters as the original, at least 1."""
    per_rank = chain_cost(family.chain(replace(spec, in_size=spec.kernel, auto_pad="VALID"), (1,))).params
    limit = spec.params // max(per_rank - spec.out_channels, 1) + 1
    return max(1, min(limit, family.max_ranks(spec)[0]))


class FoldSolution:
    """Directions, Cholesky factor and reached targets of one fold, up to a rank.

    Attributes:
        directions: orthonormal rows (r, B), most important first.
        energies: whitened energy per direction, of all directions.
        lower: Cholesky factor (r*P, r*P), or None without data.
        reached: Z (r*P, O).
        kept: energy ||Z_r||^2 that a chain reproduces, for every rank from 0 on.
        kept_weighted: ||Z_r R||^2.
    """

    def __init__(self, problem: LayerProblem, first_axes: Ints, rank: int) -> None:
        self.blocks = _Blocks(problem.spec, first_axes)
        matrix = self.blocks.rows(problem.matrix)  # (O, P, B)
        covariance = None if problem.covariance is None else self.blocks.square(problem.covariance)  # (P, B, P, B)
        self.directions, self.energies = _directions(problem, matrix, covariance, rank)
        self.lower, self.reached = _eliminate(self.directions, covariance, self.blocks.rows(problem.seen))
        self.kept = self._cumulated(self.reached)
        self.kept_weighted = self._cumulated(problem.weighted(self.reached.T).T)

    def _cumulated(self, reached: Matrix) -> list[float]:
        per_direction = (reached**2).sum(axis=1).reshape(-1, self.blocks.positions).sum(axis=1)
        return [0.0, *per_direction.cumsum().tolist()]

    def second(self, rank: int) -> Matrix:
        """Second factor (O, P, r) behind the first `rank` directions."""
        positions = self.blocks.positions
        size = rank * positions
        solved = self.reached[:size]
        if self.lower is not None:
            from scipy.linalg import solve_triangular

            solved = solve_triangular(self.lower[:size, :size], solved, trans="T", lower=True, check_finite=False)
        return solved.reshape(rank, positions, -1).transpose(2, 1, 0)


class _Blocks:
    """Reordering of patches (positions, channels) into (position of the second factor, block of the first)."""

    def __init__(self, spec: ConvSpec, first_axes: Ints) -> None:
        axes = len(spec.kernel)
        self._shape = (*spec.kernel, spec.in_channels)
        rest = tuple(a for a in range(axes) if a not in first_axes)
        self._order = (*rest, *first_axes, axes)
        self.positions = math.prod(spec.kernel[a] for a in rest)
        self.size = math.prod(spec.kernel[a] for a in first_axes) * spec.in_channels

    def rows(self, matrix: Matrix) -> Matrix:
        """(m, n*C) -> (m, P, B)."""
        shaped = matrix.reshape(-1, *self._shape).transpose(0, *(a + 1 for a in self._order))
        return np.ascontiguousarray(shaped).reshape(len(matrix), self.positions, self.size)

    def unordered(self, matrix: Matrix) -> Matrix:
        """(m, P, B) -> (m, n*C): the inverse of `rows`."""
        shaped = matrix.reshape(len(matrix), *(self._shape[a] for a in self._order))
        back = np.argsort(self._order)
        return np.ascontiguousarray(shaped.transpose(0, *(int(a) + 1 for a in back))).reshape(len(matrix), -1)

    def square(self, matrix: Matrix) -> Matrix:
        """(n*C, n*C) -> (P, B, P, B)."""
        if self._order == tuple(range(len(self._order))):
            return matrix.reshape(self.positions, self.size, self.positions, self.size)
        width = len(self._order)
        shaped = matrix.reshape(*self._shape, *self._shape)
        shaped = shaped.transpose(*self._order, *(a + width for a in self._order))
        return np.ascontiguousarray(shaped).reshape(self.positions, self.size, self.positions, self.size)


def _directions(problem: LayerProblem, matrix: Matrix, covariance: Matrix | None,
                rank: int) -> tuple[Matrix, Matrix]:
    """Orthonormal rows (rank, B) and the whitened energies (B,), largest first."""
    size = matrix.shape[2]
    unfolded = problem.weighted(matrix.reshape(len(matrix), -1)).reshape(-1, size).T  # (B, O*P)
    if covariance is None:
        energy, left = eigh_descending(gram(unfolded))
        return np.ascontiguousarray(left.T[:rank]), energy
    block = np.einsum("kckd->cd", covariance) / matrix.shape[1]
    values, vectors = eigh_descending(block)
    root = np.sqrt(np.maximum(values, values[0] * 1e-12))
    energy, left = eigh_descending(gram((vectors * root).T @ unfolded))
    return orthonormal_rows((left[:, :rank].T / root) @ vectors.T), energy


def _eliminate(directions: Matrix, covariance: Matrix | None, seen: Matrix) -> tuple[Matrix | None, Matrix]:
    """Cholesky factor of the rotated covariance (None without data), and Z."""
    rank, (outputs, positions, size) = len(directions), seen.shape
    rotated_seen = (seen.reshape(-1, size) @ directions.T).reshape(outputs, positions, rank)
    target = np.ascontiguousarray(rotated_seen.transpose(2, 1, 0)).reshape(rank * positions, outputs)
    if covariance is None:
        return None, target
    from scipy.linalg import cholesky, solve_triangular

    half = directions @ covariance.reshape(positions, size, positions * size)  # (P, r, P*B)
    rotated = (half.reshape(-1, size) @ directions.T).reshape(positions, rank, positions, rank)
    by_direction = np.ascontiguousarray(rotated.transpose(1, 0, 3, 2)).reshape(rank * positions, rank * positions)
    lower = cholesky(by_direction, lower=True, overwrite_a=True, check_finite=False)
    return lower, solve_triangular(lower, target, lower=True, check_finite=False)
