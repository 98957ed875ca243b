"""Does a rewritten model keep its promises? Checker, outputs, classes and latency against the original, and gates.

A broken promise is a value in the `ValidationReport`; exceptions are for what could not be judged at all.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, ModelError, OptionError
from onnxslim1x1.runtime.accuracy import AccuracyCollector, AccuracySettings
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, LatencyComparison, compare_models, timing_options
from onnxslim1x1.runtime.calibration import padded
from onnxslim1x1.runtime.compare import (
    Classification,
    ClassificationAccumulator,
    DiffAccumulator,
    Mismatch,
    OutputDiff,
    compare_inputs,
    compare_names,
    compare_types,
)
from onnxslim1x1.runtime.evidence import Footprint
from onnxslim1x1.runtime.footprint import Errand, measure_footprint
from onnxslim1x1.runtime.labels import Labels, check_labels
from onnxslim1x1.runtime.metrics import Batch
from onnxslim1x1.runtime.series import figure
from onnxslim1x1.runtime.session import (
    Feeds,
    InputSpec,
    create_session,
    input_specs,
    random_feeds,
    run,
)
from onnxslim1x1.runtime.timing import Wanted, combinations, require_batches
from onnxslim1x1.runtime.verdict import CheckResult, Gate, Tolerance, ValidationReport, judge, require_figures
from onnxslim1x1.spec import Cost

USUAL_CONFIDENCE = 0.95  # of intervals where none was asked for
StageProgress = Callable[[str, float], None]
__all__ = ["CheckResult", "Dataset", "Gate", "Tolerance", "ValidationReport", "ValidationSettings", "check_models",
           "compare_inputs", "judge", "model_bytes", "validate_models"]


class Dataset(Protocol):
    """What validation wants of a data set; `onnxslim1x1.runtime.data.Dataset` is one."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def labels(self) -> Labels | None:
        """Class indices in the order of the samples, or None."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Feeds of all samples in order; the last batch may be smaller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSettings:
    """How to validate.

    Attributes:
        tolerance: the promises.
        benchmark: how latency is measured; its threads and provider also serve the accuracy runs.
        measure_latency: whether it is measured at all.
        batch_size: images per accuracy run, if the model leaves the batch axis free.
        random_runs: runs on random inputs where there is no data set.
        seed: of the first random run; each further one takes the next.
        shapes: shapes of inputs by name, for random inputs and for the latency.
        timed: numbers of threads and batch sizes to measure the latency with; each has the whole budget of `benchmark`.
        measure_footprint: whether memory and loading time are measured, which takes a second or two for each model.
        accuracy: task, metrics and what else is found out about accuracy.

    Raises:
        OptionError: a number makes no sense, or a latency is promised but not measured.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    measure_latency: bool = True
    batch_size: int = 16
    random_runs: int = 8
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] | None = None
    timed: Wanted = field(default_factory=Wanted)
    measure_footprint: bool = False
    accuracy: AccuracySettings = field(default_factory=AccuracySettings)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.random_runs < 1 or self.seed < 0:
            raise OptionError(f"validation: batch size {self.batch_size} and {self.random_runs} random runs must be "
                              f"at least 1, seed {self.seed} not negative")
        if self.tolerance.min_speedup is not None and not self.measure_latency:
            raise OptionError("--min-speedup: contradicts that no latency is to be measured; drop one of the two")


def validate_models(original: Path, rewritten: Path, *, dataset: Dataset | None = None,
                    settings: ValidationSettings | None = None, costs: tuple[Cost, Cost] | None = None,
                    progress: StageProgress | None = None) -> ValidationReport:
    """Run both models on the same inputs and judge the rewritten one.

    Args:
        original: path of the original model.
        rewritten: path of the rewritten one.
        dataset: what to run; random inputs without one.
        settings: promises and how to measure.
        costs: of the original and the rewritten model, for the report.
        progress: is told the stage (``accuracy``, ``latency``, ``memory``) and the fraction of it that is done.

    Raises:
        ModelError: a file is missing or holds no model.
        RuntimeFailure: onnxruntime cannot load or run a model.
        DataError: the data set does not fit the model.
        OptionError: classes were promised for a model that is no classifier, or it does not take a batch size.
    """
    chosen = settings or ValidationSettings()
    sizes = model_bytes(original), model_bytes(rewritten)
    require_batches(original, chosen.timed.batches)
    checker = check_models(original, rewritten)
    paths = (Path(original), Path(rewritten))
    found = _compare_outputs(paths, dataset=dataset, settings=chosen, progress=progress)
    latencies = _latencies(paths, found.timing_feeds, dataset=dataset, settings=chosen, progress=progress)
    report = ValidationReport(
        checker=checker, mismatches=found.mismatches, outputs=found.outputs, classification=found.classification,
        latencies=latencies, size_original_bytes=sizes[0], size_rewritten_bytes=sizes[1], images=found.images,
        data=dataset.name if dataset is not None else f"random inputs, seed {chosen.seed}",
        cost_original=costs[0] if costs else None, cost_rewritten=costs[1] if costs else None,
        random_inputs=dataset is None,
        footprints=_footprints(paths, sizes, feeds=found.timing_feeds, settings=chosen, progress=progress),
        **found.judged(chosen))
    if report.figures:  # there are none of models whose outputs do not match
        require_figures(chosen.tolerance, report.figures)
    return replace(report, gates=judge(report, chosen.tolerance))


def _latencies(paths: tuple[Path, Path], feeds: Feeds | None, *, dataset: Dataset | None, settings: ValidationSettings,
               progress: StageProgress | None) -> tuple[LatencyComparison, ...]:
    """One comparison for every wanted number of threads and batch size."""
    if not settings.measure_latency or feeds is None:
        return ()
    wanted = combinations(settings.timed, feeds, settings.benchmark, model=paths[0],
                          dataset=None if settings.shapes else dataset)

    def part(index: int) -> Callable[[float], None] | None:
        return None if progress is None else lambda done: progress("latency", (index + done) / len(wanted))

    return tuple(compare_models(*paths, feeds=fed, settings=each, progress=part(i))
                 for i, (fed, each) in enumerate(wanted))


def _footprints(paths: tuple[Path, Path], sizes: tuple[int, int], *, feeds: Feeds | None, settings: ValidationSettings,
                progress: StageProgress | None) -> tuple[Footprint, Footprint] | None:
    """Of the original and the rewritten model, on the inputs of the first latency comparison."""
    if not settings.measure_footprint or feeds is None:
        return None
    fed, chosen = combinations(settings.timed, feeds, settings.benchmark, model=paths[0])[0]
    found = []
    for path, size in zip(paths, sizes, strict=True):
        errand = Errand(path=path, feeds=fed, threads=chosen.threads, provider=chosen.provider)
        found.append(measure_footprint(errand, file_bytes=size))
        if progress is not None:
            progress("memory", len(found) / len(paths))
    return found[0], found[1]


def model_bytes(path: Path) -> int:
    """Size of a model file together with the files that hold its external data.

    Raises:
        ModelError: no such model, or a data file is missing.
    """
    from onnxslim1x1.graph.model import load

    try:
        return sum(file.stat().st_size for file in (Path(path), *load(path).external_files()))
    except OSError as error:
        raise ModelError(f"{path}: {error.filename} cannot be read ({error.strerror}); keep it beside the model"
                         ) from error


def check_models(original: Path, rewritten: Path) -> CheckResult:
    """Check two model files with full shape inference; by path, so that more than 2 GiB are possible."""
    import onnx

    def complaint(path: Path) -> str:
        try:
            with _stdout_to_stderr():
                onnx.checker.check_model(str(path), full_check=True)
        except Exception as error:  # checker, shape inference and protobuf each raise their own
            return " ".join(str(error).split())[:400] or type(error).__name__
        return ""

    found = {"original": complaint(original), "rewritten": complaint(rewritten)}
    return CheckResult(original_ok=not found["original"], rewritten_ok=not found["rewritten"],
                       message="; ".join(f"{which}: {text}" for which, text in found.items() if text))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what C++ code prints to standard error: the checker warns on standard output, where only data belongs."""
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of them is closed: then nothing can be spoilt
        yield
        return
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Result of the accuracy runs; `timing_feeds` is None if the rewritten model cannot be fed."""

    mismatches: tuple[Mismatch, ...]
    outputs: tuple[OutputDiff, ...] = ()
    classification: Classification | None = None
    images: int = 0
    timing_feeds: Feeds | None = None
    accuracy: AccuracyCollector | None = None

    def judged(self, settings: ValidationSettings) -> dict[str, Any]:
        """Fields of the report about accuracy by task."""
        found = self.accuracy
        if found is None or found.chosen is None:
            return {}
        confidence = settings.tolerance.confidence or USUAL_CONFIDENCE
        return {"figures": tuple(figure(s, confidence=confidence, seed=settings.seed) for s in found.series()),
                "worst": found.worst(), "task": found.chosen.task, "task_reason": found.chosen.reason,
                "notes": found.chosen.notes}


class Collector:
    """Gathers the comparison of all outputs of two sessions, the original's first, batch by batch."""

    def __init__(self, sessions: Sequence[Any], settings: AccuracySettings) -> None:
        original, rewritten = ([item.name for item in session.get_outputs()] for session in sessions)
        self.mismatches = list(compare_names(original, rewritten))
        self.diffs = {name: DiffAccumulator(name) for name in original if name in rewritten}
        self.accuracy = AccuracyCollector(settings)
        self.classes: ClassificationAccumulator | None = None
        self.images = 0

    @property
    def classifier(self) -> str | None:
        """The output with scores of classes."""
        return self.accuracy.classifier

    def add(self, feeds: Feeds, original: Feeds, rewritten: Feeds, *, rows: int, labels: Labels | None) -> None:
        """Take in the outputs of both models for the same `rows` images."""
        if not self.images:
            self.accuracy.start(feeds, original, rows)
            self.classes = ClassificationAccumulator(self.classifier) if self.classifier else None
        for name in tuple(self.diffs):
            mismatch = compare_types(name, original[name], rewritten[name])
            if mismatch is not None:
                self.mismatches.append(mismatch)
                del self.diffs[name]
            else:
                self.diffs[name].add(original[name], rewritten[name])
        name = self.classifier or ""
        if self.classes is not None and name in self.diffs:
            scores = original[name]
            if labels is not None:
                check_labels(labels, scores.shape[1], f"output {name}")
            self.classes.add(scores, rewritten[name], labels)
        old, new = ({name: side[name] for name in self.diffs} for side in (original, rewritten))
        self.accuracy.add(Batch(original=old, rewritten=new, rows=rows, labels=labels))
        self.images += rows

    def result(self, timing_feeds: Feeds) -> Found:
        """Everything that was gathered."""
        judged = self.classes is not None and self.classifier in self.diffs
        return Found(mismatches=tuple(self.mismatches), outputs=tuple(d.result() for d in self.diffs.values()),
                      classification=self.classes.result() if judged and self.classes else None,
                      images=self.images, timing_feeds=timing_feeds, accuracy=self.accuracy)


def _compare_outputs(paths: tuple[Path, Path], *, dataset: Dataset | None, settings: ValidationSettings,
                     progress: StageProgress | None) -> Found:
    options = timing_options(settings.benchmark.threads)  # here, too, sessions run by turns
    first, second = (create_session(p, options=options, provider=settings.benchmark.provider) for p in paths)
    mismatches = compare_inputs(first, second)
    specs = input_specs(first, settings.shapes)
    if mismatches:
        return Found(mismatches=mismatches)
    require_samples(dataset)
    total = settings.random_runs if dataset is None else len(dataset)
    collector = Collector((first, second), settings.accuracy)
    for done, feeds, rows in feed_batches(specs, dataset, settings):
        labels = None if dataset is None or dataset.labels is None else dataset.labels[done - rows:done]
        outputs = [run_outputs(s, feeds, rows, path, limited=dataset is None)
                   for s, path in zip((first, second), paths, strict=True)]
        collector.add(feeds, *outputs, rows=rows, labels=labels)
        require_classifier(settings.tolerance, collector.classifier, paths[0])
        if progress is not None:
            progress("accuracy", done / total)
    return collector.result(_timing_feeds(specs, dataset, settings))


def feed_batches(specs: Sequence[InputSpec], dataset: Dataset | None,
           settings: ValidationSettings) -> Iterator[tuple[int, Feeds, int]]:
    """Yield how much is done (images, or random runs), the feeds of a run, and how many of their rows count."""
    if dataset is None:
        for k in range(settings.random_runs):
            yield k + 1, random_feeds(specs, seed=settings.seed + k), _rows(specs)
        return
    fixed = next((s.shape[0] for s in specs if s.shape and 0 not in s.free_axes), None)
    done = 0
    for feeds in dataset.batches(fixed or settings.batch_size):
        rows = len(next(iter(feeds.values())))
        done += rows
        yield done, padded(feeds, fixed or rows), rows


def _rows(specs: Sequence[InputSpec]) -> int:
    """Images in one run of these shapes."""
    return next((s.shape[0] for s in specs if s.shape), 1)


def _timing_feeds(specs: Sequence[InputSpec], dataset: Dataset | None, settings: ValidationSettings) -> Feeds:
    """One image, or as many as the model or `settings.shapes` fixes; a real one where there is a data set."""
    if dataset is None or settings.shapes:
        return random_feeds(specs, seed=settings.seed)
    return padded(next(iter(dataset.batches(_rows(specs)))), _rows(specs))


def run_outputs(session: Any, feeds: Feeds, rows: int, path: Path, *, limited: bool) -> dict[str, NDArray[Any]]:
    """Outputs by name, without the rows that `padded` added (outputs without a batch axis stay whole)."""
    names = [item.name for item in session.get_outputs()]
    outputs = dict(zip(names, run(session, feeds, where=str(path), limited=limited), strict=True))
    outputs = {name: value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else as_numbers(value)
               for name, value in outputs.items()}
    size = next((len(a) for a in feeds.values() if a.ndim), rows)
    return {name: a[:rows] if a.ndim and len(a) == size else a for name, a in outputs.items()}


def as_numbers(value: Any) -> NDArray[np.float64]:
    """Everything in an output that is no tensor of numbers, in one row: a sequence, a map, texts, or nothing at all.

    Texts count as their checksums, which are equal or not; an optional output that is empty has no values.
    """
    if value is None:
        return np.zeros(0)
    if isinstance(value, dict):
        value = [part for key in sorted(value) for part in (key, value[key])]
    if isinstance(value, list):
        return np.concatenate([np.zeros(0), *map(as_numbers, value)])
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        array = np.array([zlib.crc32(str(text).encode()) for text in array.ravel()], np.float64)
    return array.astype(np.float64).ravel()


def require_samples(dataset: Dataset | None) -> None:
    if dataset is None:
        return
    if not len(dataset):
        raise DataError(f"{dataset.name}: holds no samples; give at least one")
    if dataset.labels is not None and len(dataset.labels) != len(dataset):
        raise DataError(f"{dataset.name}: {len(dataset.labels)} labels for {len(dataset)} samples; give one for each")


def require_classifier(tolerance: Tolerance, classifier: str | None, path: Path) -> None:
    option = "--max-drop" if tolerance.max_drop is not None else "--min-agreement"
    if classifier is None and (tolerance.max_drop, tolerance.min_agreement) != (None, None):
        raise OptionError(f"{option}: {path} has no output with one score per class (N x K or N x K x 1 x 1); "
                          f"use --min-snr")
