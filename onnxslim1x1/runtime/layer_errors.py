"""Where two models part: the error of every intermediate tensor, and how it grows from one to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxslim1x1.graph.model import Model, load
from onnxslim1x1.graph.scopes import reads
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.arrays import spread
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.compare import DiffAccumulator, OutputDiff
from onnxslim1x1.runtime.correspondence import Pair, Print, correspond, producers
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.evidence import LayerError
from onnxslim1x1.runtime.session import Feeds, create_session, input_specs, patient_options, run
from onnxslim1x1.runtime.validate import StageProgress, ValidationSettings, feed_batches

IMAGES = 64  # that are run at most, evenly spread
_UNKNOWN = 4_000_000  # bytes that are assumed for a tensor of unknown shape
_LIMIT = 400_000_000  # bytes of activations of one model that are asked for at once
_ROUNDING = {"float16": 5e-3, "float32": 1e-5, "float64": 1e-9}  # errors up to that are no more than rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerErrors:
    """Errors in the order of computation, and how many tensors they are of.

    Attributes:
        layers: one per pair of tensors.
        by_name: pairs that were found by name; the others by value.
        tensors: of fractions that the original computes.
        images: that were run.
    """

    layers: tuple[LayerError, ...]
    by_name: int
    tensors: int
    images: int

    @property
    def note(self) -> str:
        """In words."""
        other = len(self.layers) - self.by_name
        return (f"per layer: {len(self.layers)} of {self.tensors} intermediate tensors were compared "
                f"({self.by_name} matched by name, {other} by value) on {self.images} "
                f"{'image' if self.images == 1 else 'images'}")


def compare_layers(paths: tuple[Path, Path], *, dataset: Dataset | None, settings: ValidationSettings,
                   progress: StageProgress | None = None) -> LayerErrors:
    """Compare every intermediate tensor of two models that has a counterpart, on at most 64 images.

    Tensors are asked for in waves, so that memory stays bounded whatever the model.

    Args:
        paths: of the original and the rewritten model.
        dataset: what to run; random inputs without one.
        settings: as in `validate_models`.
        progress: is told the stage ``layers`` and the fraction that is done.

    Raises:
        ModelError: a model cannot be read.
        RuntimeFailure: onnxruntime cannot run it with its tensors as outputs.
        DataError: the data do not fit.
    """
    models = load(paths[0]), load(paths[1])
    few = None if dataset is None else dataset.subset(spread(len(dataset), IMAGES))
    source = _Source(few, settings)
    prints: dict[Path | str, Mapping[str, Print]] = {}

    def fetch(model: Model, tensors: Sequence[str]) -> Mapping[str, Print]:
        prints[model.where] = source.prints(model, tensors)
        return prints[model.where]

    pairs = correspond(*models, fetch)
    known = prints[models[0].where]
    partners = {pair.original: pair for pair in pairs}
    waves = list(_waves(list(partners), {n: 4 * math.prod(known[n].shape) for n in partners}))
    diffs: dict[str, OutputDiff] = {}
    for number, wave in enumerate(waves):
        def told(done: float, before: int = number) -> None:
            if progress is not None:
                progress("layers", (before + done) / len(waves))

        diffs |= _compared(models, [partners[name] for name in wave], source, told)
    return LayerErrors(layers=_layers(models, pairs, diffs), by_name=sum(p.by_name for p in pairs),
                       tensors=sum(p.kind == "f" for p in known.values()), images=source.images)


class _Source:
    """The same inputs for both models, again and again."""

    def __init__(self, dataset: Dataset | None, settings: ValidationSettings) -> None:
        self._dataset, self._settings = dataset, settings
        self.images = 0

    def session(self, model: Model, tensors: Sequence[str]) -> Any:
        """A session with these tensors as outputs."""
        benchmark = self._settings.benchmark
        return create_session(with_outputs(model, tensors), options=patient_options(threads=benchmark.threads),
                              provider=benchmark.provider, where=model.where)

    def batches(self, session: Any) -> Iterator[tuple[float, Feeds, int]]:
        """Fraction done, feeds and images of each batch; a model that takes any number gets one image at a time."""
        settings = self._settings
        total = settings.random_runs if self._dataset is None else len(self._dataset)
        one = replace(settings, batch_size=1)  # activations of one image can fill hundreds of megabytes
        self.images = 0
        for done, feeds, rows in feed_batches(input_specs(session, settings.shapes), self._dataset, one):
            self.images += rows
            yield done / total, feeds, rows

    def prints(self, model: Model, tensors: Sequence[str]) -> dict[str, Print]:
        """What tensors look like in the first batch, in the order that was asked for."""
        found: dict[str, Print] = {}
        shapes = infer_shapes(model, input_shapes=self._settings.shapes).tensors
        for wave in _waves(tensors, {n: 4 * math.prod(s) if (s := shapes.get(n)) else _UNKNOWN for n in tensors}):
            session = self.session(model, wave)
            _, feeds, _ = next(self.batches(session))
            values = run(session, feeds, outputs=wave, where=model.where)
            found.update((name, Print.of(value)) for name, value in zip(wave, values, strict=True)
                         if isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
        return found


def _waves(tensors: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Tensors in their order, as many at a time as memory is allowed for."""
    wave: list[str] = []
    used = 0
    for name in tensors:
        if wave and used + sizes[name] > _LIMIT:
            yield wave
            wave, used = [], 0
        wave.append(name)
        used += sizes[name]
    if wave:
        yield wave


def _compared(models: tuple[Model, Model], wave: Sequence[Pair], source: _Source,
              told: Callable[[float], None]) -> dict[str, OutputDiff]:
    names = [[p.original for p in wave], [p.rewritten for p in wave]]
    sessions = [source.session(m, n) for m, n in zip(models, names, strict=True)]
    sums = [DiffAccumulator(p.original) for p in wave]
    for done, feeds, rows in source.batches(sessions[0]):
        size = len(next(iter(feeds.values())))
        values = [run(s, feeds, outputs=n, where=m.where) for s, n, m in zip(sessions, names, models, strict=True)]
        for accumulator, old, new in zip(sums, *values, strict=True):
            keep = slice(rows) if old.ndim and len(old) == size else ...  # without what fills up a batch
            accumulator.add(old[keep], new[keep])
        told(done)
    return {accumulator.result().name: accumulator.result() for accumulator in sums}


def _layers(models: tuple[Model, Model], pairs: Sequence[Pair],
            diffs: Mapping[str, OutputDiff]) -> tuple[LayerError, ...]:
    before, after = producers(models[0]), producers(models[1])
    errors = {name: _relative(diff) for name, diff in diffs.items()}
    entering = partial(_entering, nodes=before, errors=errors, known={})
    counterparts = {p.rewritten for p in pairs}
    found = []
    for pair in pairs:
        node, diff = before[pair.original], diffs[pair.original]
        inner = {name for name in reads(after[pair.rewritten]) if name in after}
        found.append(LayerError(
            tensor=pair.original, counterpart=pair.rewritten, node=node.name or node.output[0], op_type=node.op_type,
            snr_db=diff.snr_db, rel_error=errors[pair.original], rewritten=not inner <= counterparts,
            growth=_growth(errors[pair.original], max(map(entering, reads(node)), default=0.0), diff.dtype)))
    return tuple(found)


def _relative(diff: OutputDiff) -> float:
    return 0.0 if math.isinf(diff.snr_db) and diff.snr_db > 0 else float(10.0 ** (-diff.snr_db / 20.0))


def _entering(tensor: str, *, nodes: Mapping[str, onnx.NodeProto], errors: Mapping[str, float],
              known: dict[str, float]) -> float:
    """Error of a tensor; of one without a counterpart the largest of what it is made of."""
    pending = [tensor]
    while pending:
        name = pending[-1]
        parts = () if name in errors or name not in nodes else tuple(reads(nodes[name]))
        missing = [part for part in parts if part not in known]
        if name in known or not missing:
            known[name] = errors.get(name, max((known[part] for part in parts), default=0.0))
            pending.pop()
        else:
            pending += missing
    return known[tensor]


def _growth(error: float, before: float, dtype: str) -> float | None:
    """Error over that of what it is made from: inf where it enters, None where there is none."""
    rounding = _ROUNDING.get(dtype, 1e-5)
    if error <= rounding:
        return None
    return error / before if before > rounding else math.inf

