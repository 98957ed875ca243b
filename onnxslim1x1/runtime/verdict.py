"""The values that a validation ends in: promises, the report, and the gates that say which promise holds."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.benchmark import LatencyComparison
from onnxslim1x1.runtime.compare import Classification, Mismatch, OutputDiff
from onnxslim1x1.runtime.evidence import Figure, Footprint, LayerError, Shifted, WorstSample, denormal_warnings
from onnxslim1x1.runtime.timing import thread_warnings
from onnxslim1x1.spec import Cost

GateKind = Literal["accuracy", "latency"]

_BOUND = re.compile(r"\s*([\w.-]+)\s*(>=|<=)\s*(\S+)\s*")  # name, direction, value
_ROUNDING = 1e-12  # 1 of 100 images meets --max-drop 0.01, although 1 - 0.99 > 0.01 in floating point
_DOUBT = 0.01  # probability that guessing is as good as the original, from which on its accuracy proves nothing
_ABOVE_CHANCE = 0.1  # part of the way from chance to 1 that wrong preprocessing, which favours a class, hardly exceeds


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A promise about one figure of accuracy, of the worst output where there are several.

    Attributes:
        figure: its name, such as ``psnr_db``, ``mask_iou`` or that of a custom metric.
        least: whether it has to be at least `value`, rather than at most.
        value: in the unit of the figure; for a figure that each model has alone, such as ``top1``, of their difference.
    """

    figure: str
    least: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> Bound:
        """From ``psnr_db>=40`` or ``kl<=0.05``.

        Raises:
            OptionError: it is not of this form.
        """
        found = _BOUND.fullmatch(text)
        try:
            value = float(found[3]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value):
            raise OptionError(f"--gate {text!r}: expected the name of a figure, >= or <=, and a number, such as "
                              "'psnr_db>=40' or 'kl<=0.05'")
        return cls(figure=found[1], least=found[2] == ">=", value=value)

    @classmethod
    def parsed(cls, texts: Sequence[str] | None) -> tuple[Bound, ...]:
        """From all that an option was given.

        Raises:
            OptionError: as `parse`.
        """
        return tuple(map(cls.parse, texts or ()))

    def __str__(self) -> str:
        return f"{self.figure}{'>=' if self.least else '<='}{self.value:g}"

    @property
    def gate(self) -> str:
        """Name of the gate: ``min_psnr_db``, ``max_kl``."""
        return f"{'min' if self.least else 'max'}_{self.figure}"

    def judge(self, figures: Sequence[Figure], confidence: float | None) -> Gate:
        """The gate: of several outputs the worst counts; without the interval that was asked for none is kept."""
        ends = [(one.value if confidence is None else one.low if self.least else one.high)
                for one in figures if one.name == self.figure]
        known = [end for end in ends if end is not None]
        worst = (min if self.least else max)(known) if known and len(known) == len(ends) else None
        return replace(_gate(self.gate, self.value, worst), confidence=confidence)


def require_figures(tolerance: Tolerance, figures: Sequence[Figure]) -> None:
    """See that there is a figure for every bound.

    Raises:
        OptionError: one names a figure that this comparison does not have.
    """
    names = list(dict.fromkeys(one.name for one in figures))
    for bound in tolerance.figures:
        if bound.figure not in names:
            close = difflib.get_close_matches(bound.figure, names, n=1)
            meant = f"; did you mean {close[0]}?" if close else "."
            raise OptionError(f"--gate '{bound}': this comparison has no figure {bound.figure}{meant} It has "
                              f"{', '.join(names)}; labels, --task and --metric add others")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What was promised; None means that nothing was.

    Attributes:
        max_drop: largest loss of top-1 accuracy as a fraction; without labels, of 1 - agreement.
        min_agreement: smallest fraction of images with the same top-1 class.
        min_snr_db: smallest signal-to-noise ratio, of the worst output.
        min_speedup: smallest measured speed-up.
        figures: bounds of further figures of accuracy.
        confidence: of the intervals whose worse ends must meet the bounds on accuracy; None: the figures themselves.

    Raises:
        OptionError: a bound that makes no sense.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    min_snr_db: float | None = None
    min_speedup: float | None = None
    figures: tuple[Bound, ...] = ()
    confidence: float | None = None

    def __post_init__(self) -> None:
        for option, bound in (("--max-drop", self.max_drop), ("--min-agreement", self.min_agreement)):
            if bound is not None and not 0.0 <= bound <= 1.0:
                raise OptionError(f"{option} {bound}: must be a fraction of the images, 0 to 1; 0.01 is one point")
        if self.min_snr_db is not None and not math.isfinite(self.min_snr_db):
            raise OptionError(f"--min-snr {self.min_snr_db}: must be a number of decibels")
        if self.min_speedup is not None and not 0.0 < self.min_speedup < math.inf:
            raise OptionError(f"--min-speedup {self.min_speedup}: must be a positive ratio; 1.2 is 20 % faster")
        if self.confidence is not None and not 0.5 <= self.confidence < 1.0:
            raise OptionError(f"--confidence {self.confidence}: must lie between 0.5 and 1; 0.95 is usual")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """Verdicts of `onnx.checker` with full shape inference; `message` says what it refused, or is empty."""

    original_ok: bool
    rewritten_ok: bool
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One promise: names with ``min_`` want value >= bound, all others value <= bound; value None: not measurable.

    Always there: ``checker`` (1 if only the rewritten model is refused), ``interface`` (number of mismatches) and
    ``finite`` (values that became NaN or infinite), each with bound 0. With a `confidence`, the value is the worse end
    of the figure's interval, not the figure itself.
    """

    name: str
    bound: float
    value: float | None
    passed: bool
    kind: GateKind
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """The original and the rewritten model, side by side.

    Attributes:
        checker: verdicts of the ONNX checker.
        mismatches: inputs and outputs that do not match.
        outputs: differences of the outputs that do.
        classification: agreement of the first output with scores of classes, if there is one.
        latencies: one comparison for every wanted number of threads and batch size; empty if none was wanted or the
            inputs do not match.
        size_original_bytes: size of the file with its external data.
        size_rewritten_bytes: the same of the rewritten model.
        images: how many were run, each counted once.
        data: name of the data set, or how the inputs were drawn.
        gates: the promises and whether they hold.
        cost_original: parameters and MACs, if the caller knows them.
        cost_rewritten: the same of the rewritten model.
        random_inputs: whether there was no data set.
        figures: accuracy by task, with intervals.
        footprints: memory, loading time and size of the original and the rewritten model.
        layers: error of every intermediate tensor, in the order of computation.
        shifts: both models on inputs that were changed on purpose.
        worst: images on which the two are furthest apart, the worst first.
        task: what the model is judged as, and `task_reason` why.
        task_reason: see `task`.
        notes: what was left out or assumed, one line each.
    """

    checker: CheckResult
    mismatches: tuple[Mismatch, ...]
    outputs: tuple[OutputDiff, ...]
    classification: Classification | None
    latencies: tuple[LatencyComparison, ...]
    size_original_bytes: int
    size_rewritten_bytes: int
    images: int
    data: str
    gates: tuple[Gate, ...] = ()
    cost_original: Cost | None = None
    cost_rewritten: Cost | None = None
    random_inputs: bool = False
    figures: tuple[Figure, ...] = ()
    footprints: tuple[Footprint, Footprint] | None = None
    layers: tuple[LayerError, ...] = ()
    shifts: tuple[Shifted, ...] = ()
    worst: tuple[WorstSample, ...] = ()
    task: str = ""
    task_reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def latency(self) -> LatencyComparison | None:
        """The first comparison, or None without any."""
        return self.latencies[0] if self.latencies else None

    @property
    def accuracy_passed(self) -> bool:
        """Whether every promise about results holds."""
        return all(gate.passed for gate in self.gates if gate.kind == "accuracy")

    @property
    def latency_passed(self) -> bool:
        """Whether every promise about latency holds."""
        return all(gate.passed for gate in self.gates if gate.kind == "latency")

    @property
    def passed(self) -> bool:
        """Whether every promise holds."""
        return self.accuracy_passed and self.latency_passed

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the figures may mean little, one line each; no gate depends on it."""
        found = []
        classes = self.classification
        if classes is not None and classes.top1_original is not None and _near_chance(classes, classes.top1_original):
            found.append(f"the original's top-1 of {100 * classes.top1_original:.1f} % is hardly better than chance "
                         f"({100 / classes.classes:.2g} %): check --preprocess, --channel-order and --labels")
        broken = [diff.name for diff in self.outputs if diff.nan_count_original]
        if broken:
            found.append(f"the original gives NaN or infinite values ({', '.join(broken)}), which were left out: "
                         f"check what it is fed (--data, --preprocess)")
        if self.random_inputs and self.outputs:
            found.append("outputs were compared on random inputs, which says little about real ones: give --data")
        return (*found, *thread_warnings(self.latencies), *denormal_warnings(self.footprints))


def _near_chance(classes: Classification, top1: float) -> bool:
    """Whether guessing one of K classes could have done (nearly) as well; never of a perfect score.

    That is so with less than a tenth of the way from 1/K to 1 (wrong preprocessing lets a model prefer a few classes,
    which many images can make significant), or if a guesser gets as many hits with a probability above 1 %.
    """
    from scipy.special import bdtrc  # binomial tail; `scipy.stats` takes half a second to import

    chance, hits = 1 / classes.classes, round(top1 * classes.images)
    if top1 < chance + _ABOVE_CHANCE * (1 - chance):
        return True
    return hits < classes.images and float(bdtrc(hits - 1, classes.images, chance)) > _DOUBT


def judge(report: ValidationReport, tolerance: Tolerance) -> tuple[Gate, ...]:
    """Gates of a report: the three that are always there, then one for each promise."""
    refused = not report.checker.rewritten_ok and report.checker.original_ok
    gates = [_gate("checker", 0.0, float(refused)),
             _gate("interface", 0.0, float(len(report.mismatches))),
             _gate("finite", 0.0, float(sum(diff.nan_count_new for diff in report.outputs)))]
    gates += _bounded_gates(report, tolerance) if tolerance.confidence is not None else _point_gates(report, tolerance)
    gates += [bound.judge(report.figures, tolerance.confidence) for bound in tolerance.figures]
    if tolerance.min_speedup is not None:
        speedup = min((one.speedup for one in report.latencies), default=None)  # the worst counts
        gates.append(_gate("min_speedup", tolerance.min_speedup, speedup, kind="latency"))
    return tuple(gates)


def _point_gates(report: ValidationReport, tolerance: Tolerance) -> list[Gate]:
    """Promises about accuracy, judged by the figures themselves."""
    gates, classes = [], report.classification
    if tolerance.max_drop is not None:
        gates.append(_gate("max_drop", tolerance.max_drop, None if classes is None else _drop(classes)))
    if tolerance.min_agreement is not None:
        gates.append(_gate("min_agreement", tolerance.min_agreement, None if classes is None else classes.agreement))
    if tolerance.min_snr_db is not None:
        worst = min((diff.snr_db for diff in report.outputs), default=None)
        gates.append(_gate("min_snr_db", tolerance.min_snr_db, worst))
    return gates


def _bounded_gates(report: ValidationReport, tolerance: Tolerance) -> list[Gate]:
    """The same, judged by the worse ends of the intervals; without an interval nothing is promised."""
    lows: dict[str, float | None] = {}
    for one in report.figures:  # of several outputs the worst counts
        known = lows.get(one.name, math.inf)
        lows[one.name] = None if one.low is None or known is None else min(one.low, known)
    agreement = lows.get("agreement")
    kept = lows["top1"] if "top1" in lows else None if agreement is None else agreement - 1.0
    drop = None if kept is None else -kept
    wanted = (("max_drop", tolerance.max_drop, drop), ("min_agreement", tolerance.min_agreement, agreement),
              ("min_snr_db", tolerance.min_snr_db, lows.get("snr_db")))
    return [replace(_gate(name, bound, value), confidence=tolerance.confidence)
            for name, bound, value in wanted if bound is not None]


def _drop(classes: Classification) -> float:
    return 1.0 - classes.agreement if classes.top1_drop is None else classes.top1_drop


def _gate(name: str, bound: float, value: float | None, *, kind: GateKind = "accuracy") -> Gate:
    if value is None:
        passed = False
    elif name.startswith("min_"):
        passed = value >= bound
    else:
        passed = value <= bound + _ROUNDING
    return Gate(name=name, bound=bound, value=value, passed=passed, kind=kind)
