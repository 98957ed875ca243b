"""What a model wants of an image, read from the shape of its input, and what of a preset cannot fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.preprocess import Preprocess, pair, show_list, show_size
from onnxslim1x1.runtime.session import InputSpec

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for that many channels


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """What a model wants of one image: `size` is (H, W) with None for a free axis."""

    name: str
    dtype: np.dtype[Any]
    layout: str
    channels: int
    size: tuple[int | None, int | None]


def image_input(spec: InputSpec, prep: Preprocess, *, pixels: bool) -> ImageInput:
    """Read an input of rank 4 as images, and find what cannot work before the first image is read.

    Layout auto takes axis 1 as the channels if it has 1, 3 or 4 entries, else the last axis.
    `pixels` says that the values are 8-bit, 0..255.

    Raises:
        DataError: the input does not take images, or its channels, type or size contradict the preset.
    """
    target = _target(spec, prep.layout)
    _check_fit(prep, target, pixels=pixels)
    return target


def _target(spec: InputSpec, layout: str) -> ImageInput:
    shape = [None if i in spec.free_axes else n for i, n in enumerate(spec.shape)]
    shown = f"input {spec.name}: its shape {show_size(shape)}"
    if len(shape) != 4:
        raise DataError(f"{shown} is not that of images (rank {len(shape)}, not 4); feed arrays with --preprocess raw")
    if layout == "auto":
        layout = next((name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] in MODES), "")
        if not layout:
            raise DataError(f"{shown} has no axis of 1, 3 or 4 channels; "
                            f"give --layout, or arrays with --preprocess raw")
    axis = layout.index("c")
    channels = shape.pop(axis)
    if channels is not None and channels not in MODES:
        raise DataError(f"{shown} has {channels} channels in layout {layout} (images have 1, 3 or 4); "
                        f"give the other --layout, or arrays with --preprocess raw")
    return ImageInput(name=spec.name, dtype=spec.dtype, layout=layout, channels=channels or 3,
                      size=(shape[1], shape[2]))


def _check_fit(prep: Preprocess, target: ImageInput, *, pixels: bool) -> None:
    where = f"input {target.name}"
    for option, values in (("mean", prep.mean), ("std", prep.std)):
        if len(values) not in (0, 1, target.channels):
            raise DataError(f"{where}: {target.channels} channels, but preset {prep.name} has {len(values)} values "
                            f"of {option}; give --mean and --std for {target.channels}")
    if target.dtype.kind != "f" and not prep.is_plain:
        raise DataError(f"{where}: wants {target.dtype}, but preset {prep.name} makes fractions; use --preprocess raw")
    small = max((*map(abs, prep.mean), *prep.std), default=2) <= 1
    if pixels and small and prep.scale == 1 and not prep.is_plain:
        raise DataError(f"{where}: pixels lie in 0..255, but mean {show_list(prep.mean)} and std {show_list(prep.std)} "
                        f"with scale 1 expect 0..1; use --scale 0.00392157")
    fixed = prep.crop if prep.crop is not None else prep.resize if isinstance(prep.resize, tuple) else None
    if fixed is not None:
        check_size(pair(fixed), prep, target, f"preset {prep.name}")


def check_size(size: tuple[int, int], prep: Preprocess, target: ImageInput, where: str) -> None:
    """See that an image of this size is what the model wants.

    Raises:
        DataError: it is not.
    """
    if all(want in (None, have) for want, have in zip(target.size, size, strict=True)):
        return
    steps = [f"{step} {show_size(n)}" for step, n in (("resize", prep.resize), ("crop", prep.crop)) if n is not None]
    done = f"after {' and '.join(steps)}" if steps else f"preset {prep.name} neither resizes nor crops"
    want = ",".join(str(w or h) for w, h in zip(target.size, size, strict=True))
    raise DataError(f"{where}: image is {show_size(size)} (height x width, {done}), but input {target.name} "
                    f"wants {show_size(target.size)}; use --resize {want}, or --resize and --crop {want}")


def image_axes(shape: Sequence[int], target: ImageInput, where: str) -> tuple[int | None, ...]:
    """Axes that turn an array into (N, H, W, C); the model's own layout wins where two are possible."""
    if len(shape) == 3:
        return (0, 1, 2, None)
    orders = {"nchw": (0, 2, 3, 1), "nhwc": (0, 1, 2, 3)}
    for name in sorted(orders, key=lambda n: n != target.layout):
        if shape[orders[name][3]] in MODES:
            return orders[name]
    raise DataError(f"{where}: samples of shape {show_size(shape[1:])} are no images (no axis of 1, 3 or 4 channels), "
                    f"but input {target.name} wants {target.channels} channels; check the array")
