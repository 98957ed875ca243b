"""A seam with kernel positions behind it: directions from the spectrum, then the least-squares fit for all ranks.

The normal equations of rank r are the leading block of the rotated ``G = At S At^T`` with ``At = I_P (x) A`` (ordered
by direction, then position). So are its Cholesky factors: one ``G = L L^T`` and one ``Z = L^-1 At S W^T`` give the
energy that is kept at every rank, ``||Z_r||^2``, and the fit ``B^T = L_r^-T Z_r``. S carries a small ridge; without
data it is the identity, and so is G.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxslim1x1.linalg.spectra import eigh_descending, gram
from onnxslim1x1.strategies.problem import Matrix, Stage
from onnxslim1x1.strategies.unfolding import Blocks, Unfolding, cumulated, eigenvalues


class Normal:
    """Normal equations of all ranks: G (m, m) and its Cholesky factor L, in one matrix."""

    def __init__(self, matrix: Matrix) -> None:
        from scipy.linalg import cho_factor

        self._diagonal = matrix.diagonal().copy()
        # LAPACK's potrf writes one triangle and leaves the other alone, so G stays there
        factor, _ = cho_factor(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        self._factor: Matrix = factor

    def leading(self, size: int) -> Matrix:
        """The leading block of G (size, size)."""
        upper = np.triu(self._factor[:size, :size], 1)
        return upper + upper.T + np.diag(self._diagonal[:size])

    def solved(self, rows: Matrix, *, transposed: bool = False) -> Matrix:
        """L_r^-1 rows, or L_r^-T rows, for rows (r, k) and the leading block of that size."""
        from scipy.linalg import solve_triangular

        lower = self._factor[: len(rows), : len(rows)]
        found: Matrix = solve_triangular(lower, rows, trans="T" if transposed else "N", lower=True, check_finite=False)
        return found


class Solution(NamedTuple):
    """A fold up to a rank: energies, A (r, B), At S W^T (r*P, O), Z (r*P, O), G or None for the identity."""

    energies: Matrix
    directions: Matrix
    target: Matrix
    reached: Matrix
    normal: Normal | None


class Fold:
    """A seam with kernel positions behind it, solved up to a rank when that is first needed."""

    def __init__(self, stage: Stage, blocks: Blocks, *, rank: int) -> None:
        self._stage, self._blocks = stage, blocks
        self.rank, self.capacity = rank, blocks.capacity
        self._solved: Solution | None = None

    @property
    def solution(self) -> Solution:
        """Solved when it is first asked for."""
        if self._solved is None:
            self._solved = self._solve()
        return self._solved

    def _solve(self) -> Solution:
        flat = self._stage.covariance()
        covariance = None if flat is None else self._blocks.square(flat)
        unfolding = self._unfolding(covariance)
        energies, vectors = eigh_descending(unfolding.gram)
        directions = unfolding.directions(vectors[:, : self.rank])
        target = _rotated_rows(directions, self._blocks.rows(self._stage.seen))
        if covariance is None:
            return Solution(energies, directions, target, target, None)
        normal = Normal(_rotated(directions, covariance))
        return Solution(energies, directions, target, normal.solved(target), normal)

    def _unfolding(self, covariance: Matrix | None) -> Unfolding:
        rows = self._blocks.rows(self._stage.weighted(self._stage.matrix)).reshape(-1, self._blocks.size).T
        return Unfolding(rows, None if covariance is None else (
            np.einsum("kckd->cd", covariance) / self._blocks.positions))

    @cached_property
    def energies(self) -> Matrix:
        """Squared singular values of K, largest first."""
        if self._stage.plain and self._solved is None:
            return eigenvalues(self._unfolding(None).gram)
        return self.solution.energies

    @cached_property
    def kept(self) -> list[float]:
        """||Z_r||^2 for every rank; from weights alone the sum of the energies, which needs no directions."""
        return cumulated(self.energies[: self.rank]) if self._stage.plain else self._summed(self.solution.reached)

    @cached_property
    def kept_weighted(self) -> list[float]:
        """||Z_r R||^2 for every rank."""
        if self._stage.weighting is None:
            return self.kept
        return self._summed(self._stage.weighted(self.solution.reached.T).T)

    def _summed(self, reached: Matrix) -> list[float]:
        energies = np.einsum("ij,ij->i", reached, reached).astype(np.float64)
        return cumulated(energies.reshape(-1, self._blocks.positions).sum(axis=1))

    def front(self, rank: int) -> Matrix:
        """A (r, B)."""
        return self.solution.directions[:rank]

    def factors(self, rank: int) -> tuple[Matrix, Matrix]:
        """A (r, B) and B (O, P, r)."""
        return self.front(rank), self.fit(rank)

    def fit(self, rank: int) -> Matrix:
        """B as (O, P, r)."""
        behind, normal = self.solution.reached[: rank * self._blocks.positions], self.solution.normal
        if normal is not None:
            behind = normal.solved(behind, transposed=True)
        return np.ascontiguousarray(behind.reshape(rank, self._blocks.positions, -1).transpose(2, 1, 0))

    def composed(self, first: Matrix, second: Matrix) -> Matrix:
        """Kernel (O, n, C) of A and B."""
        return self._blocks.composed(first, second)

    def rest(self, rank: int) -> Stage:
        """The stage behind A."""
        return Rest(self, self._stage, blocks=self._blocks, rank=rank)


def _rotated_rows(directions: Matrix, rows: Matrix) -> Matrix:
    """At x for x (O, P, B), as (r*P, O)."""
    rotated = (rows.reshape(-1, rows.shape[2]) @ directions.T).reshape(*rows.shape[:2], -1)
    return np.ascontiguousarray(rotated.transpose(2, 1, 0)).reshape(-1, len(rows))


def _rotated(directions: Matrix, covariance: Matrix) -> Matrix:
    """At S At^T (r*P, r*P), ordered by direction, then position; half of the products follow from the symmetry."""
    (rank, size), positions = directions.shape, len(covariance)
    rotated = np.empty((rank, positions, rank, positions), dtype=covariance.dtype)
    for p in range(positions):
        half = directions @ covariance[p, :, : p + 1].reshape(size, -1)  # (r, (p+1)*B)
        block = (half.reshape(-1, size) @ directions.T).reshape(rank, p + 1, rank).transpose(0, 2, 1)
        rotated[:, p, :, : p + 1] = block
        rotated[:, :p, :, p] = block[:, :, :p].transpose(1, 2, 0)
    return rotated.reshape(rank * positions, rank * positions)


class Rest(Stage):
    """What is behind a fold at a rank: its B under the rotated covariance G."""

    def __init__(self, fold: Fold, front: Stage, *, blocks: Blocks, rank: int) -> None:
        super().__init__(blocks.kernel_behind, rank, outputs=front.outputs, weighting=front.weighting,
                         data=fold.solution.normal is not None)
        self._fold, self._solution = fold, fold.solution
        self._shape = (rank, blocks.positions)
        self._size = rank * blocks.positions

    @cached_property
    def matrix(self) -> Matrix:
        """B (O, P*r)."""
        return self._fold.fit(self.channels).reshape(self.outputs, -1)

    @property
    def seen(self) -> Matrix:
        """B G (O, P*r), which is W S At^T."""
        target = self._solution.target[: self._size].reshape(*self._shape, -1)
        return np.ascontiguousarray(target.transpose(2, 1, 0)).reshape(self.outputs, -1)

    @property
    def response(self) -> Matrix:
        """B G B^T = Z^T Z (O, O)."""
        return gram(self._solution.reached[: self._size].T)

    def covariance(self) -> Matrix | None:
        """G (P*r, P*r), or None for the identity."""
        if self._solution.normal is None:
            return None
        by_direction = self._solution.normal.leading(self._size).reshape(*self._shape, *self._shape)
        return np.ascontiguousarray(by_direction.transpose(1, 0, 3, 2)).reshape(self._size, self._size)
