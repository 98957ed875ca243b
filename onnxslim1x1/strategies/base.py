"""The protocol that every family of factorisations follows.

A family splits one convolution into a chain. `chain` gives the specs of the factors for given ranks, so costs need
no weights; `decompose` does the spectral work once, and the `Decomposition` answers for every rank.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import RankError
from onnxslim1x1.spec import EXPLICIT_PADS, ConvFactor, ConvSpec, Cost, Factorization, Ineligible, Ints, Spectrum

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments
    from onnxslim1x1.linalg.weighting import OutputWeighting

Array = NDArray[Any]


class Decomposition(Protocol):
    """A factorised weight before the choice of ranks."""

    @property
    def spectrum(self) -> Spectrum:
        """Energy per direction of the seam, of the weights or, with data, of the outputs."""
        ...

    def error(self, ranks: Ints) -> float:
        """Relative error at `ranks`, of the outputs where data was given, else of the weights; cheap.

        Raises:
            RankError: a rank is out of range.
        """
        ...

    def loss(self, ranks: Ints) -> float:
        """Predicted loss of the network at `ranks` with an output weighting, else the squared error; cheap.

        Raises:
            RankError: a rank is out of range.
        """
        ...

    def truncate(self, ranks: Ints) -> Factorization:
        """Factors at `ranks`.

        Raises:
            RankError: a rank is out of range.
        """
        ...


class Strategy(Protocol):
    """One family of factorisations."""

    @property
    def name(self) -> str:
        """Name in plans, tables and JSON."""
        ...

    @property
    def needs_data(self) -> bool:
        """Whether the family is worth trying only where the layer's inputs are known."""
        ...

    def __hash__(self) -> int:
        """Results for a geometry are remembered by family."""
        ...

    def check(self, spec: ConvSpec) -> Ineligible | None:
        """Why the family cannot serve this geometry, or None."""
        ...

    def max_ranks(self, spec: ConvSpec) -> Ints:
        """The ranks at which the chain equals the original."""
        ...

    def chain(self, spec: ConvSpec, ranks: Ints) -> tuple[ConvSpec, ...]:
        """Specs of the factors in the order of execution."""
        ...

    def decompose(self, spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None, weighting: OutputWeighting | None = None, *,
                  draft: bool = False) -> Decomposition:
        """Do the work that all ranks share.

        Args:
            spec: the layer.
            weight: kernel of shape ``spec.weight_shape``.
            bias: (O,) or None.
            statistics: moments of the input patches (see `patch_matrix` for their order), or None for a
                factorisation of the weights alone.
            weighting: how much the loss depends on each output direction, or None for equally.
            draft: whether single precision will do, which takes half the time: good to choose by. Errors are then
                told from 0.003 on.

        Raises:
            numpy.linalg.LinAlgError: the statistics are too ill-conditioned for a draft.
        """
        ...

    def least_error(self, spec: ConvSpec, weight: Array, rank: int, *, enough: float) -> float:
        """Lower bound of the relative error of the weights at a rank, in a fraction of the time of `decompose`.

        Args:
            spec: the layer.
            weight: kernel of shape ``spec.weight_shape``.
            rank: of the only seam.
            enough: a bound from which on no better one is looked for.

        Returns:
            At most the error of ``decompose(spec, weight)`` at that rank; 0 where nothing can be said.
        """
        ...


def channel_refusal(spec: ConvSpec) -> Ineligible | None:
    """Why no family at all can serve a geometry, or None."""
    if spec.transposed:
        return Ineligible(code="transposed", reason="a transposed convolution has no such factorisation yet")
    if spec.is_depthwise:
        return Ineligible(code="depthwise", reason="a depthwise convolution mixes no channels")
    if spec.groups > 1:
        return Ineligible(code="grouped", reason=f"{spec.groups} groups: only ungrouped layers are factorised")
    return None


def spatial_refusal(spec: ConvSpec) -> Ineligible | None:
    """Why no family that divides a spatial kernel can serve a geometry, or None."""
    if not spec.kernel:
        return Ineligible(code="dense", reason="a dense layer has no spatial kernel to divide")
    refusal = channel_refusal(spec)
    if refusal is None and spec.is_pointwise:
        refusal = Ineligible(code="pointwise", reason="a 1x1 kernel has no positions to divide")
    return refusal


@lru_cache(maxsize=8192)  # networks repeat their geometries
def divided_chain(spec: ConvSpec, groups: tuple[Ints, ...], ranks: Ints) -> tuple[ConvSpec, ...]:
    """Convolutions in a row, each with the kernel axes of its group; `ranks` are the channels between them.

    Each keeps stride, padding and dilation on its own axes and is 1x1 on the others. Only the last has a bias: zero
    padding between the factors must stay zero.
    """
    chain: list[ConvSpec] = []
    size = spec.in_size
    for axes, (before, after) in zip(groups, pairwise((spec.in_channels, *ranks, spec.out_channels)), strict=True):
        one = _restricted(replace(spec, in_size=size), axes, in_channels=before, out_channels=after)
        chain.append(replace(one, bias=len(chain) == len(ranks)))
        size = one.out_size
    return tuple(chain)


def _restricted(spec: ConvSpec, axes: Ints, *, in_channels: int, out_channels: int) -> ConvSpec:
    """The convolution on some axes only; the others get kernel 1, stride 1 and no padding."""
    width = len(spec.kernel)

    def only(values: Ints, other: int) -> Ints:
        return tuple(v if i % width in axes else other for i, v in enumerate(values))

    return ConvSpec(in_channels=in_channels, out_channels=out_channels, kernel=only(spec.kernel, 1),
                    stride=only(spec.stride, 1), dilation=only(spec.dilation, 1), pads=only(spec.pads, 0),
                    auto_pad=spec.auto_pad if axes else EXPLICIT_PADS, in_size=spec.in_size, batch=spec.batch)


def require_ranks(strategy: Strategy, spec: ConvSpec, ranks: Ints) -> None:
    """Check that there is one rank per seam and each lies in 1..max.

    Raises:
        RankError: otherwise.
    """
    limits = strategy.max_ranks(spec)
    if len(ranks) != len(limits) or any(not 1 <= r <= m for r, m in zip(ranks, limits, strict=False)):
        allowed = ", ".join(f"1..{m}" for m in limits)
        raise RankError(f"rank {','.join(map(str, ranks))}: {strategy.name} on {describe(spec)} allows {allowed}")


def describe(spec: ConvSpec) -> str:
    """Short text for a geometry: ``3x3 64->128``."""
    kernel = "x".join(map(str, spec.kernel)) or "dense"
    return f"{kernel} {spec.in_channels}->{spec.out_channels}"


def chain_cost(specs: tuple[ConvSpec, ...]) -> Cost:
    """Parameters and MACs of a chain, counted from the shapes of its factors."""
    return Cost.total(spec.cost for spec in specs)


def patch_matrix(weight: Array) -> NDArray[np.float64]:
    """Kernel (O, C, *k) as a matrix (O, n*C), position-major: the columns run over (position, channel).

    Patch statistics use the same order: it keeps the channels of one position together, so the channel factor
    applies to contiguous blocks.
    """
    out_channels = weight.shape[0]
    return np.moveaxis(np.asarray(weight, dtype=np.float64), 1, -1).reshape(out_channels, -1)


def kernel_of(matrix: Array, spec: ConvSpec) -> Array:
    """Inverse of `patch_matrix` for a spec with the channels that the matrix has."""
    shaped = matrix.reshape(spec.out_channels, *spec.kernel, spec.in_channels // spec.groups)
    return np.ascontiguousarray(np.moveaxis(shaped, -1, 1))


def factor(role: str, spec: ConvSpec, weight: Array, bias: Array | None = None) -> ConvFactor:
    """Bundle a factor, with denormal-sized weights flushed to zero (they slow a CPU down tenfold)."""
    flushed = np.where(np.abs(weight) < 1e-15, 0.0, weight).reshape(spec.weight_shape)
    return ConvFactor(role=role, spec=spec, weight=flushed, bias=bias)
