"""From pixels to what a model wants: presets, their options, and the arithmetic.

Between reading and feeding, images are arrays (H, W, C) in RGB order. An input x of the model gets
``x = (pixel * scale - mean) / std``, with mean and std in units *after* the scale and in the model's channel order.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.session import InputSpec

Size = int | tuple[int, int]
Pixels = NDArray[Any]

PIXEL_RANGE = (0.0, 255.0)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name for that many channels
_MAX_PIXELS = 89_478_485  # Pillow's own limit for a decoded image, applied to resized ones too
_LAYOUTS = ("auto", "nchw", "nhwc")
_ORDERS = ("rgb", "bgr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """How pixels become the input of a model.

    Attributes:
        name: the preset that it started from ("auto" without one), for messages.
        scale: multiplied onto the pixels first; None: 1/255 for 8-bit pixels and 1 for arrays of numbers.
        mean: none, one, or one per channel in the model's channel order; in units after the scale.
        std: the same.
        resize: N brings the short side to N and keeps the aspect; (H, W) is exact. Bilinear with antialiasing.
        crop: centre crop N x N or (H, W), after resizing.
        layout: nchw, nhwc, or auto (found in the shape of the model's input).
        channel_order: what the model wants, rgb or bgr.
        expects: the range that values must have before the scale; None: any.

    Raises:
        OptionError: a value that makes no sense, or two that contradict each other.
    """

    name: str = "auto"
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Size | None = None
    crop: Size | None = None
    layout: str = "auto"
    channel_order: str = "rgb"
    expects: tuple[float, float] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise OptionError(f"--scale {self.scale}: must be a positive number; e.g. 0.00392157 for 1/255")
        _check_channels(self.mean, self.std)
        for option, size in (("--resize", self.resize), ("--crop", self.crop)):
            if size is not None and min(pair(size)) < 1:
                raise OptionError(f"{option} {show_size(size)}: sizes must be at least 1")
        _check_crop(self.resize, self.crop)
        _check_choice("--layout", self.layout, _LAYOUTS)
        _check_choice("--channel-order", self.channel_order, _ORDERS)
        # The commonest slip: means of 0..255 with pixels that were scaled to 0..1 before.
        if self.scale is not None and self.scale * 255 <= 2 and max(map(abs, self.mean), default=0) > 2:
            raise OptionError(f"--mean {_list(self.mean)}: outside of the scaled pixels, 0..{self.scale * 255:g} "
                              f"(mean and std count after the scale); use --scale 1 or divide the mean by 255")

    @property
    def is_plain(self) -> bool:
        """Whether values stay what they are (no scale, mean or std)."""
        return self.scale in (None, 1.0) and not any(self.mean) and all(s == 1 for s in self.std)

    @property
    def passes(self) -> bool:
        """Whether arrays go through untouched, as with the preset raw."""
        return self.is_plain and self.resize is None and self.crop is None and self.channel_order == "rgb"

    def resolved(self, *, pixels: bool) -> Preprocess:
        """Decide a scale that was left open: preset unit for 8-bit `pixels`, raw for everything else."""
        if self.scale is not None:
            return self
        base = PRESETS["unit" if pixels else "raw"]
        return replace(self, scale=base.scale, name=base.name, expects=base.expects)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises on damaged files into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow, zipfile and numpy raise dozens of unrelated types on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what} ({reason}); remove or replace it") from error


def pair(size: Size) -> tuple[int, int]:
    """(H, W) of a size, N standing for (N, N)."""
    return (size, size) if isinstance(size, int) else size


def show_size(size: Sequence[int | None] | int) -> str:
    """Height x width (or any shape) for people; a free axis shows as ?."""
    return str(size) if isinstance(size, int) else "x".join("?" if n is None else str(n) for n in size)


def _list(values: Sequence[float]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _check_channels(mean: Sequence[float], std: Sequence[float]) -> None:
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (0, 1, 3, 4) or not all(map(math.isfinite, values)):
            raise OptionError(f"{option} {_list(values)}: must be 1 number or one per channel (3 or 4), all finite")
    if not all(s > 0 for s in std):
        raise OptionError(f"--std {_list(std)}: must be positive (pixels are divided by it)")
    if len(mean) > 1 and len(std) > 1 and len(mean) != len(std):
        raise OptionError(f"--mean has {len(mean)} values but --std has {len(std)}; give one per channel to both")


def _check_crop(resize: Size | None, crop: Size | None) -> None:
    if resize is None or crop is None:
        return
    height, width = pair(crop)
    fits = min(height, width) <= resize if isinstance(resize, int) else height <= resize[0] and width <= resize[1]
    if not fits:
        raise OptionError(f"--crop {show_size(crop)}: larger than --resize {show_size(resize)} leaves; "
                          f"make --resize larger")


def _check_choice(option: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise OptionError(f"{option} {value}: unknown; {hint}choose from {', '.join(choices)}")


_IMAGENET: dict[str, Any] = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
                             "expects": PIXEL_RANGE}

PRESETS = {
    item.name: item for item in (
        Preprocess(name="imagenet", resize=256, crop=224, **_IMAGENET),
        Preprocess(name="cifar10", **_IMAGENET),
        Preprocess(name="imagenet-caffe", scale=1.0, mean=(104.0, 117.0, 123.0), resize=256, crop=224,
                   channel_order="bgr", expects=PIXEL_RANGE),
        Preprocess(name="unit", scale=1 / 255, expects=PIXEL_RANGE),
        Preprocess(name="raw", scale=1.0),
    )
}


def preprocess(preset: str | None = None, **overrides: Any) -> Preprocess:
    """Build a `Preprocess` from a preset, with single fields replaced; an override of None is none.

    Without a preset it is `unit` for images and 8-bit arrays, and `raw` for other arrays.
    With a `scale` of your own, the range of the values is no longer checked against the preset.

    Raises:
        OptionError: an unknown preset, or values that make no sense.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    for key in ("mean", "std"):
        if key in given:
            values = given[key]
            given[key] = tuple(float(v) for v in (values if isinstance(values, Collection) else (values,)))
    if "scale" in given:
        given["expects"] = None
    if preset is None:
        return Preprocess(**given)
    _check_choice("--preprocess", preset, PRESETS)
    return replace(PRESETS[preset], **given)


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
        raise DataError(f"{where}: pixels lie in 0..255, but mean {_list(prep.mean)} and std {_list(prep.std)} "
                        f"with scale 1 expect 0..1; use --scale 0.00392157")
    fixed = prep.crop if prep.crop is not None else prep.resize if isinstance(prep.resize, tuple) else None
    if fixed is not None:
        _check_size(pair(fixed), prep, target, f"preset {prep.name}")


def geometry(pixels: Pixels, prep: Preprocess, target: ImageInput, *, where: str) -> Pixels:
    """Resize and crop one image (H, W, C), and bring it to the channels of the model.

    Raises:
        DataError: it cannot be converted, is smaller than the crop, or does not end at the model's size.
    """
    pixels = _with_channels(pixels, target, where)
    height, width = pixels.shape[:2]
    if prep.resize is not None:
        pixels = _resized(pixels, _resized_size(height, width, prep.resize), where)
    if prep.crop is not None:
        (height, width), (h, w) = pixels.shape[:2], pair(prep.crop)
        if h > height or w > width:
            raise DataError(f"{where}: image is {height}x{width} (height x width), smaller than --crop {h}x{w}; "
                            f"add --resize {max(h, w)}")
        top, left = round((height - h) / 2), round((width - w) / 2)
        pixels = pixels[top:top + h, left:left + w]
    _check_size((pixels.shape[0], pixels.shape[1]), prep, target, where)
    return pixels


def _check_size(size: tuple[int, int], prep: Preprocess, target: ImageInput, where: str) -> None:
    if all(want in (None, have) for want, have in zip(target.size, size, strict=True)):
        return
    steps = [f"{step} {show_size(n)}" for step, n in (("resize", prep.resize), ("crop", prep.crop)) if n is not None]
    done = f"after {' and '.join(steps)}" if steps else f"preset {prep.name} neither resizes nor crops"
    want = ",".join(str(w or h) for w, h in zip(target.size, size, strict=True))
    raise DataError(f"{where}: image is {show_size(size)} (height x width, {done}), but input {target.name} "
                    f"wants {show_size(target.size)}; use --resize {want}, or --resize and --crop {want}")


def _with_channels(pixels: Pixels, target: ImageInput, where: str) -> Pixels:
    """Convert 8-bit pixels between grey, RGB and RGBA; other values have no such conversion."""
    have = pixels.shape[2]
    if have == target.channels:
        return pixels
    if pixels.dtype != np.uint8:
        raise DataError(f"{where}: samples have {have} channels, but input {target.name} wants {target.channels}; "
                        f"only 8-bit images are converted")
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if have == 1 else pixels))
    converted = np.asarray(image.convert(MODES[target.channels]))
    return converted.reshape(*converted.shape[:2], target.channels)


def _resized_size(height: int, width: int, resize: Size) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, resize * width // height
    return resize * height // width, resize


def _resized(pixels: Pixels, size: tuple[int, int], where: str) -> Pixels:
    """Resize channel by channel, which is what Pillow does inside and also works for floats."""
    from PIL import Image

    height, width = size
    if (height, width) == pixels.shape[:2]:
        return pixels
    if height * width > _MAX_PIXELS:
        raise DataError(f"{where}: resizing {show_size(pixels.shape[:2])} to {height}x{width} makes more than "
                        f"{_MAX_PIXELS} pixels; give --resize as height,width")
    planes = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return np.stack([
        np.asarray(Image.fromarray(np.ascontiguousarray(planes[:, :, c])).resize((width, height),
                                                                               Image.Resampling.BILINEAR))
        for c in range(planes.shape[2])
    ], axis=-1)


def decode(path: Path, channels: int) -> NDArray[np.uint8]:
    """Pixels (H, W, channels) of an image file, upright (EXIF orientation), in grey, RGB or RGBA.

    Raises:
        DataError: unreadable, too large to be an honest image, or more than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    with reading(path, "an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e.g. damaged metadata; the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            if image.mode.startswith("I") or image.mode == "F":
                raise DataError(f"{path}: more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def finish(images: Sequence[Pixels], prep: Preprocess, target: ImageInput, *, where: str) -> NDArray[Any]:
    """Stack images (H, W, C) of one size: order of channels, scale, mean, std, layout and dtype of the model.

    Raises:
        DataError: a value does not fit into the dtype of the model's input.
    """
    batch = np.stack(images)
    if prep.channel_order == "bgr" and target.channels >= 3:
        batch = batch[..., [2, 1, 0, *range(3, target.channels)]]  # alpha stays last
    if not prep.is_plain:
        work = np.result_type(target.dtype, np.float32)  # float16 models are still prepared in float32
        batch = batch.astype(work) * work.type(prep.scale or 1.0)
        if prep.mean:
            batch -= np.asarray(prep.mean, work)
        if prep.std:
            batch /= np.asarray(prep.std, work)
    return cast(batch.transpose(0, 3, 1, 2) if target.layout == "nchw" else batch, target.dtype, where=where)


def cast(values: NDArray[Any], dtype: np.dtype[Any], *, where: str) -> NDArray[Any]:
    """Contiguous copy in the dtype that the model wants; integers and booleans must keep their values.

    Raises:
        DataError: the kinds differ (fractions into integers), or a value lies outside of the dtype's range.
    """
    if dtype.kind != "f" and not (values.dtype.kind in "biu" and (dtype.kind != "b" or values.dtype.kind == "b")):
        raise DataError(f"{where}: values are {values.dtype}, but the model wants {dtype}; convert them first")
    with np.errstate(all="ignore"):
        result = np.ascontiguousarray(values, dtype)
    fits = np.isfinite(result).all() if dtype.kind == "f" else np.array_equal(result, values)
    if not fits:
        raise DataError(f"{where}: values in {values.min():g}..{values.max():g} do not fit into {dtype}, "
                        f"which the model wants; check the preprocessing")
    return result


def check_values(low: float, high: float, prep: Preprocess, *, where: str) -> None:
    """Judge the extremes of the values of an array before preprocessing (NaN is the extreme of what holds one).

    Raises:
        DataError: NaN, infinities, or a range that contradicts the preset.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{where}: holds NaN or infinite values; only finite numbers can be fed")
    if prep.expects is not None and (low < prep.expects[0] or high > prep.expects[1] or 0 < high <= 1):
        raise DataError(f"{where}: values lie in {low:g}..{high:g}, but preset {prep.name} expects "
                        f"{prep.expects[0]:g}..{prep.expects[1]:g}; use --preprocess raw for prepared arrays")
