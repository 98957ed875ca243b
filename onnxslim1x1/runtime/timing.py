"""Latency for every wanted number of threads and batch size: what is fed for each, and what cannot be had."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from onnxslim1x1.errors import OptionError
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import fed_inputs
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, LatencyComparison
from onnxslim1x1.runtime.calibration import padded
from onnxslim1x1.runtime.session import Feeds, InputSpec, random_feeds


class Batches(Protocol):
    """What this wants of a data set."""

    def batches(self, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Feeds of all samples in order; the last batch may be smaller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is to be timed: every number of threads with every batch size.

    Attributes:
        threads: numbers of threads; none: that of the benchmark's settings.
        batches: batch sizes; none: that of the feeds.

    Raises:
        OptionError: a number makes no sense, or is given twice.
    """

    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for option, numbers, least in (("--threads", self.threads, 0), ("--batch", self.batches, 1)):
            if numbers and min(numbers) < least:
                raise OptionError(f"{option} {min(numbers)}: must be {least} or more")
            if len(set(numbers)) < len(numbers):
                raise OptionError(f"{option} {','.join(map(str, numbers))}: names a number twice; drop one")


def combinations(wanted: Wanted, feeds: Feeds, settings: BenchmarkSettings, *, model: Path,
                 dataset: Batches | None = None) -> list[tuple[Feeds, BenchmarkSettings]]:
    """Feeds and settings of each comparison, the first batch size of the first number of threads first.

    Args:
        wanted: numbers of threads and batch sizes.
        feeds: one batch, for inputs and their shapes.
        settings: of the comparisons; each has the whole budget.
        model: whose inputs they are.
        dataset: real inputs; random ones without it.

    Raises:
        OptionError: the model takes no other batch size.
    """
    fed = [resized(feeds, batch, model=model, dataset=dataset, seed=settings.seed) for batch in wanted.batches]
    return [(one, replace(settings, threads=threads))
            for threads, one in product(wanted.threads or (settings.threads,), fed or (feeds,))]


def resized(feeds: Feeds, batch: int, *, model: Path, dataset: Batches | None, seed: int) -> Feeds:
    """The same inputs in another batch size."""
    free = require_batches(model, (batch,))
    shapes = {name: (batch, *values.shape[1:]) if free.get(name) else values.shape for name, values in feeds.items()}
    if all(shapes[name] == values.shape for name, values in feeds.items()):
        return feeds
    if dataset is not None:
        return padded(next(dataset.batches(batch)), batch)
    specs = [InputSpec(name=name, dtype=values.dtype, shape=shapes[name]) for name, values in feeds.items()]
    return random_feeds(specs, seed=seed)


def require_batches(model: Path, batches: Sequence[int]) -> Mapping[str, bool]:
    """Whether the first axis of each input is free.

    Raises:
        OptionError: none is, and the model does not happen to take the wanted batch size.
        ModelError: the model cannot be read.
    """
    if not batches:
        return {}
    first = {info.name: info.type.tensor_type.shape.dim[0] for info in fed_inputs(load(model).proto.graph)
             if info.type.tensor_type.shape.dim}
    free = {name: axis.dim_value <= 0 for name, axis in first.items()}  # 0 where the axis has a name, or nothing
    fixed = {axis.dim_value: name for name, axis in first.items() if not free[name]}
    for batch in batches:
        if not any(free.values()) and batch not in fixed:
            size, name = next(iter(fixed.items()), (1, "none"))
            raise OptionError(f"--batch {batch}: {model} takes {size} at a time (the first axis of input {name} is "
                              f"fixed); drop --batch, or export the model with a free first axis")
    return free


def thread_warnings(latencies: Sequence[LatencyComparison]) -> list[str]:
    """Why threads may stand in each other's way, one line for each reason."""
    found = []
    for one in latencies:
        if one.cpus and one.original.threads > one.cpus:
            found.append(f"{one.original.threads} threads share the {one.cpus} processors that this process may use: "
                         f"latencies with fewer --threads say more")
        elif not one.original.threads and one.cpus < (os.cpu_count() or 1):
            found.append(f"this process may use {one.cpus} of {os.cpu_count()} processors, which onnxruntime does not "
                         f"know when it chooses how many threads to start: give --threads {one.cpus}")
    return list(dict.fromkeys(found))
