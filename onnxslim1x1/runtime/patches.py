"""Input patches of a convolution at sampled output positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.spec import ConvSpec

Positions = NDArray[np.int64]


def sample_patches(images: NDArray[Any], spec: ConvSpec, per_image: int, rng: np.random.Generator) -> NDArray[Any]:
    """Zero-padded input patches (p, n*C), position-major, at `per_image` random output positions of each image.

    Args:
        images: input of the layer, (batch, C, *in_size).
        spec: an ungrouped convolution with a known input size.
        per_image: how many positions to draw without replacement; all of them if there are fewer.
        rng: source of randomness.
    """
    return gather_patches(images, spec, draw_positions(len(images), spec, per_image, rng))


def draw_positions(images: int, spec: ConvSpec, per_image: int, rng: np.random.Generator) -> Positions:
    """Flat output positions (images, p), drawn without replacement; all of them if there are fewer than `per_image`."""
    total = math.prod(_out_size(spec))
    count = min(per_image, total)
    return np.stack([rng.permutation(total)[:count] if count < total else np.arange(total) for _ in range(images)])


def gather_patches(images: NDArray[Any], spec: ConvSpec, positions: Positions) -> NDArray[Any]:
    """Zero-padded input patches (images * p, n*C), position-major, at given output positions of each image."""
    axes = len(spec.kernel)
    if not axes:
        return np.repeat(images, positions.shape[1], axis=0)  # of a dense layer (batch, C): each is one patch
    flat = positions.reshape(-1)
    image = np.repeat(np.arange(len(images)), positions.shape[1])
    pads = spec.explicit_pads
    last = np.moveaxis(images, 1, -1)  # channels last: one patch row is then a contiguous gather
    padded = np.pad(last, [(0, 0), *[(pads[i], pads[axes + i]) for i in range(axes)], (0, 0)])
    taps = np.unravel_index(np.arange(spec.positions), spec.kernel)
    starts = np.unravel_index(flat, _out_size(spec))
    where = tuple(starts[i][:, None] * spec.stride[i] + taps[i] * spec.dilation[i] for i in range(axes))
    gathered: NDArray[Any] = padded[(image[:, None], *where)]
    return gathered.reshape(len(flat), -1)


def gather_pixels(images: NDArray[Any], positions: Positions) -> NDArray[Any]:
    """Values (images * p, channels) at flat positions of each image (images, channels, *size)."""
    flat = images.reshape(*images.shape[:2], -1)
    gathered: NDArray[Any] = np.take_along_axis(flat, positions[:, None, :], axis=2)
    return np.moveaxis(gathered, 1, -1).reshape(positions.size, -1)


def _out_size(spec: ConvSpec) -> tuple[int, ...]:
    size = spec.out_size
    if size is None:
        raise ValueError("patches need a known input size")
    return size
