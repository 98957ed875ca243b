"""How redundant a layer is: how many directions carry its response, before any family is chosen.

The response of a layer to a patch x is ``W x``, its energy ``E||W x||^2 = tr[W S W^T]`` with S the covariance of the
patches on calibration images, or the identity where there are none (the squared weights). A curve says which share of
it the best subspace of r directions that a seam finds carries, for every r; `onnxslim1x1.strategies.seams` has the
seams. So a curve and the error of a family on that seam are one thing: ``error = sqrt(1 - kept)``.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

SHARES = (0.9, 0.99, 0.999)  # of the energy that tables and JSON give the number of directions for

_ROUNDING = 1e-9  # of the energy: eigenvalues of float32 weights are not exact to more


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyCurve:
    """What the leading directions of a space carry of the response energy.

    Attributes:
        size: how many directions the space has.
        kept: ``kept[r - 1]`` is the share that r directions carry: it never falls, and ends with 1. It may be shorter
            than `size`, since W has no higher rank.
    """

    size: int
    kept: tuple[float, ...]

    def directions(self, share: float) -> int:
        """The least number of directions that carry a share of the energy, in 1..len(kept)."""
        return min(bisect_left(self.kept, share - _ROUNDING), len(self.kept) - 1) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpectra:
    """Curves of one layer; None where there is nothing to divide.

    Attributes:
        inputs: directions of the C input channels, the same for all kernel positions: what `reduce` divides.
        outputs: directions of the O output channels: what `expand` divides.
        positions: patterns over the n kernel positions that all pairs of channels share; None for a kernel of ones.
        separable: seam between the first kernel axis longer than 1 and the others: what `spatial` divides; None where
            the kernel extends along fewer than two axes.
    """

    inputs: EnergyCurve | None
    outputs: EnergyCurve | None
    positions: EnergyCurve | None
    separable: EnergyCurve | None
