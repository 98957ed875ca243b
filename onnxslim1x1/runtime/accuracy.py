"""Accuracy by task over a whole data set: the figures, and the images on which two models are furthest apart."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.compare import kl_divergence
from onnxslim1x1.runtime.custom_metric import load_metric
from onnxslim1x1.runtime.evidence import WorstSample
from onnxslim1x1.runtime.metrics import Batch, Metric
from onnxslim1x1.runtime.series import Series
from onnxslim1x1.runtime.tasks import Chosen, choose, require_task

AnyArray = NDArray[Any]
Outputs = Mapping[str, AnyArray]

_MOST_WORST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracySettings:
    """What is found out about accuracy beyond differences of outputs.

    Attributes:
        task: ``auto``, ``classification``, ``image``, ``detection``, ``segmentation``, ``regression`` or ``audio``.
        metrics: of the user, as ``module:function``.
        worst: how many of the images with the largest loss are named.
        per_layer: whether every intermediate tensor is compared.
        shift: whether both models also run on inputs that are changed on purpose.

    Raises:
        OptionError: an unknown task, a task whose extra is missing, or a number that makes no sense.
    """

    task: str = "auto"
    metrics: tuple[str, ...] = ()
    worst: int = 0
    per_layer: bool = False
    shift: bool = False

    def __post_init__(self) -> None:
        require_task(self.task)
        if not 0 <= self.worst <= _MOST_WORST:
            raise OptionError(f"--worst {self.worst}: must lie in 0..{_MOST_WORST}")


class AccuracyCollector:
    """Gathers figures and worst images batch by batch; keeps a few numbers per image.

    Args:
        settings: task, metrics of the user, how many worst images.

    Raises:
        OptionError: a metric of the user cannot be imported.
    """

    def __init__(self, settings: AccuracySettings) -> None:
        self._settings = settings
        self._custom = tuple(map(load_metric, settings.metrics))
        self._worst: list[tuple[float, int, str]] = []  # a heap: the least bad of the worst comes first
        self._images = 0
        self.chosen: Chosen | None = None

    @property
    def classifier(self) -> str | None:
        """The output with the scores of classes that is judged, or None."""
        if self.chosen is None or self.chosen.task != "classification":
            return None
        return self.chosen.outputs[0]

    def start(self, feeds: Outputs, outputs: Outputs, rows: int) -> None:
        """Decide on the task by the first run.

        Raises:
            OptionError: no output suits the task that was asked for.
        """
        self.chosen = choose(
            self._settings.task, rows=rows, inputs={n: a.shape for n, a in feeds.items()},
            outputs={n: a.shape for n, a in outputs.items()}, floats=[n for n, a in outputs.items()
                                                                      if a.dtype.kind == "f"])

    def add(self, batch: Batch) -> None:
        """Take in the outputs that can be compared.

        Raises:
            DataError: a metric of the user fails.
        """
        for metric in self._metrics:
            metric.add(batch)
        if self._settings.worst:
            for row, (loss, note) in enumerate(self._losses(batch)):
                place = heapq.heappush if len(self._worst) < self._settings.worst else heapq.heappushpop
                place(self._worst, (loss, -(self._images + row), note))
        self._images += batch.rows

    @property
    def _metrics(self) -> tuple[Metric, ...]:
        return (self.chosen.metrics if self.chosen else ()) + self._custom

    def series(self) -> tuple[Series, ...]:
        """What was gathered for every figure."""
        return tuple(one for metric in self._metrics for one in metric.series())

    def worst(self) -> tuple[WorstSample, ...]:
        """The images with the largest loss above 0, the worst first, without names and pictures."""
        measure = "kl" if self.classifier else "rel_error"
        return tuple(WorstSample(index=-place, name=f"image {-place}", loss=loss, measure=measure, note=note,
                                 picture=None)
                     for loss, place, note in sorted(self._worst, reverse=True) if loss > 0.0)

    def _losses(self, batch: Batch) -> list[tuple[float, str]]:
        pair = batch.pair(self.classifier) if self.classifier else None
        if pair is not None:
            return _class_losses(*pair, batch.labels)
        return [(loss, f"relative error {100 * loss:.3g} %") for loss in _relative_errors(batch)]


def _class_losses(first: AnyArray, second: AnyArray, labels: NDArray[np.int64] | None) -> list[tuple[float, str]]:
    old, new = (scores.reshape(len(scores), -1) for scores in (first, second))
    both = np.isfinite(old).all(axis=1) & np.isfinite(new).all(axis=1)
    losses = np.full(len(old), math.inf)
    losses[both] = kl_divergence(old[both], new[both])
    found = []
    for row, (loss, a, b) in enumerate(zip(losses.tolist(), old.argmax(axis=1), new.argmax(axis=1), strict=True)):
        said = f"class {a} in both" if a == b else f"class {a} became {b}"
        if math.isinf(loss):
            said = "scores are not finite"
        found.append((loss, said if labels is None else f"{said}, labelled {labels[row]}"))
    return found


def _relative_errors(batch: Batch) -> list[float]:
    """||y - y'|| / ||y|| of each image over all outputs that hold one row for it."""
    noise, signal = np.zeros(batch.rows), np.zeros(batch.rows)
    for name in batch.original:
        pair = batch.pair(name)
        if pair is None or len(pair[0]) != batch.rows:
            continue
        old, new = (values.reshape(batch.rows, -1) for values in pair)
        fine = np.isfinite(old)
        known, there = np.where(fine, old, 0.0), np.isfinite(new)
        errors = np.where(there, np.where(there, new, 0.0) - known, np.inf)
        noise += np.where(fine, errors**2, 0.0).sum(axis=1)
        signal += (known**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: list[float] = np.where(noise == 0.0, 0.0, np.sqrt(noise / signal)).tolist()
    return found
