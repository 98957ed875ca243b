"""Data sets for calibration and validation: folders of images, .npy and .npz files, with or without labels.

Samples keep one order everywhere: files by their path below the folder, arrays by their first axis.
Folders are decoded when a batch is asked for; .npy files are mapped into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.arrays import ArraySamples, Rows, open_arrays, spread
from onnxslim1x1.runtime.files import IMAGE_SUFFIXES
from onnxslim1x1.runtime.folders import ImageFiles, open_images
from onnxslim1x1.runtime.images import Change
from onnxslim1x1.runtime.labels import Labels
from onnxslim1x1.runtime.preprocess import Preprocess
from onnxslim1x1.runtime.session import InputSpec


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

    @property
    def digest(self) -> str:
        """SHA-256 of what a model is fed: samples in their order, preprocessing and inputs; labels do not count.

        Reads all samples undecoded (30 MB of JPEG files take 0.1 s), so ask once.

        Raises:
            DataError: a file cannot be read.
        """
        total = hashlib.sha256()
        for spec, column in zip(self.inputs, self.columns, strict=True):
            total.update(repr((spec.name, spec.dtype.str, spec.shape, spec.free_axes, column.treatment)).encode())
            for part in column.raw(self.rows):
                total.update(hashlib.sha256(part).digest())  # of fixed length: parts cannot run into each other
        return total.hexdigest()

    def changed(self, change: Change) -> Dataset:
        """The same samples, every image changed before it is preprocessed.

        Raises:
            DataError: some inputs are fed arrays as they are, which are no images.
        """
        for column in self.columns:
            if column.target is None:
                raise DataError(f"{self.name}: holds arrays that are fed as they are, and only images can be changed "
                                "on purpose; give images or 8-bit arrays, or do without --shift")
        return replace(self, columns=tuple(replace(column, change=change) for column in self.columns))

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
        column, found = open_images(path, preprocess, inputs, table)
        columns: tuple[ImageFiles | ArraySamples, ...] = (column,)
    elif suffix in (".npy", ".npz"):
        columns, found = open_arrays(path, preprocess, inputs, table, limit)
    else:
        raise DataError(f"{path}: neither a folder of images, nor an image, nor an .npy or .npz file; convert it")
    rows = spread(len(columns[0]), limit)
    data = Dataset(name=path.name or str(path), inputs=tuple(inputs), columns=columns, rows=rows,
                   labels=None if found is None else found[rows])
    data.batch([0])  # what is wrong with every sample is found here, not in the middle of a long run
    return data
