"""What there is to say about a model as a whole, in words: for pages and Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from onnxslim1x1.report.format import count, ms, percent, size_bytes
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, MeasuredRecord
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.search.comparison import Pair

UNKNOWN = "-"


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
        return Fact(label="predicted gain", value=UNKNOWN, note="not measured: leave out --no-measure for proposals")
    if not saved:
        return Fact(label="predicted gain", value="none", note="nothing worth rewriting from the weights alone; slim "
                                                               "--calibration IMAGES looks at the data, too")
    after = measured.kernel_s - saved
    return Fact(label="predicted gain", value=f"{measured.kernel_s / after:.2f}x",
                note=f"kernels {ms(measured.kernel_s)} to {ms(after)} ms, {count(record.totals.macs)} to "
                     f"{count(record.totals.macs_after)} MACs: predicted from the weights alone, accuracy not checked; "
                     "slim --calibration IMAGES finds better factors and checks the result")


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
        "providers": ", ".join(environment.providers), "onnxruntime": environment.onnxruntime,
        "onnx": environment.onnx, "Python": environment.python, "platform": environment.platform}
    return [Fact(label=label, value=value) for label, value in values.items()]


def compared_facts(record: ComparisonRecord) -> list[Fact]:
    """Both models in total."""
    totals = record.totals
    rows = [("MACs", totals.macs, count), ("parameters", totals.params, count), ("layers", totals.layers, count),
            ("layers' time", totals.layers_s, _ms), ("latency", totals.latency_s, _ms),
            ("file", totals.file_bytes, _bytes)]
    return [Fact(label=label, value=f"{form(pair.before)} → {form(pair.after)}", note=change(pair))
            for label, pair, form in rows if pair.before is not None or pair.after is not None]


def change(pair: Pair) -> str:
    """``1.50x less``, ``1.20x more``, ``the same``, or empty if it is unknown."""
    ratio = pair.ratio
    if ratio is None:
        return ""
    if ratio == 0:
        return "gone"
    if f"{ratio:.2f}" == "1.00" or f"{1 / ratio:.2f}" == "1.00":
        return "the same" if ratio == 1 else "about the same"
    return f"{1 / ratio:.2f}x less" if ratio < 1 else f"{ratio:.2f}x more"


def _ms(value: float | None) -> str:
    return UNKNOWN if value is None else f"{ms(value)} ms"


def _bytes(value: float | None) -> str:
    return UNKNOWN if value is None else size_bytes(int(value))
