"""One seam between two factors: the spectral work that every family is made of.

A seam divides the patches x of a stage, ordered (position p of what is behind, block b of the factor in front), as in
``F x = B (I_P (x) A) x`` with A (r, B), the factor in front, and B (O, P*r), what is behind. A has the leading
directions of the unfolding ``K = L^T (R W)^T`` (B, O*P), where ``L L^T`` is the covariance of the blocks, averaged over
the positions, and R the root of the output weighting (both the identity where there is none): ``A = U_r^T L^-1`` with U
the left singular vectors of K. With Q the right ones the same rows are ``Q_r^T (R W)^T`` up to their length, so only
the smaller Gram matrix of K is decomposed (`Unfolding`).

B is the exact least-squares fit behind A, which does not depend on R (`Fold`). Where nothing but channels is behind
(P = 1), both together have a closed form, the reduced-rank regression (`Closing`).

What is behind the seam is a smaller stage of its own (`Rest`): the kernel B under the covariance of ``(I_P (x) A) x``.
By the theorem of Pythagoras, what a factorisation of B keeps there is what the whole chain keeps, so that chains of any
length are one seam after the other.
"""

from __future__ import annotations

from typing import Protocol

from onnxslim1x1.spec import Ints
from onnxslim1x1.strategies.closing import Closing
from onnxslim1x1.strategies.folds import Fold
from onnxslim1x1.strategies.problem import Matrix, Stage
from onnxslim1x1.strategies.unfolding import Blocks


class Seam(Protocol):
    """All ranks of one seam, up to `rank`; from `capacity` on nothing is gained."""

    @property
    def rank(self) -> int:
        """Largest rank that is solved."""
        ...

    @property
    def capacity(self) -> int:
        """Largest rank of K, min(B, O*P)."""
        ...

    @property
    def energies(self) -> Matrix:
        """Squared singular values of K, largest first."""
        ...

    @property
    def kept(self) -> list[float]:
        """Energy that the chain reproduces at ranks 0 to `rank`, if B stays whole."""
        ...

    @property
    def kept_weighted(self) -> list[float]:
        """The same of outputs that are multiplied by R."""
        ...

    def front(self, rank: int) -> Matrix:
        """A (r, B)."""
        ...

    def factors(self, rank: int) -> tuple[Matrix, Matrix]:
        """A (r, B) and B (O, P, r)."""
        ...

    def composed(self, first: Matrix, second: Matrix) -> Matrix:
        """Kernel (O, n, C) of A and B."""
        ...

    def rest(self, rank: int) -> Stage:
        """The stage behind A."""
        ...


def solved_seam(stage: Stage, axes: Ints, *, rank: int, more: bool) -> Seam:
    """The seam behind a factor that covers the channels and some kernel axes, solved at least up to a rank.

    With `more`, as far as two factors have fewer parameters than one, so that other ranks need no other seam.
    """
    blocks = Blocks(stage.kernel, stage.channels, axes=axes, outputs=stage.outputs)
    if blocks.positions == 1:
        return Closing(stage, blocks)
    if more:
        rank = blocks.break_even if rank <= blocks.break_even else blocks.capacity
    return Fold(stage, blocks, rank=min(rank, blocks.capacity))
