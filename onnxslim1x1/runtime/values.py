"""From images and arrays to the values that a model is fed: arithmetic of the preset, layout and dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.image_input import ImageInput
from onnxslim1x1.runtime.images import Pixels
from onnxslim1x1.runtime.preprocess import Preprocess


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
