"""A seam with nothing but channels behind it: the reduced-rank regression (Zhang et al. 2016, section 3.1).

With U and Q the singular vectors of ``K = L^T W^T R``, a wide K (n*C <= O) gives ``A = U_r^T L^-1`` and
``B = W L U_r``, a tall one ``A = Q_r^T R W`` and ``B = R^-1 Q_r``. The sum of the squared singular values that are left
out is the weighted error.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from onnxslim1x1.linalg.spectra import eigh_descending
from onnxslim1x1.strategies.problem import Matrix, Stage
from onnxslim1x1.strategies.unfolding import Blocks, Unfolding, cumulated, eigenvalues


class Closing:
    """A seam with nothing but channels behind it; every rank is solved at once."""

    def __init__(self, stage: Stage, blocks: Blocks) -> None:
        self._stage, self._blocks = stage, blocks
        self.rank = self.capacity = blocks.capacity
        self._tall = blocks.size > stage.outputs

    @cached_property
    def _unfolding(self) -> Unfolding:
        """K, if it is wide."""
        return Unfolding(self._stage.weighted(self._stage.matrix).T, self._stage.covariance())

    def _gram(self) -> Matrix:
        if not self._tall:
            return self._unfolding.gram
        return self._stage.weighted(self._stage.weighted(self._stage.response).T)  # R W S W^T R

    @cached_property
    def _system(self) -> tuple[Matrix, Matrix]:
        return eigh_descending(self._gram())

    @cached_property
    def energies(self) -> Matrix:
        """Squared singular values of K, largest first."""
        return eigenvalues(self._gram()) if self._stage.weighting is None else self._system[0]

    @cached_property
    def kept(self) -> list[float]:
        """||W L u||^2 = energy * ||R^-1 q||^2, summed for every rank; needs no eigenvectors without a weighting."""
        if self._stage.weighting is None:
            return cumulated(self.energies)
        lengths = (self._up**2).sum(axis=0, dtype=np.float64)
        return cumulated(self.energies * lengths if self._tall else lengths)

    @cached_property
    def kept_weighted(self) -> list[float]:
        """Sum of the energies for every rank."""
        return cumulated(self.energies)

    @cached_property
    def _up(self) -> Matrix:
        """B at the largest rank (O, r)."""
        vectors = self._system[1]
        if self._tall:
            return self._stage.unweighted(vectors)
        lower = self._unfolding.lower
        product: Matrix = self._stage.matrix @ (vectors if lower is None else lower @ vectors)
        return product

    def _down(self, rank: int) -> tuple[Matrix, Matrix]:
        """A (r, n*C), its rows of any length, and their lengths, 1 where one is zero."""
        vectors = self._system[1][:, :rank]
        rows = vectors.T @ self._stage.weighted(self._stage.matrix) if self._tall else self._unfolding.whitened(vectors)
        lengths: Matrix = np.linalg.norm(rows, axis=1)
        return rows, np.where(lengths > 0, lengths, 1.0)

    def front(self, rank: int) -> Matrix:
        """A (r, n*C)."""
        return self.factors(rank)[0]

    def factors(self, rank: int) -> tuple[Matrix, Matrix]:
        """A (r, n*C) and B (O, 1, r).

        The rows of A have length 1: at the scale of R they could be too small for half precision.
        """
        rows, lengths = self._down(rank)
        scaled: Matrix = self._up[:, :rank] * lengths
        return rows / lengths[:, None], scaled[:, None]

    def composed(self, first: Matrix, second: Matrix) -> Matrix:
        """Kernel (O, n, C) of A and B."""
        return self._blocks.composed(first, second)

    def rest(self, rank: int) -> Stage:
        """There is none.

        Raises:
            NotImplementedError: always, since a factor of channels alone needs no further seam.
        """
        raise NotImplementedError
