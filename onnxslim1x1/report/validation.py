"""A validation as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxslim1x1.report.accuracy import accuracy_parts
from onnxslim1x1.report.document import document, jsonable
from onnxslim1x1.report.format import count, decibel, ms, percent, size_bytes
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.report.words import STANDING, gate_words, latency_words
from onnxslim1x1.runtime.benchmark import LatencyComparison
from onnxslim1x1.runtime.compare import Classification
from onnxslim1x1.runtime.evidence import Footprint
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.verdict import Gate, ValidationReport
from onnxslim1x1.spec import Cost

Row = tuple[str, str, str, str]


def validation_report(report: ValidationReport) -> list[str | Table]:
    """Before and after, differences per output, gates, verdict."""
    parts: list[str | Table] = [before_and_after(report), ""]
    if report.outputs:
        parts += [_differences(report), ""]
    parts += [f"{m.name}: {m.reason} ({m.code})" for m in report.mismatches]
    if not report.checker.rewritten_ok or not report.checker.original_ok:
        parts.append(f"ONNX checker: {report.checker.message}")
    return [*parts, *accuracy_parts(report), *gate_lines(report.gates), *verdict_lines(report)]


def before_and_after(report: ValidationReport) -> Table:
    """Cost, size, latency and accuracy of both models."""
    rows = _cost_rows(report.cost_original, report.cost_rewritten)
    rows.append(("file size", size_bytes(report.size_original_bytes), size_bytes(report.size_rewritten_bytes),
                 _ratio(report.size_original_bytes, report.size_rewritten_bytes)))
    rows += footprint_rows(report.footprints)
    for one in report.latencies:
        before, after, where = one.original, one.rewritten, setting_of(one, report.latencies)
        rows += [(f"latency{where}, {name}", f"{ms(a)} ms", f"{ms(b)} ms", _ratio(a, b)) for name, a, b in (
            ("median", before.median_s, after.median_s), ("p10", before.p10_s, after.p10_s),
            ("p90", before.p90_s, after.p90_s))]
    if report.classification:
        rows += _class_rows(report.classification)
    return named_table((f"on {report.data}", "original", "rewritten", "change"), rows)


def footprint_rows(footprints: tuple[Footprint, Footprint] | None) -> list[Row]:
    """Loading time and memory of both models."""
    if footprints is None:
        return []
    old, new = footprints
    rows = [("time to load", f"{ms(old.load_s)} ms", f"{ms(new.load_s)} ms", _ratio(old.load_s, new.load_s))]
    for name, a, b in (("arena", old.arena_bytes, new.arena_bytes),
                       ("resident memory", old.resident_bytes, new.resident_bytes)):
        if a is not None and b is not None:
            rows.append((name, size_bytes(a), size_bytes(b), _ratio(a, b)))
    return rows


def setting_of(one: LatencyComparison, among: Sequence[LatencyComparison]) -> str:
    """What tells a comparison apart from the others: number of threads, batch size; empty for the only one."""
    threads, batches = {x.original.threads for x in among}, {x.batch for x in among}
    words = [f"{one.original.threads or 'free'} thread{'' if one.original.threads == 1 else 's'}"] * (len(threads) > 1)
    words += [f"batch {one.batch}"] * (len(batches) > 1)
    return f" ({', '.join(words)})" if words else ""


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


def _ratio(before: float, after: float, digits: int = 2) -> str:
    """How many times less the rewritten model needs."""
    if not after or not before:
        return ""
    return f"{before / after:.{digits}f}x less" if before >= after else f"{after / before:.{digits}f}x more"


def _differences(report: ValidationReport) -> Table:
    rows = [(d.name, f"{d.max_abs:.1e}", f"{d.mean_abs:.1e}", f"{d.max_rel:.1e}", f"{d.mean_rel:.1e}",
             f"{d.cosine:.5f}", decibel(d.snr_db), str(d.nan_count_rewritten)) for d in report.outputs]
    return named_table(("output", "max abs", "mean abs", "max rel", "mean rel", "cosine", "SNR", "NaN"), rows)


def gate_lines(gates: tuple[Gate, ...]) -> list[str]:
    """Promises that were asked for, and the standing ones that are broken."""
    return [f"gate {gate_words(gate)}" for gate in gates if gate.name not in STANDING or not gate.passed]


def verdict_lines(report: ValidationReport) -> list[str]:
    """The measured ratios with their intervals and noise floors, one line for each comparison."""
    if not report.latencies:
        return ["latency was not measured"]
    return [latency_words(one, setting_of(one, report.latencies)) for one in report.latencies]


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
