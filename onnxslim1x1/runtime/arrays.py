"""Arrays of .npy and .npz files as samples for the inputs of a model: as they are, or as images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.files import Arrays, load_arrays
from onnxslim1x1.runtime.image_input import MODES, ImageInput, image_axes, image_input
from onnxslim1x1.runtime.images import Change, Pixels, geometry
from onnxslim1x1.runtime.labels import LABEL_KEYS, Labels, class_indices, table_labels
from onnxslim1x1.runtime.preprocess import Preprocess, show_size
from onnxslim1x1.runtime.session import InputSpec
from onnxslim1x1.runtime.values import cast, check_values, finish

Rows = NDArray[np.int64]

_IMAGE_KEYS = ("images", "x")
_SCAN = 256  # samples looked at together when the range of a mapped file is taken


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArraySamples:
    """An array whose first axis counts samples; without a `target` they are fed as they are.

    `axes` brings the array to (N, H, W, C); it holds None where a channel axis is to be added.
    """

    array: NDArray[Any]
    spec: InputSpec
    where: str
    prep: Preprocess
    target: ImageInput | None = None
    axes: tuple[int | None, ...] = ()
    change: Change | None = None

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Rows) -> NDArray[Any]:
        """Preprocessed samples.

        Raises:
            DataError: they do not end at the model's size or fit into its dtype.
        """
        if self.target is None:
            return cast(self.array[rows], self.spec.dtype, where=self.where)
        images = [geometry(self.pixels(int(row)), self.prep, self.target, where=self.where) for row in rows]
        return finish(images, self.prep, self.target, where=self.where)

    def pixels(self, row: int) -> Pixels:
        """One sample as an image (H, W, C) before preprocessing, changed if that is wanted; only with a `target`."""
        part = self.array[row:row + 1]
        part = part[..., np.newaxis] if None in self.axes else part.transpose([a for a in self.axes if a is not None])
        pixels: Pixels = part[0]
        return pixels if self.change is None else self.change(pixels, row)

    def called(self, row: int) -> str:
        """How people call a sample."""
        return f"image {row}"

    def raw(self, rows: Rows) -> Iterator[bytes]:
        """Bytes of each sample as it is in the file."""
        for row in rows:
            yield self.array[int(row)].tobytes()

    @property
    def treatment(self) -> str:
        """What the bytes of a sample mean and what happens to them."""
        return f"{self.array.dtype.str} {self.array.shape[1:]} {self.axes} {self.prep.treatment} {self.target}"


def spread(count: int, limit: int | None) -> Rows:
    """`limit` indices of range(count), evenly spaced, each from the middle of its stretch."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return (2 * np.arange(limit, dtype=np.int64) + 1) * count // (2 * limit)


def open_arrays(path: Path, prep: Preprocess, inputs: Sequence[InputSpec], table: Path | None,
                limit: int | None) -> tuple[tuple[ArraySamples, ...], Labels | None]:
    """Find the array of each input, and labels in `table` or the same file; only `limit` samples are looked at.

    Raises:
        DataError: unreadable, arrays do not fit the model or the preset, or labels do not fit them.
        OptionError: --mean contradicts the scale that the data decides.
    """
    arrays = load_arrays(path)
    chosen = _choose(path, arrays, inputs)
    counts = {name: len(array) for name, array in chosen.items()}
    count = min(counts.values())
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: the inputs have different numbers of samples ({counts}); make them equal")
    if len(inputs) > 1:
        if not prep.passes:
            raise DataError(f"{path}: preset {prep.name} is for images, but a model with {len(inputs)} inputs is fed "
                            f"arrays as they are; use --preprocess raw")
        prep = prep.resolved(pixels=False)
    columns = tuple(_array_samples(chosen[spec.name], spec, prep, str(path), spread(count, limit)) for spec in inputs)
    if table is not None:
        return columns, table_labels(table, count, path)
    key = next((k for k in LABEL_KEYS if k in arrays and all(arrays[k] is not a for a in chosen.values())), None)
    return columns, None if key is None else class_indices(arrays[key], count, f"{path}: array {key}", path)


def _choose(path: Path, arrays: Arrays, inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """The array for each input of the model, checked to hold samples of numbers."""
    if len(inputs) == 1:
        name = inputs[0].name
        data = [k for k in arrays if k not in LABEL_KEYS]
        key = next((k for k in (name, *_IMAGE_KEYS) if k in arrays), data[0] if len(data) == 1 else None)
        if key is None:
            raise DataError(f"{path}: has the arrays {', '.join(arrays) or 'none'}, but one named {name}, images or x "
                            f"is wanted; rename it")
        chosen = {name: arrays[key]}
    else:
        missing = [spec.name for spec in inputs if spec.name not in arrays]
        if missing:
            raise DataError(f"{path}: has the arrays {', '.join(filter(None, arrays)) or 'of one input'}, but the "
                            f"model wants {', '.join(i.name for i in inputs)}; give an .npz with these keys")
        chosen = {spec.name: arrays[spec.name] for spec in inputs}
    for name, array in chosen.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{path}: values for input {name} are {array.dtype}, not numbers; convert them")
        if array.ndim == 0 or array.size == 0:
            raise DataError(f"{path}: no samples for input {name} (shape {array.shape}); give at least one")
    return chosen


def _array_samples(array: NDArray[Any], spec: InputSpec, prep: Preprocess, where: str, rows: Rows) -> ArraySamples:
    """Decide how an array is fed: as it is, or as images."""
    sample = array.shape[1:]
    wanted = tuple(None if i in spec.free_axes else n for i, n in enumerate(spec.shape))[1:]
    pixels = array.dtype == np.uint8 and len(spec.shape) == 4
    prep = prep.resolved(pixels=pixels and spec.dtype.kind == "f")
    if array.dtype not in (np.uint8, np.bool_):  # those cannot be wrong
        parts = (array[rows[i:i + _SCAN]] for i in range(0, len(rows), _SCAN))
        lows, highs = zip(*((p.min(), p.max()) for p in parts), strict=True)
        check_values(float(np.min(lows)), float(np.max(highs)), prep, where=where)  # unlike min(), these keep NaN
    fits = len(sample) == len(wanted) and all(want in (None, n) for want, n in zip(wanted, sample, strict=True))
    if prep.passes and fits:
        return ArraySamples(array=array, spec=spec, where=where, prep=prep)
    if not fits and (len(spec.shape) != 4 or array.ndim not in (3, 4) or not MODES.keys() & {*wanted, None}):
        raise DataError(f"{where}: samples have shape ({show_size(sample)}), but input {spec.name} wants "
                        f"({show_size(wanted)}); give an array of that shape")
    target = image_input(spec, prep, pixels=pixels)
    return ArraySamples(array=array, spec=spec, where=where, prep=prep, target=target,
                        axes=image_axes(array.shape, target, where))
