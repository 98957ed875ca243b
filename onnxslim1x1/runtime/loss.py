"""The loss of a rewritten model against its original on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.calibration import Batches, fixed_batch, padded
from onnxslim1x1.runtime.compare import kl_divergence, log_probabilities, looks_like_classifier
from onnxslim1x1.runtime.session import create_session, patient_options, run

_BATCH = 16


class HeldOutLoss:
    """Mean loss of a model over a few images whose original outputs are known.

    For class scores the Kullback-Leibler divergence KL(original || rewritten) in nats, for other outputs the squared
    error relative to the variance of the original; the mean over the outputs.
    """

    def __init__(self, original: Model, data: Batches, *, threads: int = 0) -> None:
        self._threads = threads
        self._fixed = fixed_batch(original)
        self._batches: list[Mapping[str, NDArray[Any]]] = list(data.batches(self._fixed or _BATCH))
        self._outputs = [o.name for o in original.proto.graph.output]
        self._expected = self._run(original)

    def __call__(self, model: Model) -> float:
        """Loss of a model; infinite if an output is not finite.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
        """
        found = self._run(model)
        losses = [_loss(want, have) for want, have in zip(self._expected, found, strict=True)]
        return float(np.mean(losses))

    def drop(self, model: Model) -> float:
        """Upper bound of what a model loses in accuracy, estimated without labels; infinite if an output is not finite.

        For class scores the expected top-1 drop if the original's probabilities p are right,
        ``mean(p[argmax p] - p[argmax q])``, plus one standard error over the images; for other outputs the loss.
        The largest over the outputs.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
        """
        found = self._run(model)
        return max(_drop(want, have) for want, have in zip(self._expected, found, strict=True))

    def _run(self, model: Model) -> list[NDArray[Any]]:
        session = create_session(model.source, options=patient_options(threads=self._threads), where=model.where)
        parts = []
        for batch in self._batches:
            count = len(next(iter(batch.values())))
            found = run(session, padded(batch, self._fixed), outputs=self._outputs)
            parts.append([values[:count] for values in found])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _loss(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if not np.isfinite(found.astype(np.float64)).all():
        return float("inf")
    if looks_like_classifier(expected.shape):
        rows = len(expected)
        return float(kl_divergence(expected.reshape(rows, -1), found.reshape(rows, -1)).mean())
    difference = found.astype(np.float64) - expected
    return float((difference**2).mean() / max(float(expected.astype(np.float64).var()), 1e-30))


def _drop(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if not looks_like_classifier(expected.shape) or not np.isfinite(found.astype(np.float64)).all():
        return _loss(expected, found)
    rows = len(expected)
    scores = expected.reshape(rows, -1)
    probabilities = np.exp(log_probabilities(scores))
    picked = probabilities[np.arange(rows), found.reshape(rows, -1).argmax(axis=1)]
    lost = probabilities.max(axis=1).astype(np.float64) - picked
    return float(lost.mean() + lost.std(ddof=1) / np.sqrt(rows)) if rows > 1 else float(lost.mean())
