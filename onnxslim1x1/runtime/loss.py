"""The loss of a rewritten model against its original on held-out images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.calibration import Batches, fixed_batch, padded
from onnxslim1x1.runtime.compare import kl_divergence, log_probabilities, looks_like_classifier
from onnxslim1x1.runtime.labels import Labels, check_labels
from onnxslim1x1.runtime.parts import Parts
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.runtime.session import create_session, patient_options, run

_BATCH = 16
_SHARPEST = 0.1  # temperature


class HeldOutLoss:
    """Mean loss of a model over a few images whose original outputs are known.

    For class scores the Kullback-Leibler divergence KL(original || rewritten) in nats, for other outputs the squared
    error relative to the variance of the original over the images, the mean over the parts of an output that hold
    values of different kinds (see `Parts`); the mean over the outputs.

    Args:
        original: what others are compared with.
        data: the images.
        labels: their classes of the first output with class scores, for `drop`; None where they are not known.
        threads: intra-op threads.

    Raises:
        RuntimeFailure: onnxruntime cannot run it.
        DataError: labels do not fit the model.
    """

    def __init__(self, original: Model, data: Batches, *, labels: Labels | None = None, threads: int = 0) -> None:
        self._data, self._threads = data, threads
        self._fixed = fixed_batch(original)
        self._batches: list[Mapping[str, NDArray[Any]]] = list(data.batches(self._fixed or _BATCH))
        self._outputs = [o.name for o in original.proto.graph.output]
        self._expected = self._run(original)
        self._parts = [None if looks_like_classifier(values.shape) else Parts.of(values) for values in self._expected]
        self._temperatures = [1.0] * len(self._outputs)
        if labels is not None and None in self._parts:
            first = self._parts.index(None)  # as in `validate`: whose the labels of other outputs are is not known
            self._temperatures[first] = _temperature(self._expected[first], labels, self._outputs[first])

    def __call__(self, model: Model) -> float:
        """Loss of a model; infinite if an output is not finite.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
        """
        return self.of(self._run(model))

    def along(self, model: Model, folder: Path) -> FrontLoss:
        """The same for models that differ from `model` only from a layer on."""
        return FrontLoss(self, model, self._data, folder, threads=self._threads)

    def of(self, found: Sequence[NDArray[Any]]) -> float:
        """Loss of outputs, in the order of the model and the images."""
        losses = [np.mean(_losses(want, have, parts))
                  for want, have, parts in zip(self._expected, found, self._parts, strict=True)]
        return float(np.mean(losses))

    def drop(self, model: Model) -> float:
        """Upper bound of what a model loses in accuracy, estimated; infinite if an output is not finite.

        For class scores the expected top-1 drop if the original's probabilities p are right,
        ``mean(p[argmax p] - p[argmax q])``, plus one standard error over the images, plus half an image that changes
        its class at the mean margin: that a few images change nothing says little. Labels sharpen p where the original
        is right more often than it thinks (see `_temperature`); a drop that is counted on a hundred labelled images
        would be much noisier. For other outputs the loss. The largest over the outputs and their parts.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
        """
        found = self._run(model)
        return max(_drop(want, have, parts, temperature) for want, have, parts, temperature in zip(
            self._expected, found, self._parts, self._temperatures, strict=True))

    def _run(self, model: Model) -> list[NDArray[Any]]:
        session = create_session(model.source, options=patient_options(threads=self._threads), where=model.where)
        parts = []
        for batch in self._batches:
            count = len(next(iter(batch.values())))
            found = run(session, padded(batch, self._fixed), outputs=self._outputs)
            parts.append([values[:count] for values in found])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


class FrontLoss:
    """Loss of models that have everything in front of a layer in common; that runs only once.

    Args:
        loss: judges the outputs.
        model: one of the models.
        data: images of `loss`.
        folder: for activations.
        threads: intra-op threads.
    """

    def __init__(self, loss: HeldOutLoss, model: Model, data: Batches, folder: Path, *, threads: int = 0) -> None:
        self._loss = loss
        self._outputs = [o.name for o in model.proto.graph.output]
        self._start = partial(Replay, model, data, folder, threads=threads)

    @cached_property
    def _track(self) -> Replay:
        return self._start()  # only when the first loss is asked for

    def __call__(self, model: Model, layer: Layer) -> float:
        """Loss of a model that equals the ones before it up to a layer; layers have to come in graph order.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
            OutputError: the disk is full.
        """
        self._track.advance(model, [layer.input])
        parts = zip(*self._track.compute(model, self._outputs), strict=True)
        return self._loss.of([np.concatenate(column) for column in parts])


def _losses(expected: NDArray[Any], found: NDArray[Any], parts: Parts | None) -> list[float]:
    """Of class scores the one loss that they have, of another output those of its parts."""
    if not np.isfinite(found.astype(np.float64)).all():
        return [float("inf")]
    if parts is not None:
        return parts.losses(expected, found)
    rows = len(expected)
    return [float(kl_divergence(expected.reshape(rows, -1), found.reshape(rows, -1)).mean())]


def _temperature(scores: NDArray[Any], labels: Labels, output: str) -> float:
    """T in [0.1, 1] for which ``softmax(z / T)`` makes the labels most likely (Guo et al. 2017, section 4.2).

    Never above 1: labels that are not those of the images would flatten all probabilities, and so allow any drop.

    Raises:
        DataError: a label is none of the classes.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(scores))
    logs = log_probabilities(scores.reshape(len(scores), -1))
    check_labels(labels, logs.shape[1], f"output {output}")

    def unlikeliness(log_temperature: float) -> float:
        return -float(log_probabilities(logs / math.exp(log_temperature))[rows, labels].mean())

    found = minimize_scalar(unlikeliness, bounds=(math.log(_SHARPEST), 0.0), method="bounded")
    return math.exp(float(found.x))


def _drop(expected: NDArray[Any], found: NDArray[Any], parts: Parts | None, temperature: float) -> float:
    if parts is not None or not np.isfinite(found.astype(np.float64)).all():
        return max(_losses(expected, found, parts))
    if np.array_equal(expected, found):
        return 0.0
    rows = len(expected)
    scores = expected.reshape(rows, -1)
    probabilities = np.exp(log_probabilities(log_probabilities(scores) / temperature))
    picked = probabilities[np.arange(rows), found.reshape(rows, -1).argmax(axis=1)]
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T.astype(np.float64)
    lost = first - picked
    unseen = 0.5 * float((first - second).mean()) / rows
    return float(lost.mean() + lost.std(ddof=1) / np.sqrt(rows)) + unseen if rows > 1 else float(lost.mean()) + unseen
