"""Saving a model atomically."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from onnxslim1x1.errors import ModelError, OptionError, OutputError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.pieces import Piece, beside, byte_count, whole

_LARGEST_SINGLE_FILE = 1_900_000_000  # protobuf ends at 2 GiB, and the message needs some room beside the weights


def save(model: Model, path: Path) -> None:
    """Write a model so that `path` holds either all of it or what it held before.

    Models that kept their weights in external files, or exceed what protobuf can hold, get one file
    ``<name>.data`` beside them. Weights that lie in files are copied from there, a few megabytes at a time.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
        ModelError: weights cannot be read.
    """
    message, data = whole(model), None
    if model.external_files() or byte_count(message) > _LARGEST_SINGLE_FILE:
        message, data = beside(model, f"{path.name}.data")
    with atomic_folder(path) as folder:
        if data is not None:
            _write_pieces(folder / f"{path.name}.data", data, model)
        _write_pieces(folder / path.name, message, model)


def _write_pieces(path: Path, pieces: Sequence[Piece], model: Model) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
                continue
            try:
                piece.copy_to(file)
            except ValueError as error:  # somebody changes the file in these moments
                raise ModelError(f"{model.where}: the weights cannot be read ({error})") from error


def copy_unchanged(model: Model, path: Path) -> None:
    """Copy the file of a model that nothing was changed in, with its external data.

    Raises:
        OutputError: as in `save`.
    """
    if model.path is None or model.external_files():
        save(model, path)
        return
    with atomic_folder(path) as folder:
        shutil.copyfile(model.path, folder / path.name)


def require_writable(path: Path, *inputs: Path | None, example: str = "model.onnx", option: str = "-o") -> None:
    """Fail before the work rather than after it.

    Args:
        path: the file to write.
        inputs: files that are read.
        example: a name for such a file.
        option: what it was named with.

    Raises:
        OptionError: the output is one of the inputs.
        OutputError: the output cannot be written there.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; name the file to write, such as {path / example}")
    for written, source in itertools.product((path, path.with_name(f"{path.name}.data")), inputs):
        if source is not None and written.exists() and source.exists() and written.samefile(source):
            raise OptionError(f"{path}: output and input are the same file; choose another name with {option}")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder to write {path.name} into; create it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: the folder is not writable; choose another place with {option}")


@contextmanager
def atomic_folder(path: Path, option: str = "-o") -> Iterator[Path]:
    """A temporary folder beside `path`; what is written into it moves to `path`'s folder when the block succeeds.

    Args:
        path: the file to write.
        option: what it was named with.

    Raises:
        OutputError: the file system refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
            folder = Path(name)
            yield folder
            _publish(folder, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else f"choose another place with {option}"
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


def _publish(folder: Path, path: Path) -> None:
    """Move what was written into place, the model last.

    Of two files that belong together, no moment and no failure leaves one old and one new: a model that is there
    already makes way before its data changes, and comes back if that fails.
    """
    drafts = sorted(folder.iterdir(), key=lambda f: f.name == path.name)
    if len(drafts) < 2 or not path.exists():
        for draft in drafts:
            os.replace(draft, path.parent / draft.name)  # noqa: PTH105  (Path.replace hides the rename)
        return
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        old = Path(name)
        try:
            for file in (path, *(path.parent / draft.name for draft in drafts[:-1])):
                if os.path.lexists(file):
                    os.replace(file, old / file.name)  # noqa: PTH105
            for draft in drafts:
                os.replace(draft, path.parent / draft.name)  # noqa: PTH105
        except BaseException:
            for file in sorted(old.iterdir(), key=lambda f: f.name == path.name):  # the data first again
                os.replace(file, path.parent / file.name)  # noqa: PTH105
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OutputError: as in `save`.
    """
    with atomic_folder(path) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes, option: str = "-o") -> None:
    """Write a file atomically.

    Raises:
        OutputError: as in `save`.
    """
    with atomic_folder(path, option) as folder:
        (folder / path.name).write_bytes(content)
