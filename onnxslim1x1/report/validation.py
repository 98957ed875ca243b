"""A validation as tables and as JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, decibel, ms, percent, size_bytes
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.report.words import (
    STANDING,
    excess_words,
    figure_words,
    gate_words,
    growth_words,
    is_change,
    label,
    latency_words,
    scale,
    setting,
    snr,
)
from onnxslim1x1.runtime.compare import Classification
from onnxslim1x1.runtime.evidence import Figure, Footprint, LayerError
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.verdict import Gate, ValidationReport
from onnxslim1x1.spec import Cost

Row = tuple[str, str, str, str]

_OF_CLASSES = ("top1", "top5")  # have rows of their own
_MOST_LAYERS = 12
_MOST_WORST = 3


def validation_report(report: ValidationReport) -> list[str | Table]:
    """Before and after, differences per output, accuracy with intervals, gates, verdict."""
    parts: list[str | Table] = [before_and_after(report), ""]
    for table in (_differences(report), _latencies(report), _shifts(report), _layers(report)):
        parts += [table, ""] if table else []
    parts += [*figure_lines(report), *_worst_lines(report)]
    parts += [f"{m.name}: {m.reason} ({m.code})" for m in report.mismatches]
    if not report.checker.rewritten_ok or not report.checker.original_ok:
        parts.append(f"ONNX checker: {report.checker.message}")
    return [*parts, *gate_lines(report.gates), verdict_line(report)]


def before_and_after(report: ValidationReport) -> Table:
    """Cost, size, latency and accuracy of both models."""
    rows = _cost_rows(report.cost_original, report.cost_rewritten)
    rows.append(("file size", size_bytes(report.size_original_bytes), size_bytes(report.size_rewritten_bytes),
                 _ratio(report.size_original_bytes, report.size_rewritten_bytes)))
    if report.latency:
        before, after = report.latency.original, report.latency.rewritten
        rows += [(f"latency, {name}", f"{ms(a)} ms", f"{ms(b)} ms", _ratio(a, b)) for name, a, b in (
            ("median", before.median_s, after.median_s), ("p10", before.p10_s, after.p10_s),
            ("p90", before.p90_s, after.p90_s))]
    rows += _footprint_rows(report.footprints)
    if report.classification:
        rows += _class_rows(report.classification)[: 2 if report.figures else None]
    rows += [_figure_row(f, several_outputs(report)) for f in report.figures
             if is_change(f) and not (report.classification and f.name in _OF_CLASSES)]
    return named_table((f"on {report.data}", "original", "rewritten", "change"), rows)


def _cost_rows(old: Cost | None, new: Cost | None) -> list[Row]:
    if old is None or new is None:
        return []
    return [("MACs", count(old.macs), count(new.macs), _ratio(old.macs, new.macs)),
            ("parameters", count(old.params), count(new.params), _ratio(old.params, new.params))]


def _class_rows(classes: Classification) -> list[Row]:
    found = [(name, percent(a, digits=2), percent(b, digits=2), f"{100 * (b - a):+.2f} points")
             for name, a, b in (("top-1", classes.top1_original, classes.top1_rewritten),
                                ("top-5", classes.top5_original, classes.top5_rewritten))
             if a is not None and b is not None]
    kl = "-" if classes.kl is None else f"{classes.kl:.4f} nats"
    return [*found, ("same class", "", percent(classes.agreement, digits=2), ""), ("KL divergence", "", kl, "")]


def _footprint_rows(found: tuple[Footprint, Footprint] | None) -> list[Row]:
    if found is None:
        return []
    old, new = found
    rows = [("loading", f"{ms(old.load_s)} ms", f"{ms(new.load_s)} ms", _ratio(old.load_s, new.load_s))]
    for name, before, after in (("arena", old.arena_bytes, new.arena_bytes),
                                ("resident memory", old.resident_bytes, new.resident_bytes)):
        if before is not None and after is not None:
            rows.append((name, size_bytes(before), size_bytes(after), _ratio(before, after)))
    return rows


def _figure_row(figure: Figure, several: bool) -> Row:
    written = scale(figure)
    return (f"{figure.output}, {label(figure.name)}" if several else label(figure.name),
            written.value(figure.original), written.value(figure.rewritten),
            f"{written.factor * figure.value:+{written.form}}{written.unit_of_change}")


def several_outputs(report: ValidationReport) -> bool:
    """Whether figures judge more than one output, so that it must be said which."""
    return len({f.output for f in report.figures}) > 1


def _ratio(before: float, after: float, digits: int = 2) -> str:
    """How many times less the rewritten model needs."""
    if not after or not before:
        return ""
    return f"{before / after:.{digits}f}x less" if before >= after else f"{after / before:.{digits}f}x more"


def _differences(report: ValidationReport) -> Table | None:
    if not report.outputs:
        return None
    rows = [(d.name, f"{d.max_abs:.1e}", f"{d.mean_abs:.1e}", f"{d.max_rel:.1e}", f"{d.mean_rel:.1e}",
             f"{d.cosine:.5f}", snr(d), str(d.nan_count_rewritten)) for d in report.outputs]
    return named_table(("output", "max abs", "mean abs", "max rel", "mean rel", "cosine", "SNR", "NaN"), rows)


def _latencies(report: ValidationReport) -> Table | None:
    """All settings, where there are several."""
    if len(report.latencies) < 2:
        return None
    rows = [(setting(x), ms(x.original.median_s), ms(x.rewritten.median_s), f"{x.speedup:.2f}x",
             f"{x.speedup_low:.2f} to {x.speedup_high:.2f}", f"{x.noise_low:.2f} to {x.noise_high:.2f}",
             x.verdict.removesuffix(" shown")) for x in report.latencies]
    return named_table(("latency with", "ms", "after", "ratio", "95 % interval", "A/A'", "verdict"), rows)


def _shifts(report: ValidationReport) -> Table | None:
    rows = [(f"{x.shift} {x.strength}", label(x.figure.name), excess_words(x)) for x in report.shifts]
    return named_table(("changed inputs", "figure", "lost against the original"), rows, left=(1, 2)) if rows else None


def _layers(report: ValidationReport) -> Table | None:
    """Tensors at which error enters, rewritten ones and those with the largest errors, in the order of computation."""
    def weight(layer: LayerError) -> tuple[bool, bool, float]:
        return layer.growth == math.inf, layer.rewritten, layer.rel_error

    errors = [x for x in report.layers if x.rel_error]
    shown = set(sorted(errors, key=weight)[-_MOST_LAYERS:])
    rows = [(x.node, x.op_type, f"{100 * x.rel_error:.3g}%", decibel(x.snr_db), growth_words(x),
             "rewritten" if x.rewritten else "") for x in errors if x in shown]
    if not report.layers:
        return None
    of = f"{len(rows)} of {len(report.layers)} tensors"
    return named_table((of, "operator", "error", "SNR", "growth", ""), rows, left=(1, 5))


def figure_lines(report: ValidationReport) -> list[str]:
    """``top-1: drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images``."""
    several = several_outputs(report)
    return [f"{f'{f.output}, ' if several else ''}{label(f.name)}: {figure_words(f)}" for f in report.figures]


def _worst_lines(report: ValidationReport) -> list[str]:
    return [f"worst: {x.name}: {x.note} ({label(x.measure)} {x.loss:.3g})" for x in report.worst[:_MOST_WORST]]


def gate_lines(gates: tuple[Gate, ...]) -> list[str]:
    """Promises that were asked for, and the standing ones that are broken."""
    return [f"gate {gate_words(gate)}" for gate in gates if gate.name not in STANDING or not gate.passed]


def verdict_line(report: ValidationReport) -> str:
    """The measured ratio with its interval and the noise floor."""
    return "latency was not measured" if report.latency is None else latency_words(report.latency)


def validation_json(report: ValidationReport) -> dict[str, Any]:
    """The same as data."""
    found: dict[str, Any] = jsonable(report)
    found["passed"] = report.passed
    found["warnings"] = list(report.warnings)
    for one, measured in zip(found["latencies"], report.latencies, strict=True):
        one["verdict"] = measured.verdict
    return found


def validate_json(report: ValidationReport, original: Path, rewritten: Path,
                  environment: Environment) -> dict[str, Any]:
    """The document of ``validate --json``."""
    return document("validate", {"environment": environment, "original": original, "rewritten": rewritten,
                                 "validation": validation_json(report), "warnings": report.warnings})
