"""What `import onnxslim1x1` offers: `analyze`, `compare`, `explore`, `plan`, `apply`, `bisect`, `validate` and `slim`.

Each takes a path or an `onnx.ModelProto` (`compare` takes two analyses) and returns frozen values. Options that travel
together are values, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from onnxslim1x1.graph.model import Model, load
from onnxslim1x1.graph.save import atomic_folder, copy_unchanged, require_writable, save, write_bytes
from onnxslim1x1.runtime.compare import looks_like_classifier
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.examine import examine
from onnxslim1x1.runtime.hardware import Environment, environment
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.trial import Trial
from onnxslim1x1.runtime.validate import Tolerance, ValidationReport, ValidationSettings, validate_models
from onnxslim1x1.search import front
from onnxslim1x1.search.analysis import Analysis
from onnxslim1x1.search.bisect import Bisection, require_gate
from onnxslim1x1.search.bisect import bisect as find_breaking
from onnxslim1x1.search.carrying import carried, where_of
from onnxslim1x1.search.comparison import compare
from onnxslim1x1.search.front import Front
from onnxslim1x1.search.inspection import Inspection, inspect
from onnxslim1x1.search.pipeline import RewriteResult, Subject, make_plan, model_cost, rewrite, total_cost
from onnxslim1x1.search.plan import Budget, RewritePlan
from onnxslim1x1.search.plan_check import comparing, differences, planned_data
from onnxslim1x1.search.plan_file import load_plan, save_plan
from onnxslim1x1.spec import Cost

Source = str | Path | onnx.ModelProto

NO_DATA = ("without calibration data the factors come from the weights alone and accuracy was checked on "
           "random inputs only; give --calibration for better factors and a meaningful check")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """How `slim` checks its result.

    Attributes:
        data: real inputs to validate on; without it calibration data that nothing was fitted to, else random inputs.
        settings: promises and how to measure them.
        keep_failed: write the file even if a promise is broken.
    """

    data: DataOptions | None = None
    settings: ValidationSettings = field(default_factory=ValidationSettings)
    keep_failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlimResult:
    """Outcome of `slim`.

    Attributes:
        plan: what was decided.
        rewrite: what was done.
        output: the file that was written, or None.
        before: cost of all layers of the original.
        after: cost of all layers of the result.
        validation: comparison of the original and the rewritten model, or None if it was not wanted; if the rewrite
            was taken back, of what was tried.
        warnings: one line each.
        unchanged: why the result is the original, or None if it is not.
        environment: the machine that all of it was measured on.
        source: the model as it was given.
    """

    plan: RewritePlan
    rewrite: RewriteResult
    output: Path | None
    before: Cost
    after: Cost
    validation: ValidationReport | None
    warnings: tuple[str, ...]
    unchanged: str | None = None
    environment: Environment | None = None
    source: Model | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings, those of the validation included."""
        checked = self.validation.warnings if self.validation and not self.validation.random_inputs else ()
        return self.warnings + checked


DEFAULT_CHECK = Check()


def analyze(source: Source, *, run: RunOptions | None = None, measure: bool = True, digest: bool = False,
            max_error: float | None = None, calibration: DataOptions | None = None) -> Analysis:
    """Cost, measured time, redundancy and possible rewrite of every convolution and dense layer.

    Args:
        source: path or model.
        run: threads, provider, shapes and progress.
        measure: False gives costs and eligibility only, without inference or factorisation; so does a model that
            onnxruntime lacks the means to run, with a warning.
        digest: whether to compute the SHA-256 of the file.
        max_error: largest relative error of a proposal: of the outputs with calibration (default 0.1), else of the
            weights (default 0.3).
        calibration: real inputs, unlabelled, for spectra and proposals.

    Raises:
        ModelError, DataError: the model or the data cannot be used.
        RuntimeFailure: onnxruntime cannot run it.
        OptionError: shapes or the provider do not fit.
    """
    wanted = Inspection(measure=measure, digest=digest, max_error=max_error, calibration=calibration)
    return inspect(load(source), wanted, run or RunOptions())


def explore(source: Source, budget: Budget | None = None, *, calibration: DataOptions | None = None,
            run: RunOptions | None = None, plot: Path | str | None = None) -> Front:
    """Find what every speed-up costs: the Pareto front of speed and loss, a few of its points measured.

    Args:
        source: path or model.
        budget: errors, patterns and ranks that hold for all of it; no target.
        calibration: real inputs, unlabelled.
        run: threads, provider, shapes, seed and progress.
        plot: picture to draw, .svg, .png or .pdf; none is drawn of a front without points.

    Raises:
        OutputError: the picture cannot be written.
        OptionError: the budget names a target, matplotlib is missing, or an option does not fit.
        ModelError, DataError, RuntimeFailure, UnknownLayerError, RankError: as in `plan`.
    """
    from onnxslim1x1.report.plot import front_image, require_drawable

    options, model = run or RunOptions(), load(source)
    if plot is not None:
        require_drawable(Path(plot))
        _require_output(plot, model, calibration.path if calibration else None, example="front.svg", option="--plot")
    found = front.explore(Subject.of(model, options), budget or Budget(), calibration, options)
    if plot is not None and found.points:
        write_bytes(Path(plot), front_image(found, Path(plot).suffix), "--plot")
    return found


def plan(source: Source, budget: Budget | None = None, *, output: Path | str | None = None,
         calibration: DataOptions | None = None, run: RunOptions | None = None) -> RewritePlan:
    """Decide which layers to rewrite, and how, without doing it.

    Args:
        source: path or model.
        budget: what to reach; by default a small error per layer.
        output: plan file to write.
        calibration: real inputs, unlabelled.
        run: threads, provider, shapes, seed and progress.

    Raises:
        OutputError: the plan file cannot be written.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
        UnknownLayerError, RankError, InfeasibleBudget: the request cannot be met.
    """
    options, model = run or RunOptions(), load(source)
    _require_output(output, model, calibration.path if calibration else None, example="plan.json")
    made = make_plan(Subject.of(model, options), budget or Budget(), calibration, options).plan
    if output is not None:
        save_plan(made, output)
    return made


def apply(source: Source, plan: RewritePlan | str | Path, output: Path | str | None = None, *,
          calibration: DataOptions | Path | str | None = None, run: RunOptions | None = None) -> RewriteResult:
    """Carry out a plan.

    Only layers, families, ranks, weightings and refits count; errors and costs are computed anew, in case of an edit.

    Args:
        source: the model that the plan was made for.
        plan: the plan, or its file.
        output: model file to write.
        calibration: the images that the plan was made with, or where they are now; by default where they were then.
        run: threads (0: as many as the plan says) and progress; everything else is that of the plan.

    Raises:
        PlanMismatchError: the plan cannot be read, does not fit the model, or was made for another model or data.
        OutputError: the output cannot be written.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
    """
    where = where_of(plan)
    asked = plan if isinstance(plan, RewritePlan) else load_plan(plan)
    options, model = asked.run_options(run), load(source)
    chosen = planned_data(asked, calibration, where)
    _require_output(output, model, chosen.path if chosen else None, None if isinstance(plan, RewritePlan) else plan)
    made = carried(asked, model, chosen, options, where)
    subject, done = made.subject, rewrite(made.subject, made.plan, made.factors)
    if output is not None:
        _write(model, done, Path(output))
    return replace(done, notes=subject.shapes.notes + done.notes + differences(asked, environment()))


def bisect(source: Source, plan: RewritePlan | str | Path, *, data: DataOptions | None = None,
           calibration: DataOptions | Path | str | None = None, run: RunOptions | None = None,
           settings: ValidationSettings) -> Bisection:
    """Find the smallest set of a plan's layers that breaks a promise about accuracy.

    Args:
        source: the model that the plan was made for.
        plan: the plan, or its file.
        data: what accuracy is judged on; random inputs without it.
        calibration: the images that the plan was made with, or where they are now; by default where they were then.
        run: threads and progress; everything else is that of the plan.
        settings: the promises; nothing else of them counts.

    Raises:
        OptionError: there is no promise, or the model is no classifier though classes were promised.
        PlanMismatchError, ModelError, DataError, RuntimeFailure: as in `apply`.
    """
    require_gate(settings.tolerance)
    where = where_of(plan)
    asked = plan if isinstance(plan, RewritePlan) else load_plan(plan)
    options, model = asked.run_options(run), load(source)
    made = carried(asked, model, planned_data(asked, calibration, where), options, where)
    shapes = options.shapes(model)
    dataset = None if data is None else data.open(model, shapes)
    wanted = replace(settings, measure_latency=False, seed=options.seed, shapes=shapes.inputs,
                     benchmark=replace(settings.benchmark, threads=options.threads))
    return find_breaking(made, Trial(model, dataset, wanted), progress=options.stage("bisecting"))


def validate(original: Source, rewritten: Source, *, data: DataOptions | None = None, run: RunOptions | None = None,
             settings: ValidationSettings | None = None, plot: Path | str | None = None) -> ValidationReport:
    """Compare two models on the same inputs: results, latency, size, cost; and judge the promises in `settings`.

    Args:
        original: path or model.
        rewritten: path or model.
        data: real inputs, with labels or without; random ones without it.
        run: threads, provider, shapes, seed and progress.
        settings: promises and how to measure them; threads, provider, seed and shapes come from `run`.
        plot: picture of the errors layer by layer, .svg, .png or .pdf; only if the settings ask for these.

    Raises:
        OutputError: the picture cannot be written.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
    """
    options, chosen = run or RunOptions(), settings or ValidationSettings()
    if plot is not None:
        from onnxslim1x1.report.plot_layers import layers_image, require_layers

        require_layers(Path(plot), per_layer=chosen.accuracy.per_layer)
        _require_output(plot, load(original), example="errors.svg", option="--plot")
    model = load(original)
    dataset = None if data is None else data.open(model, options.shapes(model))
    report = _validated(model, load(rewritten), dataset, options, chosen)
    if plot is not None and report.layers:
        write_bytes(Path(plot), layers_image(report.layers, Path(plot).suffix), "--plot")
    return report


def _validated(original: Model, rewritten: Model, dataset: Dataset | None, options: RunOptions,
               settings: ValidationSettings) -> ValidationReport:
    with _on_disk(original, "original.onnx") as first, _on_disk(rewritten, "rewritten.onnx") as second:
        shapes = options.shapes(original)
        costs = (model_cost(original, shapes), model_cost(rewritten, shapes))
        benchmark = replace(settings.benchmark, threads=options.threads, provider=options.provider)
        bound = shapes.inputs if options.input_shapes or options.dims or dataset is None else None
        full = replace(settings, benchmark=benchmark, seed=options.seed, shapes=bound)
        report = validate_models(first, second, dataset=dataset, costs=costs, progress=options.progress, settings=full)
        return examine(report, (first, second), dataset=dataset, settings=full, progress=options.progress)


def slim(source: Source, output: Path | str | None = None, *, budget: Budget | None = None,
         calibration: DataOptions | None = None, run: RunOptions | None = None,
         check: Check | None = DEFAULT_CHECK) -> SlimResult:
    """Make a model faster: plan, apply, validate and save.

    A rewrite that is not measurably faster is taken back (with an explicit target only if it is measurably slower),
    and a rewrite that fails a gate leaves no file.

    Args:
        source: path or model.
        output: file to write, or None to keep the result in memory.
        budget: what to reach.
        calibration: real inputs that the factors are fitted to, unlabelled.
        run: threads, provider, shapes, seed and progress.
        check: how the result is validated; None skips it.

    Raises:
        OutputError: the output cannot be written.
        ModelError, DataError, RuntimeFailure, OptionError: an input cannot be used.
        UnknownLayerError, RankError, InfeasibleBudget: the request cannot be met.
    """
    options, wanted = run or RunOptions(), budget or Budget()
    target = None if output is None else Path(output)
    model = load(source)
    _require_output(target, model)
    subject = Subject.of(model, options)
    found = make_plan(subject, wanted, calibration, options)
    made, done = found.plan, rewrite(subject, found.plan, found.factors)
    report, unchanged = None, None if done.changed else "no layer is worth rewriting"
    with _draft(target, wanted=target is not None or check is not None) as draft:
        if draft:
            _write(subject.source, done, draft)
        if draft and check:
            data = check.data.open(model, subject.shapes) if check.data else found.held_out
            with comparing(random=data is None, advice=subject.shapes.advice):
                report = _validated(model, load(draft), data, options, _promised(check, wanted, subject))
            if unchanged is None and (unchanged := not_faster(report, wanted)):
                copy_unchanged(subject.source, draft)
            if not (unchanged or report.passed or check.keep_failed):
                draft.unlink()
                target = None
    before = total_cost(subject.layers)
    return SlimResult(plan=made, rewrite=done, output=target, before=before, validation=report, unchanged=unchanged,
                      source=model, environment=environment(threads=options.threads, provider=options.provider),
                      after=before if unchanged else model_cost(done.model, subject.shapes),
                      warnings=subject.shapes.notes + done.notes + (() if calibration or not check else (NO_DATA,)))


def _promised(check: Check, budget: Budget, subject: Subject) -> ValidationSettings:
    """The settings of a check; what the budget promises about accuracy is a gate on data of its own.

    On calibration images it is not: it was kept there already, as an upper bound.
    """
    if budget.max_drop is None or check.data is None:
        return check.settings
    shapes = [subject.shapes.tensors.get(o.name) for o in subject.prepared.model.proto.graph.output]
    scores = any(shape is not None and looks_like_classifier(shape) for shape in shapes)
    known = check.settings.tolerance
    changed = replace(known, max_drop=budget.max_drop) if scores else replace(
        known, min_snr_db=max(known.min_snr_db or -math.inf, -10 * math.log10(budget.max_drop)))
    return replace(check.settings, tolerance=changed)


def not_faster(report: ValidationReport, budget: Budget) -> str | None:
    """Why a rewrite is not worth keeping, or None if it is."""
    found = report.latency
    if found is None or found.verdict == "faster":
        return None
    explicit = budget.ranks or budget.has_target
    if explicit and found.verdict != "slower":
        return None
    return (f"the rewritten model ran at {found.speedup:.2f}x ({found.speedup_low:.2f} to {found.speedup_high:.2f}) of "
            f"the original's speed: {found.verdict}")


def _require_output(output: Path | str | None, model: Model, *inputs: Path | str | None,
                    example: str = "model.onnx", option: str = "-o") -> None:
    """Fail before the work if a file cannot be written, or is one of the files that are read."""
    if output is not None:
        require_writable(Path(output), model.path, *model.external_files(), *(Path(i) for i in inputs if i),
                         example=example, option=option)


@contextmanager
def _on_disk(model: Model, name: str) -> Iterator[Path]:
    """Path of a model; one in memory is written to a temporary file for as long as the block runs."""
    if model.path:
        yield model.path
        return
    with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
        save(model, Path(folder) / name)
        yield Path(folder) / name


def _write(source: Model, done: RewriteResult, path: Path) -> None:
    if done.changed:
        save(done.model, path)
    else:
        copy_unchanged(source, path)


@contextmanager
def _draft(target: Path | None, *, wanted: bool) -> Iterator[Path | None]:
    """Where to write a model before it is judged; what is there at the end becomes `target`, if there is one."""
    if target is not None:
        with atomic_folder(target) as folder:
            yield folder / target.name
    elif wanted:
        with TemporaryDirectory(prefix="onnxslim1x1-") as name:
            yield Path(name) / "rewritten.onnx"
    else:
        yield None


__all__ = ["Bisection", "Budget", "Check", "DataOptions", "Front", "RewritePlan", "RunOptions", "SlimResult",
           "Tolerance", "ValidationSettings", "analyze", "apply", "bisect", "compare", "explore", "load_plan", "plan",
           "save_plan", "slim", "validate"]
