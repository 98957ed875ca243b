"""Where values that are not in a message lie, and reading or copying them without more memory than they need.

A reference is taken from the model file, which anybody may have written: it is looked at before a byte is read or
allocated. It must lead to a regular file in the model's own folder (not by way of a symbolic link either), and the
file must hold as many bytes as the tensor claims to have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

_CHUNK = 1 << 22
_BITS = {"UINT2": 2, "INT2": 2, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4}  # several values share a byte


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Bytes in a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """All of them.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has become shorter.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            raw = file.read(self.length)
        if len(raw) < self.length:
            raise ValueError(f"{self.path.name} ends before them")
        return raw

    def array(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """All of them as numbers, with no copy on the way.

        Raises:
            OSError: the file cannot be read.
            ValueError: they do not fill the shape.
        """
        values = np.empty(math.prod(shape), np.dtype(dtype))
        left = values.view(np.uint8).data
        with self.path.open("rb", buffering=0) as file:  # five times as fast as numpy's fromfile
            file.seek(self.offset)
            while left:
                count = file.readinto(left)
                if not count:
                    raise ValueError(f"{self.path.name} ends before them")
                left = left[count:]
        return values.astype(values.dtype.newbyteorder("="), copy=False).reshape(shape)

    def copy_to(self, target: BinaryIO) -> None:
        """Append them to a file, a few megabytes at a time.

        Raises:
            OSError: one of the files refuses.
            ValueError: the file has become shorter.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise ValueError(f"{self.path.name} ends before them")
                target.write(chunk)
                left -= len(chunk)


def location(tensor: onnx.TensorProto) -> str:
    """File name that an external tensor refers to."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def byte_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes that the shape and the type of a tensor claim, or None for types without a fixed size.

    Raises:
        ValueError: a dimension is negative.
    """
    if min(tensor.dims, default=0) < 0:
        raise ValueError(f"the shape {list(tensor.dims)} has a negative size")
    count = math.prod(tensor.dims)
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        bits = _BITS.get(name) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError, TypeError):  # an unknown type
        return None
    return None if name in ("STRING", "UNDEFINED") else -(-count * bits // 8)


def place(tensor: onnx.TensorProto, home: Path | None) -> Place:
    """Where the values of an external tensor lie.

    Args:
        tensor: with a reference.
        home: the model file, symbolic links resolved, or None for a model in memory, whose references are relative to
            the current folder.

    Raises:
        OSError: there is no such file.
        ValueError: the reference leaves the model's folder, or the file does not hold what the tensor claims.
    """
    path = _inside(location(tensor), home)
    entries = {e.key: e.value for e in tensor.external_data}
    offset, claimed = _number(entries, "offset"), byte_size(tensor)
    length = _number(entries, "length") if "length" in entries else claimed
    size = path.stat().st_size
    if length is None:
        length = max(size - offset, 0)
    if claimed is not None and length != claimed:
        raise ValueError(f"{length} bytes are stored for a shape and a type that need {claimed}")
    if offset + length > size:
        raise ValueError(f"{path.name} ends before them: they need {offset + length} bytes, it has {size}")
    return Place(path=path, offset=offset, length=length)


def _inside(name: str, home: Path | None) -> Path:
    """The file of a reference, if it lies in the folder of the model."""
    folder = (home.parent if home else Path()).resolve()
    if not name or "\0" in name:
        raise ValueError("the reference names no file")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise ValueError(f"{name} is an absolute path; only files beside the model are read")
    path = folder / name
    real = path.resolve()
    if not real.is_relative_to(folder):
        way = "by a symbolic link" if path.is_symlink() or ".." not in PurePosixPath(name).parts else "by .."
        raise ValueError(f"{name} leaves the folder of the model {way}; copy the model and its data as files into one "
                         "folder")
    if not real.exists():
        raise ValueError(f"{name} is not in {folder}, where the model file lies; copy both into one folder")
    if not real.is_file():
        raise ValueError(f"{name} is no regular file")
    return real


def _number(entries: dict[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(f"the {key} {text[:40]!r} is no number of bytes")
    return int(text)
