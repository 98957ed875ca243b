"""How pixels become the input of a model: presets, their options, and what of them contradicts itself.

An input x of the model gets ``x = (pixel * scale - mean) / std``, with mean and std in units *after* the scale and in
the model's channel order.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxslim1x1.errors import OptionError

Size = int | tuple[int, int]

PIXEL_RANGE = (0.0, 255.0)
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
            raise OptionError(f"--mean {show_list(self.mean)}: outside of the scaled pixels, 0..{self.scale * 255:g} "
                              f"(mean and std count after the scale); use --scale 1 or divide the mean by 255")

    @property
    def is_plain(self) -> bool:
        """Whether values stay what they are (no scale, mean or std)."""
        return self.scale in (None, 1.0) and not any(self.mean) and all(s == 1 for s in self.std)

    @property
    def passes(self) -> bool:
        """Whether arrays go through untouched, as with the preset raw."""
        return self.is_plain and self.resize is None and self.crop is None and self.channel_order == "rgb"

    @property
    def treatment(self) -> str:
        """All that decides about the result, the same for presets of different names."""
        return repr((self.scale, self.mean, self.std, self.resize, self.crop, self.layout, self.channel_order))

    def resolved(self, *, pixels: bool) -> Preprocess:
        """Decide a scale that was left open: preset unit for 8-bit `pixels`, raw for everything else."""
        if self.scale is not None:
            return self
        base = PRESETS["unit" if pixels else "raw"]
        return replace(self, scale=base.scale, name=base.name, expects=base.expects)


def pair(size: Size) -> tuple[int, int]:
    """(H, W) of a size, N standing for (N, N)."""
    return (size, size) if isinstance(size, int) else size


def show_size(size: Sequence[int | None] | int) -> str:
    """Height x width (or any shape) for people; a free axis shows as ?."""
    return str(size) if isinstance(size, int) else "x".join("?" if n is None else str(n) for n in size)


def show_list(values: Sequence[float]) -> str:
    """Numbers as on the command line."""
    return ",".join(f"{v:g}" for v in values)


def _check_channels(mean: Sequence[float], std: Sequence[float]) -> None:
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (0, 1, 3, 4) or not all(map(math.isfinite, values)):
            raise OptionError(f"{option} {show_list(values)}: must be 1 number or one per channel (3 or 4), all finite")
    if not all(s > 0 for s in std):
        raise OptionError(f"--std {show_list(std)}: must be positive (pixels are divided by it)")
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
