"""Gates of many rewritten models against one original: its outputs are computed once, and no latency is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.graph.model import Model
from onnxslim1x1.runtime.session import Feeds, create_session, input_specs, patient_options
from onnxslim1x1.runtime.validate import (
    Collector,
    Dataset,
    ValidationSettings,
    feed_batches,
    require_classifier,
    require_samples,
    run_outputs,
)
from onnxslim1x1.runtime.verdict import CheckResult, Gate, ValidationReport, judge

_KEPT_BYTES = 512_000_000  # of inputs and outputs of the original; beyond that they are made again for every trial


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Known:
    """A batch with what the original makes of it."""

    feeds: Feeds
    rows: int
    labels: NDArray[np.int64] | None
    outputs: Feeds

    @property
    def size(self) -> int:
        return sum(array.nbytes for side in (self.feeds, self.outputs) for array in side.values())


class Trial:
    """Judges rewritten models by the accuracy gates of `settings`.

    Args:
        original: what they are compared to.
        dataset: what to run; random inputs without one.
        settings: promises, batch size, seed, shapes, threads and provider.

    Raises:
        DataError: there are no samples.
        RuntimeFailure: onnxruntime cannot load the original.
    """

    def __init__(self, original: Model, dataset: Dataset | None, settings: ValidationSettings) -> None:
        require_samples(dataset)
        self._dataset, self._settings = dataset, settings
        self._path = Path(original.where)
        self._session = self._load(original)
        self._kept: list[_Known] | None = None

    def __call__(self, rewritten: Model) -> tuple[Gate, ...]:
        """Gates of one model; the ONNX checker is taken to agree.

        Raises:
            RuntimeFailure: onnxruntime cannot run it.
            OptionError: classes were promised for a model that is no classifier.
        """
        session = self._load(rewritten)
        collector = Collector((self._session, session), self._settings.accuracy)
        for batch in self._batches():
            found = run_outputs(session, batch.feeds, batch.rows, self._path, limited=False)
            collector.add(batch.feeds, batch.outputs, found, rows=batch.rows, labels=batch.labels)
            require_classifier(self._settings.tolerance, collector.classifier, self._path)
        found_all = collector.result({})
        bounded = self._settings.tolerance.confidence is not None
        report = ValidationReport(
            checker=CheckResult(original_ok=True, rewritten_ok=True, message=""), mismatches=found_all.mismatches,
            outputs=found_all.outputs, classification=found_all.classification, latencies=(), size_original_bytes=0,
            size_rewritten_bytes=0, images=found_all.images, data="",
            figures=found_all.judged(self._settings)["figures"] if bounded else ())
        return judge(report, self._settings.tolerance)

    def _load(self, model: Model) -> Any:
        benchmark = self._settings.benchmark
        return create_session(model.source, options=patient_options(threads=benchmark.threads),
                              provider=benchmark.provider, where=model.where)

    def _batches(self) -> Iterator[_Known]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[_Known] = []
        size, specs = 0, input_specs(self._session, self._settings.shapes)
        for done, feeds, rows in feed_batches(specs, self._dataset, self._settings):
            labels = None if self._dataset is None or self._dataset.labels is None else (
                self._dataset.labels[done - rows:done])
            batch = _Known(feeds=feeds, rows=rows, labels=labels,
                           outputs=run_outputs(self._session, feeds, rows, self._path, limited=False))
            size += batch.size
            if size <= _KEPT_BYTES:
                kept.append(batch)
            yield batch
        if size <= _KEPT_BYTES:
            self._kept = kept
