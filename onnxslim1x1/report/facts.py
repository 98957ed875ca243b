"""What there is to say about a model as a whole, in words: for pages and Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxslim1x1.report.format import TIME_NOISE, change, count, ms, percent, size_bytes
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, MeasuredRecord
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.search.comparison import ComparedTotals, Pair

UNKNOWN = "-"
_GAIN = "predicted gain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One statement.

    Attributes:
        label: what it is about.
        value: the figure.
        note: what it means, how it was found, or empty.
    """

    label: str
    value: str
    note: str = ""


def model_facts(record: AnalysisRecord) -> list[Fact]:
    """Size, work, time and possible gain of a model."""
    totals, model = record.totals, record.model
    found = [
        Fact(label="MACs", value=count(totals.macs), note=f"per run, of {totals.layers} convolutions and dense layers"),
        Fact(label="parameters", value=count(totals.params), note=f"{totals.params:,} in those layers")]
    if model.file_bytes is not None:
        found.append(Fact(label="file", value=size_bytes(model.file_bytes), note=f"opset {model.opset}"))
    if totals.measured:
        found += _times(totals.measured)
    return [*found, gain(record)]


def _times(measured: MeasuredRecord) -> list[Fact]:
    run = measured.end_to_end
    return [
        Fact(label="latency", value=f"{ms(run.median_s)} ms", note=f"median of {run.runs} runs; 80 % of them within "
                                                                  f"{ms(run.p10_s)} to {ms(run.p90_s)} ms"),
        Fact(label="in these layers", value=percent(measured.layers_s, measured.kernel_s, 0),
             note=f"of the {ms(measured.kernel_s)} ms that all kernels take; "
                  f"{percent(measured.mapped_s, measured.kernel_s, 0)} of them is mapped to nodes of the model")]


def gain(record: AnalysisRecord) -> Fact:
    """What rewriting could save: predicted where there are proposals, and plainly nothing where there are none."""
    measured, saved = record.totals.measured, record.totals.saved_s
    if measured is None:
        return Fact(label=_GAIN, value=UNKNOWN, note="not measured: leave out --no-measure for proposals")
    seen = any(p.spectra.activations for p in record.layers)
    if not saved:
        return Fact(label=_GAIN, value="none", note="nothing worth rewriting " + (
            "with the images" if seen else "from the weights alone; slim --calibration IMAGES looks at the data, too"))
    after = measured.kernel_s - saved
    basis = ("predicted, each layer by its output error on the images; slim --calibration fits them to each other and "
             "checks the result" if seen else "predicted from the weights alone, accuracy not checked; slim "
             "--calibration IMAGES finds better factors and checks the result")
    return Fact(label=_GAIN, value=f"{measured.kernel_s / after:.2f}x",
                note=f"kernels {ms(measured.kernel_s)} to {ms(after)} ms, {count(record.totals.macs)} to "
                     f"{count(record.totals.macs_after)} MACs: {basis}")


def headroom(record: AnalysisRecord) -> Fact | None:
    """What would be left if every layer ran at the roofline: a bound for any change of the machine code.

    None where layers are missing from the record or have no place under a roofline.
    """
    measured, roofs = record.totals.measured, [p.roof for p in record.layers if p.time_s]
    if measured is None or not measured.layers_s or len(record.layers) < record.totals.layers or None in roofs:
        return None
    least = sum(p.macs / p.roof.limit for p in record.layers if p.roof and p.macs)
    return Fact(label="at the roofline", value=f"{ms(least)} ms",
                note=f"instead of {ms(measured.layers_s)} ms for these layers if each ran as fast as this machine can: "
                     "a bound, not a prediction; only less work goes below it")


def environment_facts(environment: Environment) -> list[Fact]:
    """The machine and the versions."""
    threads = str(environment.threads) if environment.threads else "chosen by onnxruntime"
    values = {
        "processor": environment.cpu, "instruction sets": " ".join(environment.isa) or UNKNOWN,
        "logical processors": str(environment.cores), "channel block": str(environment.block), "threads": threads,
        "providers": ", ".join(name.removesuffix("ExecutionProvider") for name in environment.providers),
        "onnxruntime": environment.onnxruntime, "onnx": environment.onnx, "Python": environment.python,
        "platform": environment.platform}
    return [Fact(label=label, value=value) for label, value in values.items()]


def compared_facts(record: ComparisonRecord) -> list[Fact]:
    """Both models in total."""
    return [Fact(label=label, value=_from_to(before, after), note=changed)
            for label, before, after, changed in total_rows(record.totals)]


def total_rows(totals: ComparedTotals) -> list[tuple[str, str, str, str]]:
    """What it is, before, after and how it changed; without what is known of neither model."""
    rows: list[tuple[str, Pair, Callable[[float], str], float]] = [
        ("MACs", totals.macs, count, 0.0), ("parameters", totals.params, count, 0.0),
        ("layers", totals.layers, count, 0.0), ("layers' time", totals.layers_s, _ms, TIME_NOISE),
        ("latency, median", totals.latency_s, _ms, TIME_NOISE), ("file size", totals.file_bytes, _bytes, 0.0)]
    return [(label, _known(pair.before, form), _known(pair.after, form), change(pair, noise=noise))
            for label, pair, form, noise in rows if pair.before is not None or pair.after is not None]


def _from_to(before: str, after: str) -> str:
    """``1.5 → 1.2 ms``: a unit that both have is said once."""
    unit = after.partition(" ")[2]
    return f"{before.removesuffix(f' {unit}') if unit else before} → {after}"


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else form(value)


def _ms(seconds: float) -> str:
    return f"{ms(seconds)} ms"


def _bytes(value: float) -> str:
    return size_bytes(int(value))
