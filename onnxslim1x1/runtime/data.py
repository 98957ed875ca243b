"""Data sets for calibration and validation: folders of images, .npy and .npz files, with or without labels.

Samples keep one order everywhere: files by their path below the folder, arrays by their first axis.
Folders are decoded when a batch is asked for; .npy files are mapped into memory.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.preprocess import (
    MODES,
    ImageInput,
    Preprocess,
    cast,
    check_values,
    decode,
    finish,
    geometry,
    image_axes,
    image_input,
    reading,
    show_size,
)
from onnxslim1x1.runtime.session import InputSpec

Labels = NDArray[np.int64]
Rows = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
LABELS_FILE = "labels.csv"
_IMAGE_KEYS = ("images", "x")
_LABEL_KEYS = ("labels", "y")
_SCAN = 256  # samples looked at together when the range of a mapped file is taken


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dataset:
    """Samples for every input of a model, with labels where there are any; made by `load_dataset`.

    Attributes:
        name: file or folder name, for messages and reports.
        inputs: what the model wants, in its order.
        columns: the samples of each input.
        rows: the samples that belong to this set, as indices into the columns.
        labels: class indices (len(self),), or None.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    columns: tuple[ImageFiles | ArraySamples, ...]
    rows: Rows
    labels: Labels | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fixed_batch(self) -> int | None:
        """Batch size that the model insists on, or None."""
        return next((s.shape[0] for s in self.inputs if s.shape and 0 not in s.free_axes), None)

    def batch(self, indices: Sequence[int] | Rows) -> dict[str, NDArray[Any]]:
        """Feeds with these samples, one array per input of the model.

        Raises:
            DataError: an image cannot be read or does not fit the model.
            IndexError: no such sample.
        """
        rows = self.rows[np.asarray(indices, np.int64)]
        return {spec.name: column.read(rows) for spec, column in zip(self.inputs, self.columns, strict=True)}

    def batches(self, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """All samples in order, `batch_size` at a time; the last batch may be smaller.

        Raises:
            DataError: an image cannot be read or does not fit the model.
            OptionError: the batch size is not positive.
        """
        if batch_size < 1:
            raise OptionError(f"batch size {batch_size}: must be at least 1")
        for start in range(0, len(self), batch_size):
            yield self.batch(np.arange(start, min(start + batch_size, len(self))))

    def subset(self, indices: Sequence[int] | Rows) -> Dataset:
        """Only these samples, in this order.

        Raises:
            IndexError: no such sample.
        """
        picks = np.asarray(indices, np.int64)
        return replace(self, rows=self.rows[picks], labels=None if self.labels is None else self.labels[picks])


def load_dataset(path: Path | str, *, preprocess: Preprocess, inputs: Sequence[InputSpec],
                 labels: Path | str | None = None, limit: int | None = None) -> Dataset:
    """Open a folder of images, one image, an .npy or an .npz file as feeds for `inputs`.

    Labels come from `labels` (.csv, .npy or .npz), else from the keys ``labels`` or ``y`` of an .npz, from
    ``labels.csv`` in the folder, or from two or more sub-folders: 0, 1, ... in the order of their names, or the names
    themselves if all are integers. `limit` keeps that many samples, evenly spread (folders are often sorted by class).

    Raises:
        DataError: nothing usable is there, it does not fit the model or the preset, or labels do not fit the data.
        OptionError: the limit is not positive, or --mean contradicts the scale that the data decides.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise OptionError(f"limit {limit}: at least 1 sample is needed")
    if not inputs:
        raise DataError(f"{path}: cannot be used (the model has no inputs to feed)")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path of the data")
    table = None if labels is None else Path(labels)
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in IMAGE_SUFFIXES:
        column, found = _open_images(path, preprocess, inputs, table)
        columns: tuple[ImageFiles | ArraySamples, ...] = (column,)
    elif suffix in (".npy", ".npz"):
        columns, found = _open_arrays(path, preprocess, inputs, table, limit)
    else:
        raise DataError(f"{path}: neither a folder of images, nor an image, nor an .npy or .npz file; convert it")
    rows = _spread(len(columns[0]), limit)
    data = Dataset(name=path.name or str(path), inputs=tuple(inputs), columns=columns, rows=rows,
                   labels=None if found is None else found[rows])
    data.batch([0])  # what is wrong with every sample is found here, not in the middle of a long run
    return data


def check_labels(labels: Labels, classes: int, where: str) -> None:
    """See that every label is one of the model's classes, 0..classes-1.

    Raises:
        DataError: a label lies outside.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"{where}: label {labels[wrong[0]]} (sample {wrong[0]}), but the model has {classes} classes "
                        f"(0..{classes - 1}); labels count from 0")


def _spread(count: int, limit: int | None) -> Rows:
    """`limit` indices of range(count), evenly spaced, each from the middle of its stretch."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return (2 * np.arange(limit, dtype=np.int64) + 1) * count // (2 * limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFiles:
    """Image files that are decoded on every read."""

    paths: tuple[Path, ...]
    prep: Preprocess
    target: ImageInput

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Rows) -> NDArray[Any]:
        """Decoded and preprocessed images.

        Raises:
            DataError: a file is no image, has the wrong size, or a size unlike the others.
        """
        paths = [self.paths[int(row)] for row in rows]
        images = [geometry(decode(p, self.target.channels), self.prep, self.target, where=str(p)) for p in paths]
        for path, image in zip(paths, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(f"{path}: image is {show_size(image.shape[:2])}, but {paths[0]} in the same batch is "
                                f"{show_size(images[0].shape[:2])}; use --resize H,W, or --resize and --crop")
        return finish(images, self.prep, self.target, where=str(paths[0]))


def _open_images(path: Path, prep: Preprocess, inputs: Sequence[InputSpec],
                 table: Path | None) -> tuple[ImageFiles, Labels | None]:
    if len(inputs) > 1:
        raise DataError(f"{path}: images feed one input, but the model has {len(inputs)}; "
                        f"give an .npz with the keys {', '.join(i.name for i in inputs)}")
    root, names = (path, _image_names(path)) if path.is_dir() else (path.parent, [path.name])
    prep = prep.resolved(pixels=inputs[0].dtype.kind == "f")
    target = image_input(inputs[0], prep, pixels=True)
    if table is None and path.is_dir() and (root / LABELS_FILE).is_file():
        table = root / LABELS_FILE
    found = _subfolder_labels(names) if table is None else _table_labels(table, len(names), path, names)
    return ImageFiles(paths=tuple(root / n for n in names), prep=prep, target=target), found


def _image_names(root: Path) -> list[str]:
    """Images below `root` as sorted relative paths with slashes; hidden files and folders do not count."""
    names = []
    with reading(root, "a folder"):
        for folder, inner, files in os.walk(root, onerror=_raise):
            inner[:] = [n for n in inner if not n.startswith(".")]
            names += [Path(folder, n).relative_to(root).as_posix() for n in files
                      if Path(n).suffix.lower() in IMAGE_SUFFIXES and not n.startswith(".")]
    if not names:
        raise DataError(f"{root}: no images in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))}); "
                        f"check the path")
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def _subfolder_labels(names: Sequence[str]) -> Labels | None:
    """Classes from the first folder of each name; one folder alone is no classification."""
    if not all("/" in name for name in names):
        return None
    folders = [name.split("/")[0] for name in names]
    order = sorted(set(folders))
    if all(re.fullmatch(r"[0-9]{1,9}", name) for name in order):
        return np.array([int(name) for name in folders], np.int64)
    index = {name: i for i, name in enumerate(order)}
    return np.array([index[name] for name in folders], np.int64) if len(order) > 1 else None


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

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Rows) -> NDArray[Any]:
        """Preprocessed samples.

        Raises:
            DataError: they do not end at the model's size or fit into its dtype.
        """
        part = self.array[rows]
        if self.target is None:
            return cast(part, self.spec.dtype, where=self.where)
        part = part[..., np.newaxis] if None in self.axes else part.transpose([a for a in self.axes if a is not None])
        images = [geometry(sample, self.prep, self.target, where=self.where) for sample in part]
        return finish(images, self.prep, self.target, where=self.where)


def _open_arrays(path: Path, prep: Preprocess, inputs: Sequence[InputSpec], table: Path | None,
                 limit: int | None) -> tuple[tuple[ImageFiles | ArraySamples, ...], Labels | None]:
    arrays = _load_arrays(path)
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
    columns = tuple(_array_samples(chosen[spec.name], spec, prep, str(path), _spread(count, limit)) for spec in inputs)
    if table is not None:
        return columns, _table_labels(table, count, path)
    key = next((k for k in _LABEL_KEYS if k in arrays and all(arrays[k] is not a for a in chosen.values())), None)
    return columns, None if key is None else _class_indices(arrays[key], count, f"{path}: array {key}", path)


def _load_arrays(path: Path) -> Arrays:
    """Arrays of a file by key; the single one of an .npy has the key ``""``. Pickled objects are refused."""
    with reading(path, "a numpy file"):
        if path.suffix.lower() == ".npy":
            return {"": np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:  # numpy leaks damaged files
            return {key: np.asarray(loaded[key]) for key in loaded.files}


def _choose(path: Path, arrays: Arrays, inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """The array for each input of the model, checked to hold samples of numbers."""
    if len(inputs) == 1:
        name = inputs[0].name
        data = [k for k in arrays if k not in _LABEL_KEYS]
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


def _table_labels(table: Path, count: int, path: Path, names: Sequence[str] | None = None) -> Labels:
    """Labels from a file that the user named, or from labels.csv in the folder."""
    if not table.is_file():
        raise DataError(f"{table}: no such file; check the path of the labels")
    suffix = table.suffix.lower()
    if suffix == ".csv":
        return _csv_labels(table, count, path, names)
    if suffix not in (".npy", ".npz"):
        raise DataError(f"{table}: labels must be a .csv, .npy or .npz file; convert it")
    arrays = _load_arrays(table)
    key = next((k for k in _LABEL_KEYS if k in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if key is None:
        raise DataError(f"{table}: has the arrays {', '.join(arrays)}, but one named labels is wanted; rename it")
    return _class_indices(arrays[key], count, str(table), path)


def _class_indices(values: NDArray[Any], count: int, where: str, path: Path) -> Labels:
    """An array of labels, checked: integers, not negative, one per sample; (N, 1) is taken for (N,)."""
    if values.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {values.dtype}, not integers; give class indices 0, 1, ...")
    if values.shape not in ((count,), (count, 1)):
        raise DataError(f"{where}: labels have shape {values.shape}, but {path} has {count} samples; "
                        f"give one class index per sample")
    if values.min() < 0 or values.max() >= 10**9:
        raise DataError(f"{where}: labels lie in {values.min()}..{values.max()}; class indices count from 0")
    return values.reshape(count).astype(np.int64)


def _csv_labels(table: Path, count: int, path: Path, names: Sequence[str] | None) -> Labels:
    """Labels of a table ``file,label`` in the order of `names`, or of a table ``label`` in the order of its lines."""
    wanted = ["label"] if names is None else ["file", "label"]
    with reading(table, "a CSV file"), table.open(newline="", encoding="utf-8-sig") as file:
        lines = [(at, row) for at, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    head = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    if not set(wanted) <= set(head) or (names is None and "file" in head):
        raise DataError(f"{table}: the first line is {','.join(head) or 'missing'}, but {','.join(wanted)} is wanted "
                        f"for {path}; add that line")
    found: dict[str, int] = {}
    for at, row in lines[1:]:
        if len(row) != len(head):
            raise DataError(f"{table}, line {at}: {len(row)} cells, but the first line has {len(head)}; repair it")
        cells = dict(zip(head, map(str.strip, row), strict=True))
        name = str(at) if names is None else PurePosixPath(cells["file"].replace("\\", "/")).as_posix()
        if name in found:
            raise DataError(f"{table}, line {at}: {name} has a label already; keep one")
        found[name] = _label(cells["label"], f"{table}, line {at}")
    if names is None:
        return _class_indices(np.array(list(found.values()), np.int64), count, str(table), path)
    extra, missing = sorted(found.keys() - set(names)), sorted(set(names) - found.keys())
    if extra:
        raise DataError(f"{table}: {len(extra)} of {len(found)} labelled files are not in {path} (first: {extra[0]}); "
                        f"names are relative to the folder")
    if missing:
        raise DataError(f"{table}: {len(missing)} of {len(names)} images in {path} have no label "
                        f"(first: {missing[0]}); add a line for each")
    return np.array([found[name] for name in names], np.int64)


def _label(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        reason = "negative" if re.fullmatch(r"-[0-9]+", text) else "not an integer below 10^9"
        raise DataError(f"{where}: label {text!r} is {reason}; give class indices 0, 1, ...")
    return int(text)
