"""Folders of images, and single ones, as samples for the one input of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.files import image_names, reading
from onnxslim1x1.runtime.image_input import ImageInput, image_input
from onnxslim1x1.runtime.images import Change, Pixels, decode, geometry
from onnxslim1x1.runtime.labels import LABELS_FILE, Labels, subfolder_labels, table_labels
from onnxslim1x1.runtime.preprocess import Preprocess, show_size
from onnxslim1x1.runtime.session import InputSpec
from onnxslim1x1.runtime.values import finish

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFiles:
    """Image files that are decoded on every read."""

    paths: tuple[Path, ...]
    prep: Preprocess
    target: ImageInput
    change: Change | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Rows) -> NDArray[Any]:
        """Decoded and preprocessed images.

        Raises:
            DataError: a file is no image, has the wrong size, or a size unlike the others.
        """
        paths = [self.paths[int(row)] for row in rows]
        images = [geometry(self.pixels(int(row)), self.prep, self.target, where=str(path))
                  for row, path in zip(rows, paths, strict=True)]
        for path, image in zip(paths, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(f"{path}: image is {show_size(image.shape[:2])}, but {paths[0]} in the same batch is "
                                f"{show_size(images[0].shape[:2])}; use --resize H,W, or --resize and --crop")
        return finish(images, self.prep, self.target, where=str(paths[0]))

    def pixels(self, row: int) -> Pixels:
        """One image (H, W, C) before preprocessing, changed if that is wanted.

        Raises:
            DataError: the file is no image.
        """
        pixels = decode(self.paths[row], self.target.channels)
        return pixels if self.change is None else self.change(pixels, row)

    def called(self, row: int) -> str:
        """How people call a sample."""
        return self.paths[row].name

    def raw(self, rows: Rows) -> Iterator[bytes]:
        """Contents of the files, names aside.

        Raises:
            DataError: a file cannot be read.
        """
        for row in rows:
            with reading(self.paths[int(row)], "a file"):
                content = self.paths[int(row)].read_bytes()
            yield content

    @property
    def treatment(self) -> str:
        """What happens to the pixels."""
        return f"{self.prep.treatment} {self.target}"


def open_images(path: Path, prep: Preprocess, inputs: Sequence[InputSpec],
                table: Path | None) -> tuple[ImageFiles, Labels | None]:
    """Find the images, and their labels in `table`, labels.csv or sub-folders.

    Raises:
        DataError: no images, they cannot fit the model, or labels do not fit them.
        OptionError: --mean contradicts the scale that the data decides.
    """
    if len(inputs) > 1:
        raise DataError(f"{path}: images feed one input, but the model has {len(inputs)}; "
                        f"give an .npz with the keys {', '.join(i.name for i in inputs)}")
    root, names = (path, image_names(path)) if path.is_dir() else (path.parent, [path.name])
    prep = prep.resolved(pixels=inputs[0].dtype.kind == "f")
    target = image_input(inputs[0], prep, pixels=True)
    if table is None and path.is_dir() and (root / LABELS_FILE).is_file():
        table = root / LABELS_FILE
    found = subfolder_labels(names) if table is None else table_labels(table, len(names), path, names)
    return ImageFiles(paths=tuple(root / n for n in names), prep=prep, target=target), found
