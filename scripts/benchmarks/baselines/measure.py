"""The parent's side: one row of the table from a model file, or from a child process that makes one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.api import DataOptions, RunOptions, ValidationSettings, validate
from onnxslim1x1.graph.model import load
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, compare_models

from .job import Job
from .methods import Method

_HERE = Path(__file__).resolve().parent
_BATCH = 32
_CACHE_VARIABLE = "ONNXSLIM1X1_CACHE"  # each child starts with an empty cache, so its seconds are those of a first run


class ChildFailed(Exception):
    """A method could not make its model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """How the made models are measured.

    Attributes:
        evaluation: labelled images.
        threads: counts at which latency is measured; the last one also serves the accuracy runs.
        seconds: for each latency comparison.
    """

    evaluation: DataOptions
    threads: tuple[int, ...] = (1, 2)
    seconds: float = 5.0


def make(job: Job) -> dict[str, Any]:
    """Run a job in a process of its own: seconds, peak memory and a note.

    Raises:
        ChildFailed: it ended with an error; the message is the last line of what it said.
    """
    path = os.pathsep.join(p for p in (str(_HERE.parent), os.environ.get("PYTHONPATH")) if p)
    threads = {name: str(job.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with TemporaryDirectory(prefix="compression-") as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-P", "-m", f"{_HERE.name}.worker", job.dumps(), str(report)]
        changes = {"PYTHONPATH": path, _CACHE_VARIABLE: str(Path(folder) / "cache")}
        done = subprocess.run(command, env=os.environ | threads | changes, check=False, capture_output=True, text=True)
        if done.returncode or not report.exists():
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise ChildFailed(f"exit status {done.returncode}: {said[-1]}")
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def measure(job: Job, method: Method, how: Measuring, *, latency: bool = True) -> dict[str, Any]:
    """Figures of one row: the cost of making the model, then of the model itself against the original.

    Raises:
        ChildFailed: as in `make`.
    """
    figures: dict[str, Any] = {}
    rewritten = Path(job.model)
    if method.make is not None:
        figures, rewritten = make(job), Path(job.output)
    report = validate(job.model, rewritten, data=how.evaluation, run=RunOptions(threads=how.threads[-1]),
                      settings=ValidationSettings(measure_latency=False, batch_size=_BATCH))
    before, after = report.cost_original, report.cost_rewritten
    figures |= {"cost_original": before, "cost": before if method.quantised else after,
                "bytes": report.size_rewritten_bytes, "checker_ok": report.checker.rewritten_ok,
                "classification": report.classification, "images": report.images}
    if latency:
        figures["latency"] = {str(n): _latency(job, rewritten, how, n) for n in how.threads}
    rounded: dict[str, Any] = jsonable(figures)
    return rounded


def _latency(job: Job, rewritten: Path, how: Measuring, threads: int) -> dict[str, Any]:
    """Interleaved comparison with the original on one image, as the package measures it."""
    settings = BenchmarkSettings(threads=threads, budget_s=how.seconds)
    found = compare_models(Path(job.model), rewritten, feeds=_one_image(Path(job.model), how), settings=settings)
    compared: dict[str, Any] = jsonable(replace(found, samples=None))  # single runs would fill the file
    return compared | {"noise_floor": found.noise_floor, "verdict": found.verdict}


def _one_image(model: Path, how: Measuring) -> dict[str, NDArray[Any]]:
    loaded = load(model)
    data = how.evaluation.open(loaded, RunOptions().shapes(loaded))
    return data.batch(np.zeros(data.fixed_batch or 1, np.int64))
