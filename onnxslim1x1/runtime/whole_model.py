"""Times of whole models next to the one that was given: what the search for a target is corrected by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.shapes import Shapes
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, Latency, relative_speed
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.inputs import model_inputs
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.ratio import Ratio
from onnxslim1x1.runtime.session import random_feeds
from onnxslim1x1.runtime.store import NO_STORE, Shelf
from onnxslim1x1.runtime.stored import model_shelf

_KIND = "latency"
_TIMING = BenchmarkSettings(budget_s=2.0, warmup_s=0.2)


class WholeModel:
    """Times whole models on random inputs, next to the model as it was given.

    Args:
        source: the model as it was given.
        prepared: the same before any layer is rewritten.
        shapes: of its inputs and other tensors.
        options: threads, provider, seed, and the store.
    """

    def __init__(self, source: Model, prepared: Model, shapes: Shapes, options: RunOptions) -> None:
        self._source, self._prepared, self._shapes, self._options = source, prepared, shapes, options
        self._settings = replace(_TIMING, threads=options.threads, provider=options.provider, seed=options.seed)

    @property
    def whole_s(self) -> float:
        """Seconds per run of the model as it was given, undisturbed (10 % quantile): its layers are timed so, too."""
        return self._start["whole_s"]

    @property
    def prepared(self) -> float:
        """Speed-up of the model before any layer is rewritten."""
        return self._start["prepared"]

    @property
    def realised(self) -> float:
        """Part of the predicted saving that an earlier search found in the whole model; 1 without one."""
        return float(self._shelf.value(_KIND, what="realised") or 1.0)

    def remember(self, realised: float) -> None:
        """Keep that part for the next search."""
        self._shelf.put_value(_KIND, realised, what="realised")

    def speedup(self, model: Model) -> float:
        """Time of the model as it was given over that of another one.

        Raises:
            RuntimeFailure: onnxruntime cannot run one of them.
        """
        return self._compared(model)[1].value

    @cached_property
    def _start(self) -> Mapping[str, float]:
        """Kept as the times of layers are, so that the next search has both from the same hour."""
        def taken() -> dict[str, float]:
            original, speedup = self._compared(self._prepared)
            return {"whole_s": original.p10_s, "prepared": speedup.value}

        kept: Mapping[str, float] = self._shelf.once(_KIND, taken, what="start")
        return kept

    @cached_property
    def _shelf(self) -> Shelf:
        options = self._options
        if options.store.folder is None:
            return NO_STORE.shelf()
        return model_shelf(self._source, options).at(
            shapes=dict(self._shapes.inputs),
            machine=asdict(environment(threads=options.threads, provider=options.provider)))

    def _compared(self, model: Model) -> tuple[Latency, Ratio]:
        feeds = random_feeds(model_inputs(self._source, self._shapes), seed=self._options.seed)
        return relative_speed(self._source.source, model.source, feeds=feeds, settings=self._settings)
