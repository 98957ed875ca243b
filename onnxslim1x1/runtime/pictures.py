"""Small pictures of samples, for people who want to see what a model was wrong about."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxslim1x1.runtime.arrays import ArraySamples
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.evidence import WorstSample
from onnxslim1x1.runtime.image_input import MODES
from onnxslim1x1.runtime.images import Pixels

SIDE = 96  # of a picture, at most
_CHANNELS_FIRST, _RANK = (1, 2, 0), 3


def with_pictures(samples: Sequence[WorstSample], data: Dataset) -> tuple[WorstSample, ...]:
    """The same samples with the names of their files and with pictures, where they are images.

    Raises:
        DataError: an image cannot be read.
    """
    found = []
    for sample in samples:
        row = int(data.rows[sample.index])
        found.append(replace(sample, name=data.columns[0].called(row), picture=_picture(data, row)))
    return tuple(found)


def _picture(data: Dataset, row: int) -> str | None:
    column = data.columns[0]
    if len(data.columns) > 1:
        return None
    pixels = _as_image(column.array[row]) if isinstance(column, ArraySamples) and column.target is None else (
        column.pixels(row))
    return None if pixels is None else data_uri(pixels)


def _as_image(sample: Pixels) -> Pixels | None:
    """A prepared array as an image (H, W, C), or None if it has not the shape of one."""
    if sample.ndim != _RANK:
        return None
    if sample.shape[0] in MODES:
        return sample.transpose(_CHANNELS_FIRST)
    return sample if sample.shape[2] in MODES else None


def data_uri(pixels: Pixels) -> str:
    """A PNG with sides of at most 96 pixels as a data URI.

    Args:
        pixels: (H, W, C) with 1, 3 or 4 channels; values that are no bytes are stretched to 0..255.
    """
    from PIL import Image

    channels = pixels.shape[2]
    image = Image.fromarray(_bytes(pixels)[..., 0] if channels == 1 else _bytes(pixels), MODES[channels])
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, format="PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _bytes(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    values = np.nan_to_num(pixels.astype(np.float64))
    span = float(np.ptp(values)) or 1.0
    return np.ascontiguousarray(np.rint((values - values.min()) / span * 255.0).astype(np.uint8))
