"""What was measured and collected before, kept in a folder for the next run.

An entry is one file, ``<folder>/<kind>/<SHA-256 of its key>`` with the suffix .json for a value and .npz for arrays. It
appears whole or not at all, whoever else writes at the same time; one that is damaged counts as absent, and nothing in
the folder is ever executed (no pickles), unlike with the usual caching libraries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1 import __version__
from onnxslim1x1.errors import OutputError

Arrays = Mapping[str, NDArray[Any]]
Key = Mapping[str, Any]
T = TypeVar("T")

CACHE_VARIABLE = "ONNXSLIM1X1_CACHE"
LIMIT_BYTES = 4 * 2**30

_SCHEMA = 1  # part of every key: raise it when files are laid out in another way
_ENTRY = re.compile(r"[0-9a-f]{64}\.(json|npz)")
_DRAFT = re.compile(rf"\.{_ENTRY.pattern}\.[0-9a-f]+")  # what a process leaves behind that was killed while writing
_DRAFT_LIFE_S = 3600.0


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One kept result.

    Attributes:
        kind: what it is, such as ``latency``.
        path: its file.
        size_bytes: size of the file.
        used_s: when it was last written or read, in seconds since 1970.
    """

    kind: str
    path: Path
    size_bytes: int
    used_s: float


@dataclass(slots=True)
class Store:
    """Entries in a folder, which is made when the first one is kept; safe with several processes at once.

    Where writing fails (a full disk, a folder of someone else), that is said once, and the run goes on without it.

    Attributes:
        folder: where the entries are, or None for a store that keeps nothing.
        limit_bytes: size of all entries above which those are removed that were not used for longest.
        warn: is told why nothing can be kept.
    """

    folder: Path | None
    limit_bytes: int = LIMIT_BYTES
    warn: Callable[[str], None] = field(default=_warn, compare=False, repr=False)
    _failed: bool = field(default=False, init=False, compare=False, repr=False)
    _unswept: float = field(default=float("inf"), init=False, compare=False, repr=False)

    def shelf(self, **key: Any) -> Shelf:
        """Entries whose keys share these items and the version of the package."""
        return Shelf(self, {"version": __version__} | key)

    def value(self, kind: str, key: Key) -> Any:
        """JSON value that was kept, or None. Sequences come back as lists."""
        return _load(self._path(kind, key, "json"), _read_value)

    def put_value(self, kind: str, key: Key, value: Any) -> None:
        """Keep a JSON value other than None.

        Raises:
            TypeError: the key or the value is no JSON.
        """
        content = json.dumps({"key": key, "value": value, "sha256": _digest(value)}).encode()
        self._keep(self._path(kind, key, "json"), lambda file: file.write(content), len(content))

    def arrays(self, kind: str, key: Key) -> dict[str, NDArray[Any]] | None:
        """Arrays that were kept, or None; only those of this entry are read."""
        return _load(self._path(kind, key, "npz"), _read_arrays)

    def put_arrays(self, kind: str, key: Key, arrays: Arrays) -> None:
        """Keep arrays of numbers under their names, uncompressed; there may be none.

        Raises:
            TypeError: the key is no JSON.
            ValueError: an array holds objects.
        """
        if any(array.dtype.hasobject for array in arrays.values()):
            raise ValueError(f"{kind}: only arrays of numbers can be kept")
        self._keep(self._path(kind, key, "npz"), lambda file: _write_arrays(file, arrays),
                   sum(array.nbytes for array in arrays.values()))

    def entries(self) -> list[Entry]:
        """All entries, those first that were not used for longest."""
        found = []
        for path in self._files(_ENTRY):
            with suppress(OSError):  # another process removed it just now
                status = path.stat()
                found.append(Entry(kind=path.parent.name, path=path, size_bytes=status.st_size,
                                   used_s=status.st_mtime))
        return sorted(found, key=lambda entry: entry.used_s)

    def clear(self) -> list[Entry]:
        """Remove all entries, and nothing else that lies in the folder; returns what they were.

        Raises:
            OutputError: an entry cannot be removed.
        """
        found = self.entries()
        try:
            for entry in found:
                entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be removed ({error.strerror}); check who owns it") from error
        self._remove_drafts()
        for folder in {entry.path.parent for entry in found}:
            with suppress(OSError):  # not empty
                folder.rmdir()
        return found

    def _path(self, kind: str, key: Key, suffix: str) -> Path | None:
        digest = _digest([_SCHEMA, kind, key])
        return None if self.folder is None else self.folder / kind / f"{digest}.{suffix}"

    def _keep(self, path: Path | None, write: Callable[[BinaryIO], object], size_bytes: int) -> None:
        if path is None or self._failed or size_bytes > self.limit_bytes:
            return
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                write(file)
            os.replace(draft, path)  # noqa: PTH105  (Path.replace hides the rename)
        except OSError as error:
            self._failed = True
            self.warn(f"cache {self.folder}: cannot be written ({error.strerror or error}); what is measured is not "
                      "kept from here on")
            return
        finally:
            with suppress(OSError):  # mostly there is none any more
                draft.unlink()
        self._unswept += size_bytes
        if self._unswept > self.limit_bytes / 16:
            self._sweep()

    def _sweep(self) -> None:
        """Make room if there is too little: down to nine tenths of the limit, so that it lasts for a while."""
        self._unswept = 0
        self._remove_drafts()
        found = self.entries()
        excess = sum(entry.size_bytes for entry in found) - self.limit_bytes
        if excess <= 0:
            return
        excess += self.limit_bytes // 10
        for entry in found[:-1]:
            with suppress(OSError):
                entry.path.unlink()
                excess -= entry.size_bytes
            if excess <= 0:
                return

    def _remove_drafts(self) -> None:
        for path in self._files(_DRAFT):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _DRAFT_LIFE_S:
                    path.unlink()

    def _files(self, pattern: re.Pattern[str]) -> list[Path]:
        return [] if self.folder is None else [p for p in self.folder.glob("*/*") if pattern.fullmatch(p.name)]


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """The part of a store whose keys share some items; methods take the rest of the key and do as those of `Store`."""

    store: Store
    key: Key

    def at(self, **more: Any) -> Shelf:
        """The part of this shelf whose keys share further items."""
        return Shelf(self.store, {**self.key, **more})

    def value(self, kind: str, /, **more: Any) -> Any:
        """JSON value that was kept, or None."""
        return self.store.value(kind, {**self.key, **more})

    def put_value(self, kind: str, value: Any, /, **more: Any) -> None:
        """Keep a JSON value."""
        self.store.put_value(kind, {**self.key, **more}, value)

    def arrays(self, kind: str, /, **more: Any) -> dict[str, NDArray[Any]] | None:
        """Arrays that were kept, or None."""
        return self.store.arrays(kind, {**self.key, **more})

    def put_arrays(self, kind: str, arrays: Arrays, /, **more: Any) -> None:
        """Keep arrays of numbers."""
        self.store.put_arrays(kind, {**self.key, **more}, arrays)


    def once(self, kind: str, make: Callable[[], Any], /, **more: Any) -> Any:
        """JSON value that was kept, else the one that `make` gives, which is kept from then on."""
        found = self.value(kind, **more)
        if found is None:
            found = make()
            self.put_value(kind, found, **more)
        return found


NO_STORE = Store(None)


def user_store(folder: Path | None = None, *, warn: Callable[[str], None] = _warn) -> Store:
    """The store in `folder`, else in $ONNXSLIM1X1_CACHE (``off`` for none), else where the system has user caches."""
    named = os.environ.get(CACHE_VARIABLE, "")
    if folder is None and named.lower() == "off":
        return NO_STORE
    if folder is None and not named:
        from platformdirs import user_cache_path

        folder = user_cache_path("onnxslim1x1", appauthor=False)
    return Store(folder or Path(named), warn=warn)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _load(path: Path | None, read: Callable[[Path], T]) -> T | None:
    if path is None:
        return None
    try:
        found = read(path)
    except (FileNotFoundError, PermissionError):
        return None
    except Exception:  # json, zipfile and numpy raise dozens of unrelated types on damaged files
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):  # a folder that cannot be written to can be read all the same
        os.utime(path)
    return found


def _read_value(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    if _digest(content["value"]) != content["sha256"]:
        raise ValueError("changed since it was written")
    return content["value"]


def _write_arrays(file: BinaryIO, arrays: Arrays) -> None:
    """What `numpy.savez` writes; that of numpy 1.26 complains on the terminal where the disk is full."""
    with ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:  # zipfile checks the CRC of each array
        return {name: loaded[name] for name in loaded.files}
