"""Reading what users give: folders, numpy files, and one error for everything that is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError

Arrays = Mapping[str, NDArray[Any]]

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))


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


def load_arrays(path: Path) -> Arrays:
    """Arrays of a file by key; the single one of an .npy has the key ``""``.

    Raises:
        DataError: the file is damaged, or holds pickled objects.
    """
    with reading(path, "a numpy file"):
        if path.suffix.lower() == ".npy":
            return {"": np.lib.format.open_memmap(path, mode="r")}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:  # numpy leaks damaged files
            return {key: np.asarray(loaded[key]) for key in loaded.files}


def image_names(root: Path) -> list[str]:
    """Images below `root` as sorted relative paths with slashes; hidden files and folders do not count.

    Raises:
        DataError: there are none, or the folder cannot be read.
    """
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
