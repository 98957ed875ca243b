"""Images between reading and feeding: arrays (H, W, C) in RGB order, decoded, resized and cropped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.files import reading
from onnxslim1x1.runtime.image_input import MODES, ImageInput, check_size
from onnxslim1x1.runtime.preprocess import Preprocess, Size, pair, show_size

Pixels = NDArray[Any]
Change = Callable[[Pixels, int], Pixels]  # of an image (H, W, C), which keeps its size and dtype; the place of it

_MAX_PIXELS = 89_478_485  # Pillow's own limit for a decoded image, applied to resized ones too


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
    check_size((pixels.shape[0], pixels.shape[1]), prep, target, where)
    return pixels


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
