"""What a convolution is, what it costs, and what it can be replaced by.

Specs are frozen, hold no arrays, hash, and go to JSON. A dense layer is a convolution without spatial axes
(``kernel == ()``), and a dense layer that runs over tokens is one with a kernel of ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

Ints = tuple[int, ...]

EXPLICIT_PADS = "NOTSET"
SHARES = (0.9, 0.99, 0.999)  # of the energy that tables and JSON give the number of directions for

_ROUNDING = 1e-9  # of the energy: eigenvalues of float32 weights are not exact to more


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Parameters and multiply-accumulates (MACs) of one run; 1 MAC = 2 FLOPs."""

    params: int
    macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(params=self.params + other.params, macs=self.macs + other.macs)

    @classmethod
    def total(cls, costs: Any) -> Self:
        """Sum an iterable of costs."""
        items = list(costs)
        return cls(params=sum(c.params for c in items), macs=sum(c.macs for c in items))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ineligible:
    """Why a layer is left alone: a stable `code` for machines and a `reason` for people."""

    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvSpec:
    """Geometry of one convolution: a kernel of ``prod(kernel)`` positions from C to O channels in ``groups``.

    Attributes:
        in_channels: C, of the whole tensor (not per group).
        out_channels: O, of the whole tensor.
        kernel: one size per spatial axis; empty for a dense layer.
        stride: one per spatial axis.
        dilation: one per spatial axis.
        pads: all begins, then all ends (the order of ONNX); ignored unless ``auto_pad`` is NOTSET.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER, as in the ONNX operator Conv.
        groups: number of groups; C and O are multiples of it.
        bias: whether the layer adds a bias.
        in_size: input size per spatial axis, or None where the shape is unknown.
        batch: how many images one run takes.
        transposed: whether it is a ConvTranspose, whose weight is (C, O / groups, *kernel).

    Raises:
        ValueError: the tuples do not agree in length, or a size is not positive.
    """

    in_channels: int
    out_channels: int
    kernel: Ints
    stride: Ints
    dilation: Ints
    pads: Ints
    auto_pad: str = EXPLICIT_PADS
    groups: int = 1
    bias: bool = True
    in_size: Ints | None
    batch: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        axes = len(self.kernel)
        lengths = (len(self.stride), len(self.dilation), len(self.pads) // 2)
        if any(n != axes for n in lengths) or len(self.pads) % 2:
            raise ValueError(f"kernel {self.kernel}, stride {self.stride}, dilation {self.dilation} and pads "
                             f"{self.pads} do not describe the same number of axes")
        if self.in_size is not None and len(self.in_size) != axes:
            raise ValueError(f"input size {self.in_size} does not have the {axes} axes of kernel {self.kernel}")
        positive = (self.in_channels, self.out_channels, self.groups, self.batch,
                    *self.kernel, *self.stride, *self.dilation)
        if min(positive) < 1:
            raise ValueError(f"sizes must be positive: {self}")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {self.in_channels} and {self.out_channels} channels")

    @classmethod
    def make(cls, in_channels: int, out_channels: int, *, kernel: Ints, in_size: Ints | None = None,
             **changes: Any) -> ConvSpec:
        """Build a spec with stride 1, dilation 1 and no padding unless `changes` says otherwise."""
        ones = (1,) * len(kernel)
        defaults: dict[str, Any] = {"stride": ones, "dilation": ones, "pads": (0,) * (2 * len(kernel))}
        return cls(in_channels=in_channels, out_channels=out_channels, kernel=kernel, in_size=in_size,
                   **(defaults | changes))

    @property
    def positions(self) -> int:
        """Number of kernel positions, n = prod(kernel)."""
        return math.prod(self.kernel)

    @property
    def patch(self) -> int:
        """Length of one flattened input patch per group, n * C / groups."""
        return self.positions * self.in_channels // self.groups

    @property
    def weight_shape(self) -> Ints:
        """Shape of the kernel, (O, C / groups, *kernel), or (C, O / groups, *kernel) if transposed."""
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def explicit_pads(self) -> Ints:
        """Pads with ``auto_pad`` resolved for the known input size (ONNX operator Conv, attribute auto_pad).

        Raises:
            ValueError: SAME padding with an unknown input size.
        """
        if self.auto_pad == EXPLICIT_PADS:
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * len(self.pads)
        if self.in_size is None:
            raise ValueError("SAME padding needs a known input size")
        begins, ends = [], []
        for size, k, s, d in zip(self.in_size, self.kernel, self.stride, self.dilation, strict=True):
            total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if self.auto_pad == "SAME_UPPER" else large)
            ends.append(large if self.auto_pad == "SAME_UPPER" else small)
        return (*begins, *ends)

    @property
    def out_size(self) -> Ints | None:
        """Output size per spatial axis, floor((in + pads - dilation*(k-1) - 1) / stride) + 1.

        None if the input size is unknown, or for a transposed convolution (it depends on output_padding too).
        """
        if self.in_size is None or self.transposed:
            return None
        axes, pads = len(self.kernel), self.explicit_pads
        return tuple(
            max((self.in_size[i] + pads[i] + pads[axes + i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
                // self.stride[i] + 1, 0)  # a kernel larger than its input has no position
            for i in range(axes)
        )

    @property
    def params(self) -> int:
        """Number of weights, biases included."""
        return math.prod(self.weight_shape) + (self.out_channels if self.bias else 0)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run, batch * O * prod(out_size) * n * C / groups; None if unknown.

        A transposed convolution multiplies at its input positions: batch * O * prod(in_size) * n * C / groups.
        """
        out = self.in_size if self.transposed else self.out_size
        return None if out is None else self.batch * self.out_channels * math.prod(out) * self.patch

    @property
    def cost(self) -> Cost:
        """Parameters and MACs.

        Raises:
            ValueError: the input size is unknown.
        """
        if self.macs is None:
            raise ValueError("the cost of a convolution needs its input size")
        return Cost(params=self.params, macs=self.macs)

    @property
    def is_pointwise(self) -> bool:
        """Whether it only mixes channels (a 1x1 convolution or a dense layer)."""
        return self.positions == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether every group has one input channel."""
        return self.groups > 1 and self.groups == self.in_channels

    def pointwise(self, in_channels: int, out_channels: int, *, size: Ints | None, bias: bool) -> ConvSpec:
        """Spec of a 1x1 convolution on `size`, with as many spatial axes as this one."""
        axes = len(self.kernel)
        return ConvSpec.make(in_channels, out_channels, kernel=(1,) * axes, in_size=size, bias=bias, batch=self.batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectrum:
    """Squared singular values of an unfolding, largest first, as fractions of their sum."""

    fractions: tuple[float, ...]

    def tail(self, rank: int) -> float:
        """Energy that is lost when `rank` directions are kept, in [0, 1]."""
        return max(0.0, math.fsum(self.fractions[rank:]))


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvFactor:
    """One convolution of a chain: its spec, its weight (spec.weight_shape) and its bias (O,) or None."""

    role: str
    spec: ConvSpec
    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Factorization:
    """A chain of convolutions that stands for one.

    Attributes:
        strategy: name of the family.
        ranks: one rank per inner seam.
        factors: in the order of execution; only the last one may have a bias.
        rel_error: ``||W - F||_F / ||W||_F`` of the composed kernel F.
        output_rel_error: ``sqrt(tr[(W-F) S (W-F)^T] / tr[W S W^T])`` under the centred patch covariance S of
            the calibration data, or None without data.
    """

    strategy: str
    ranks: Ints
    factors: tuple[ConvFactor, ...]
    rel_error: float
    output_rel_error: float | None = None

    @property
    def cost(self) -> Cost:
        """Parameters and MACs, counted from the factors."""
        return Cost.total(f.spec.cost for f in self.factors)

    @property
    def error(self) -> float:
        """The error that a budget judges: of the outputs where data was given, else of the weights."""
        return self.rel_error if self.output_rel_error is None else self.output_rel_error
