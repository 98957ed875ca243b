"""Class indices of samples, from tables, arrays or the names of folders, and whether a model has these classes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.files import load_arrays, reading

Labels = NDArray[np.int64]

LABEL_KEYS = ("labels", "y")
LABELS_FILE = "labels.csv"


def check_labels(labels: Labels, classes: int, where: str) -> None:
    """See that every label is one of the model's classes, 0..classes-1.

    Raises:
        DataError: a label lies outside.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(f"{where}: label {labels[wrong[0]]} (sample {wrong[0]}), but the model has {classes} classes "
                        f"(0..{classes - 1}); labels count from 0")


def subfolder_labels(names: Sequence[str]) -> Labels | None:
    """Classes from the first folder of each name; one folder alone is no classification."""
    if not all("/" in name for name in names):
        return None
    folders = [name.split("/")[0] for name in names]
    order = sorted(set(folders))
    if all(re.fullmatch(r"[0-9]{1,9}", name) for name in order):
        return np.array([int(name) for name in folders], np.int64)
    index = {name: i for i, name in enumerate(order)}
    return np.array([index[name] for name in folders], np.int64) if len(order) > 1 else None


def table_labels(table: Path, count: int, path: Path, names: Sequence[str] | None = None) -> Labels:
    """Labels of `count` samples at `path` from a file that the user named, or from labels.csv in the folder.

    Raises:
        DataError: no such file, unreadable, or its labels do not fit the samples (called `names`, if they are files).
    """
    if not table.is_file():
        raise DataError(f"{table}: no such file; check the path of the labels")
    suffix = table.suffix.lower()
    if suffix == ".csv":
        return _csv_labels(table, count, path, names)
    if suffix not in (".npy", ".npz"):
        raise DataError(f"{table}: labels must be a .csv, .npy or .npz file; convert it")
    arrays = load_arrays(table)
    key = next((k for k in LABEL_KEYS if k in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if key is None:
        raise DataError(f"{table}: has the arrays {', '.join(arrays)}, but one named labels is wanted; rename it")
    return class_indices(arrays[key], count, str(table), path)


def class_indices(values: NDArray[Any], count: int, where: str, path: Path) -> Labels:
    """An array of labels, checked: integers, not negative, one per sample; (N, 1) is taken for (N,).

    Raises:
        DataError: they are not.
    """
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
        return class_indices(np.array(list(found.values()), np.int64), count, str(table), path)
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
