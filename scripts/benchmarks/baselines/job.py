"""What a child process is asked to do, and which calibration images it gets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onnxslim1x1.api import DataOptions, RunOptions
from onnxslim1x1.runtime.files import IMAGE_SUFFIXES
from onnxslim1x1.runtime.preprocess import preprocess

SHARE_PER_SEED = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One model to make with one method.

    Attributes:
        method: name in `methods.METHODS`.
        model: the original.
        calibration: folder of images or .npz.
        preset: name of the preprocessing.
        budget: part of the MACs to keep, or None for a method without a budget.
        seed: None takes all calibration images; a number takes a random 80 % of them, and is the seed of the rest, too.
        limit: calibration images at most.
        threads: of onnxruntime and BLAS.
        output: the file to write.
        plan: the file that `ours` writes its plan to, and its ablation reads it from.
    """

    method: str
    model: str
    calibration: str
    preset: str
    budget: float | None
    seed: int | None
    limit: int | None
    threads: int
    output: str
    plan: str | None = None

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        """From JSON."""
        return cls(**json.loads(text))

    @property
    def run(self) -> RunOptions:
        """Threads and seed."""
        return RunOptions(threads=self.threads, seed=self.seed or 0)

    @contextmanager
    def images(self) -> Iterator[DataOptions]:
        """The calibration images; a random subset exists for as long as the block runs."""
        options = DataOptions(path=Path(self.calibration), preprocess=preprocess(self.preset), limit=self.limit)
        if self.seed is None:
            yield options
            return
        with TemporaryDirectory(prefix="compression-") as folder:
            subset = random_subset(options.path, Path(folder), seed=self.seed, limit=self.limit)
            yield dataclasses.replace(options, path=subset, limit=None)


def random_subset(path: Path, folder: Path, *, seed: int, limit: int | None = None) -> Path:
    """A random 80 % of the images of an .npz or a folder (80 % of `limit`, if that is less), below `folder`."""
    rng = np.random.default_rng(seed)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        target = folder / path.name
        target.mkdir()
        for index in _draw(len(files), limit, rng):
            (target / files[index].name).symlink_to(files[index].resolve())
        return target
    target = folder / path.name
    with np.load(path) as arrays:
        count = len(next(iter(arrays.values())))
        picks = _draw(count, limit, rng)
        np.savez(target, **{name: arrays[name][picks] for name in arrays.files})
    return target


def _draw(count: int, limit: int | None, rng: np.random.Generator) -> list[int]:
    size = max(1, round(SHARE_PER_SEED * min(count, limit or count)))
    return sorted(int(i) for i in rng.choice(count, size, replace=False))
