"""Data on its way through a model, one segment at a time.

A sequential reconstruction needs the inputs of every layer after all layers before it have changed. Running the model
from its start for each layer costs the square of the depth; here what a segment writes is kept on disk until
the rest of the model no longer needs it, so every node runs once and memory holds one batch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxslim1x1.errors import OutputError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.segment import Segment, segment
from onnxslim1x1.runtime.calibration import Batches, fixed_batch, padded
from onnxslim1x1.runtime.session import create_session, patient_options, run

_BATCH = 16
_MAPPED: Literal["r"] | None = None if os.name == "nt" else "r"  # Windows does not remove a file that is mapped


class Replay:
    """The tensors of a model at the front of its execution, batch by batch in files.

    Raises:
        OutputError: the folder cannot be written.
        DataError: the data cannot be read.
    """

    def __init__(self, model: Model, data: Batches, folder: Path, *, threads: int = 0) -> None:
        self._folder, self._threads = folder, threads
        self._fixed = fixed_batch(model)
        self._names: dict[str, str] = {}  # tensor -> stem of its files
        self._counts: list[int] = []
        self._stems = count()
        with _keeping(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for batch in data.batches(self._fixed or _BATCH):
            self._counts.append(len(next(iter(batch.values()))))
            for name, values in padded(batch, self._fixed).items():
                self._write(name, len(self._counts) - 1, values)
        self._done = set(self._names)

    def fork(self, folder: Path) -> Replay:
        """A second track that goes on from here.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        other = object.__new__(Replay)
        other._folder, other._threads, other._fixed = folder, self._threads, self._fixed
        other._names, other._counts, other._done = dict(self._names), list(self._counts), set(self._done)
        other._stems = count(len(self._names) + next(self._stems))
        with _keeping(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in self._names:
                for number in range(len(self._counts)):
                    _link(self._file(name, number), other._file(name, number))
        return other

    def advance(self, model: Model, wanted: Sequence[str]) -> None:
        """Compute tensors, and drop those that neither `wanted` nor the rest of the model needs.

        `model` may differ from call to call in what was not computed yet.

        Raises:
            RuntimeFailure: onnxruntime cannot run the segment.
            OutputError: the disk is full.
            ModelError: a weight cannot be read.
            ValueError: a wanted tensor cannot be computed from the tensors at the front.
        """
        part = segment(model, at_hand=self._names, done=self._done, wanted=wanted)
        for number, found in enumerate(self._run(model, part)):
            for name, values in found.items():
                self._write(name, number, values)
        for name in set(self._names) - part.kept - set(part.outputs):
            for number in range(len(self._counts)):
                self._file(name, number).unlink()
            del self._names[name]
        self._done |= part.written

    def compute(self, model: Model, wanted: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
        """Values of tensors that a model makes from the front, batch by batch; the front stays where it is.

        Raises:
            As `advance`.
        """
        part = segment(model, at_hand=self._names, done=self._done, wanted=wanted)
        for number, found in enumerate(self._run(model, part)):
            yield [self._unpadded(found[n] if n in found else self._read(n, number), number) for n in wanted]

    def batches(self, names: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
        """Values of tensors at the front, batch by batch, without what pads a batch."""
        for number in range(len(self._counts)):
            yield [self._unpadded(self._read(name, number), number) for name in names]

    def _run(self, model: Model, part: Segment) -> Iterator[dict[str, NDArray[Any]]]:
        """What a part of a model writes, batch by batch."""
        if part.model is None:
            yield from ({} for _ in self._counts)
            return
        for info in part.model.graph.input:  # not every model declares the types of its inner tensors
            dtype = self._read(info.name, 0).dtype
            info.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        session = create_session(part.model.SerializeToString(), where=model.where,
                                 options=patient_options(threads=self._threads))
        for number in range(len(self._counts)):
            feeds = {name: self._read(name, number) for name in part.inputs}
            found = run(session, feeds, outputs=part.outputs, where=model.where)
            yield dict(zip(part.outputs, found, strict=True))

    def _unpadded(self, values: NDArray[Any], number: int) -> NDArray[Any]:
        images = self._counts[number]
        return values[:images] if images < self._fixed and values.shape[:1] == (self._fixed,) else values

    def __len__(self) -> int:
        return sum(self._counts)

    def _file(self, name: str, number: int) -> Path:
        return self._folder / f"{self._names[name]}-{number}.npy"

    def _read(self, name: str, number: int) -> NDArray[Any]:
        values: NDArray[Any] = np.load(self._file(name, number), mmap_mode=_MAPPED)
        return np.asarray(values)

    def _write(self, name: str, number: int, values: NDArray[Any]) -> None:
        if name not in self._names:
            self._names[name] = f"t{next(self._stems)}"
        with _keeping(self._folder):
            np.save(self._file(name, number), values)


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder}: cannot keep activations ({error.strerror or error}); free some space or set "
                          "TMPDIR to a larger disk") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
