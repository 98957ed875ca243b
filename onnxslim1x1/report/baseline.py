"""What a validation found once, kept so that a later export is not slower, bigger or worse without anybody noticing."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from onnxslim1x1 import __version__
from onnxslim1x1.errors import BaselineError
from onnxslim1x1.runtime.evidence import Better
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.verdict import Gate, GateKind, ValidationReport
from onnxslim1x1.search.json_file import FileKind
from onnxslim1x1.search.json_schema import explain, published

if TYPE_CHECKING:
    from pydantic import TypeAdapter

BASELINE_SCHEMA_VERSION = 1
_MAKER = "onnxslim1x1 validate --update-baseline"
_FILES = FileKind(noun="baseline", maker=_MAKER, again="record it again", version=BASELINE_SCHEMA_VERSION,
                  error=BaselineError)
_SUFFIX = "_of_baseline"
_SNR = "snr_db"
_BEST_SNR_DB = 60.0  # an error of 1e-3: what is better differs from machine to machine, and nobody notices


@dataclass(frozen=True, kw_only=True, slots=True)
class Slack:
    """How much worse than recorded a later result may be; edit it, an update keeps it.

    Attributes:
        speedup: part of the speed-up, besides what the intervals and the noise floors of both runs cover.
        other_machine: the same where processor, onnxruntime, threads or provider are others than recorded.
        size: part of the size of the file.
        fraction: of figures without a unit, such as top-1: 0.01 is one point.
        decibels: of figures in dB.
        nats: of figures in nats.
        other: part of a figure in any other unit.
    """

    speedup: float = 0.05
    other_machine: float = 0.2
    size: float = 0.05
    fraction: float = 0.01
    decibels: float = 3.0
    nats: float = 0.01
    other: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What was validated, on what; a baseline of another subject says nothing.

    Attributes:
        outputs: name, type and shape without the batch of every output of the original.
        params: parameters of the original, or None if they are unknown.
        macs: multiply-accumulates of the original.
        data: name of the images, or how inputs were drawn.
        images: how many.
    """

    outputs: tuple[str, ...]
    params: int | None
    macs: int | None
    data: str
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a speed-up depends on besides the models.

    Attributes:
        cpu: name of the processor.
        isa: instruction sets that matter for convolutions.
        onnxruntime: its version.
        providers: execution providers.
        threads: intra-op threads that were asked for.
    """

    cpu: str
    isa: tuple[str, ...]
    onnxruntime: str
    providers: tuple[str, ...]
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedSpeed:
    """A measured ratio: how many times faster than the original the rewritten model is.

    Attributes:
        speedup: latency of the original / latency of the rewritten model, in one run.
        low: lower end of its interval.
        high: its upper end.
        noise_floor: ratio (>= 1) up to which the original differed from itself.
    """

    speedup: float
    low: float
    high: float
    noise_floor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedFigure:
    """One figure of the rewritten model.

    Attributes:
        name: of the figure, with that of the output where several have it.
        value: as it was found.
        better: whether a higher or a lower one is better.
        unit: "" for fractions, else ``dB``, ``nats``, ...
    """

    name: str
    value: float
    better: Better
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """What a validation found, to compare later ones with.

    Attributes:
        schema_version: of the structure of this file.
        tool: name and version of what wrote it.
        subject: what was validated.
        machine: where the speed-up was measured.
        speed: the speed-up, or None if latency was not measured.
        file_bytes: size of the rewritten model with its external data.
        figures: accuracy of the rewritten model.
        slack: how much worse a later result may be.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    schema_version: Literal[1] = 1
    tool: str
    subject: Subject
    machine: Machine
    speed: RecordedSpeed | None
    file_bytes: int
    figures: tuple[RecordedFigure, ...]
    slack: Slack = field(default_factory=Slack)


def recorded(report: ValidationReport, environment: Environment, *, slack: Slack | None = None) -> Baseline:
    """What a validation found, as a baseline.

    Args:
        report: of the validation.
        environment: where it ran.
        slack: what an earlier baseline allowed.
    """
    found = report.latency
    speed = None if found is None else RecordedSpeed(speedup=found.speedup, low=found.speedup_low,
                                                     high=found.speedup_high, noise_floor=found.noise_floor)
    cost = report.cost_original
    outputs = tuple(f"{d.name}: {d.dtype} {list(d.shape[1:])}" for d in report.outputs)
    return Baseline(
        tool=f"onnxslim1x1 {__version__}", speed=speed, file_bytes=report.size_rewritten_bytes,
        subject=Subject(outputs=outputs, params=cost.params if cost else None, macs=cost.macs if cost else None,
                        data=report.data, images=report.images),
        machine=Machine(cpu=environment.cpu, isa=environment.isa, onnxruntime=environment.onnxruntime,
                        providers=environment.providers, threads=environment.threads),
        figures=_figures(report), slack=slack or Slack())


def _figures(report: ValidationReport) -> tuple[RecordedFigure, ...]:
    """Accuracy of the rewritten model: by task where it was judged so, else by classes; and how near outputs are."""
    found: list[RecordedFigure] = []
    names = [f.name for f in report.figures]
    for f in report.figures:
        name = f.name if names.count(f.name) == 1 else f"{f.name}[{f.output}]"
        value = f.value if f.rewritten is None else f.rewritten
        if not math.isnan(value):
            found.append(RecordedFigure(name=name, value=_finite(value, f.unit), better=f.better, unit=f.unit))
    classes = report.classification
    if classes is not None and not found:
        values: tuple[tuple[str, float | None, Better, str], ...] = (
            ("top1", classes.top1_rewritten, "higher", ""), ("top5", classes.top5_rewritten, "higher", ""),
            ("agreement", classes.agreement, "higher", ""), ("kl", classes.kl, "lower", "nats"))
        found += [RecordedFigure(name=name, value=value, better=better, unit=unit)
                  for name, value, better, unit in values if value is not None]
    if _SNR not in names:  # else it is among the figures already
        found += [RecordedFigure(name=f"{_SNR}[{d.name}]", value=_finite(d.snr_db, "dB"), better="higher", unit="dB")
                  for d in report.outputs]
    return tuple(found)


def _finite(value: float, unit: str) -> float:
    """A value that JSON can hold: identical outputs have an infinite signal-to-noise ratio."""
    most = _BEST_SNR_DB if unit == "dB" else sys.float_info.max
    return max(min(value, most), -most)


# ---- comparing with one ----

def compared(report: ValidationReport, base: Baseline, environment: Environment, where: str) -> ValidationReport:
    """The report with a gate for everything that was recorded.

    Args:
        report: of the validation.
        base: what an earlier one found.
        environment: where this one ran.
        where: what messages call the baseline.

    Raises:
        BaselineError: it was recorded for something else.
    """
    now = recorded(report, environment)
    if not report.mismatches:  # else gates fail that say more
        _require_same(base.subject, now.subject, where)
    gates = [_size_gate(base, report)]
    if base.speed is not None:
        gates.append(_speed_gate(base, base.speed, now))
    values = {figure.name: figure.value for figure in now.figures}
    gates += [_figure_gate(figure, values.get(figure.name), base.slack) for figure in base.figures]
    return replace(report, gates=(*report.gates, *gates))


def _require_same(then: Subject, now: Subject, where: str) -> None:
    for name, was in asdict(then).items():
        new = getattr(now, name)
        if was != new:
            shown = [", ".join(value) if isinstance(value, tuple) else str(value) for value in (was, new)]
            kind = "images" if name in ("data", "images") else "models"
            raise BaselineError(f"{where}: was recorded for other {kind} ({name}: {shown[0]}, not {shown[1]}); if that "
                                "is meant, record it again with --update-baseline")


def _speed_gate(base: Baseline, then: RecordedSpeed, now: Baseline) -> Gate:
    """Slower only if the whole interval lies below that of the baseline, less noise and slack.

    ``high >= low_then * (1 - slack) / noise``, said of the speed-up itself by moving its own upper half-width over.
    """
    measured = now.speed
    slack = base.slack.speedup if now.machine == base.machine else base.slack.other_machine
    if measured is None:
        return _gate("min_speedup", then.low * (1 - slack), None, "latency")
    noise = max(then.noise_floor, measured.noise_floor)
    bound = then.low * (1 - slack) / noise * measured.speedup / measured.high
    return _gate("min_speedup", bound, measured.speedup, "latency")


def _size_gate(base: Baseline, report: ValidationReport) -> Gate:
    return _gate("max_file_bytes", base.file_bytes * (1 + base.slack.size), float(report.size_rewritten_bytes),
                 "latency")


def _figure_gate(then: RecordedFigure, value: float | None, slack: Slack) -> Gate:
    allowed = {"": slack.fraction, "dB": slack.decibels, "nats": slack.nats}.get(
        then.unit, slack.other * abs(then.value))
    if then.better == "higher":
        return _gate(f"min_{then.name}", then.value - allowed, value, "accuracy")
    return _gate(f"max_{then.name}", then.value + allowed, value, "accuracy")


def _gate(name: str, bound: float, value: float | None, kind: GateKind) -> Gate:
    passed = value is not None and (value >= bound if name.startswith("min_") else value <= bound)
    return Gate(name=f"{name}{_SUFFIX}", bound=bound, value=value, passed=passed, kind=kind)


# ---- files ----

@cache
def _adapter() -> TypeAdapter[Baseline]:
    from pydantic import TypeAdapter

    return TypeAdapter(Baseline)


def baseline_schema() -> dict[str, Any]:
    """JSON Schema of baselines, with the descriptions from the docstrings."""
    schema = _adapter().json_schema()
    schema["required"].insert(0, "schema_version")
    return published(schema, "Baseline of onnxslim1x1",
                     [Baseline, Subject, Machine, RecordedSpeed, RecordedFigure, Slack])


def baseline_text(base: Baseline) -> str:
    """A baseline as a JSON file."""
    return json.dumps(asdict(base), indent=2, allow_nan=False) + "\n"


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        BaselineError: it is missing, no JSON, of another version, or damaged.
    """
    from pydantic import ValidationError

    text = _FILES.read(path)
    document = _FILES.parse(text, f"{path}")
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        raise BaselineError(f"{path}: {explain(error, document, _adapter().json_schema())}; record it again with "
                            "--update-baseline") from error
