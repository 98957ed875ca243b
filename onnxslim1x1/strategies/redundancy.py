"""How redundant a layer is: how many directions carry its response, before any family is chosen.

The response of a layer to a patch x is ``W x``, its energy ``E||W x||^2 = tr[W S W^T]`` with S the covariance of the
patches on calibration images, or the identity where there are none (the squared weights). A curve says which share of
it the best subspace of r directions that a seam finds carries, for every r; `onnxslim1x1.strategies.seams` has the
seams. So a curve and the error of a family on that seam are one thing: ``error = sqrt(1 - kept)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from onnxslim1x1.spec import ConvSpec, EnergyCurve, Ints, LayerSpectra
from onnxslim1x1.strategies.base import Array
from onnxslim1x1.strategies.chains import shared_work
from onnxslim1x1.strategies.folds import Fold
from onnxslim1x1.strategies.problem import LayerProblem, Matrix
from onnxslim1x1.strategies.unfolding import Blocks

if TYPE_CHECKING:
    from onnxslim1x1.linalg.moments import Moments


def layer_spectra(spec: ConvSpec, weight: Array, bias: Array | None = None,
                  statistics: Moments | None = None) -> LayerSpectra:
    """Curves of a layer.

    Args:
        spec: geometry.
        weight: kernel of shape ``spec.weight_shape``.
        bias: (O,) or None. Curves do not depend on it; it tells whether the work of a decomposition can be shared.
        statistics: moments of the input patches (see `onnxslim1x1.strategies.base.patch_matrix` for their order), or
            None for the weights alone.

    Raises:
        ValueError: statistics for a layer that has groups or is transposed.
    """
    if spec.groups > 1 or spec.transposed:
        if statistics is not None:
            raise ValueError(f"patches are those of ungrouped convolutions: {spec}")
        return _grouped(spec, weight)
    work = shared_work(spec, weight, bias=bias, statistics=statistics, weighting=None)
    axes, energy = tuple(range(len(spec.kernel))), work.problem.energy

    def curve(front: Ints, size: int) -> EnergyCurve:
        return _curve(size, work.first_seam(front, size, more=True).kept[1:], energy)

    first = _divided_axis(spec.kernel)
    outputs = curve(axes, spec.out_channels)
    return LayerSpectra(
        outputs=outputs,
        inputs=_resized(outputs, spec.in_channels) if spec.is_pointwise else curve((), spec.in_channels),
        positions=None if spec.is_pointwise else _curve(spec.positions, _patterns(work.problem), energy),
        separable=None if first is None else curve((first,), spec.kernel[first] * spec.in_channels))


def _divided_axis(kernel: Ints) -> int | None:
    """The axis that `spatial` splits off: the first one longer than 1, if there is another."""
    long = [axis for axis, size in enumerate(kernel) if size > 1]
    return long[0] if len(long) > 1 else None


def _curve(size: int, kept: Iterable[float], whole: float) -> EnergyCurve:
    """Cumulated energies as shares; where there is no energy, the first direction carries all of it."""
    shares = np.asarray(tuple(kept)) / whole if whole > 0 else np.ones(1)
    shares = np.minimum(np.maximum.accumulate(shares), 1.0)  # both hold but for rounding
    return EnergyCurve(size=size, kept=(*shares[:-1].tolist(), 1.0))


def _resized(curve: EnergyCurve, size: int) -> EnergyCurve:
    """A layer of one position has one seam, which divides its inputs and its outputs alike."""
    return EnergyCurve(size=size, kept=curve.kept)


def _patterns(problem: LayerProblem) -> list[float]:
    """Energy that r patterns over the kernel positions keep, for r from 1 on, all channels taking the same ones.

    The channels are one more axis of the kernel then, and the factor in front covers all axes but this one: a
    depthwise convolution whose r kernels are the same for every channel.
    """
    kernel = problem.spec.kernel
    blocks = Blocks((*kernel, problem.channels), 1, axes=tuple(range(len(kernel))), outputs=problem.outputs)
    return Fold(problem, blocks, rank=blocks.capacity).kept[1:]


def _grouped(spec: ConvSpec, weight: Array) -> LayerSpectra:
    """Curves of the weights of a layer with groups or a transposed one; the axes of its kernel are not divided.

    Groups share no channel: as a matrix of all channels the kernel is block-diagonal, and its squared singular values
    are those of the blocks.
    """
    groups, inside = spec.groups, (spec.in_channels // spec.groups, spec.out_channels // spec.groups)
    kernel = np.asarray(weight, dtype=np.float64)
    if spec.transposed:  # (C, O / groups, *k)
        blocks = kernel.reshape(groups, *inside, -1).transpose(0, 2, 1, 3)
    else:
        blocks = kernel.reshape(groups, *inside[::-1], -1)
    outputs = _energies(blocks.reshape(groups, inside[1], -1))
    inputs = _energies(blocks.transpose(0, 2, 1, 3).reshape(groups, inside[0], -1))
    patterns = _energies(blocks.transpose(3, 0, 1, 2).reshape(1, spec.positions, -1))
    whole = float(np.vdot(kernel, kernel))
    return LayerSpectra(inputs=_curve(spec.in_channels, inputs.cumsum(), whole),
                        outputs=_curve(spec.out_channels, outputs.cumsum(), whole),
                        positions=None if spec.is_pointwise else _curve(spec.positions, patterns.cumsum(), whole),
                        separable=None)


def _energies(blocks: Matrix) -> Matrix:
    """Squared singular values of all blocks (G, m, k) together, largest first; at most min(m, k) of each."""
    rows = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.transpose(0, 2, 1)
    found = np.linalg.eigvalsh(rows @ rows.transpose(0, 2, 1))
    energies: Matrix = np.sort(np.maximum(found, 0.0), axis=None)[::-1]
    return energies
