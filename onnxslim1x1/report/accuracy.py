"""Accuracy by task, errors by layer, shifted inputs and worst images as tables and lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxslim1x1.report.format import decibel
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.runtime.evidence import Figure, LayerError, Shifted, WorstSample
from onnxslim1x1.runtime.verdict import ValidationReport

FRACTIONS = frozenset(("top1", "top5", "agreement", "pixel_agreement", "mask_iou", "topk_box_agreement", "box_iou"))
_LAYERS = 24  # tensors that are shown
_WORST = 3
_BARS = " ▏▎▍▌▋▊▉█"
_DECADES = 4  # of error that a bar spans


def accuracy_parts(report: ValidationReport) -> list[str | Table]:
    """All of it that a report has."""
    parts: list[str | Table] = []
    if report.figures:
        parts += [f"judged as {report.task}: {report.task_reason}", figures_table(report.figures), ""]
        parts += [line for one in report.figures if one.name == "top1" for line in (drop_line(one), "")]
    if report.layers:
        parts += [layers_table(report.layers), ""]
    if report.shifts:
        parts += [shifts_table(report.shifts), shifts_line(report.shifts), ""]
    return [*parts, *report.notes, *worst_lines(report.worst)]


def figures_table(figures: Sequence[Figure]) -> Table:
    """One row per figure, with its interval."""
    several = len({one.output for one in figures if one.output}) > 1
    rows = [(f"{one.name} {one.output}" if several and one.output else one.name, _own(one, one.original),
             _own(one, one.rewritten), value(one), interval(one), _p(one.p_value)) for one in figures]
    share = f"{100 * figures[0].confidence:g} % interval"
    return named_table(("figure", "original", "rewritten", "value", share, "p"), rows)


def drop_line(top1: Figure) -> str:
    """Top-1 in words: drop 0.4 points, 95 % interval 0.1 to 0.7, 4,000 images."""
    ends = "" if top1.low is None or top1.high is None else (
        f", {100 * top1.confidence:g} % interval {-100 * top1.high + 0.0:.1f} to {-100 * top1.low + 0.0:.1f}")
    return f"top-1: drop {-100 * top1.value + 0.0:.1f} points{ends}, {top1.images:,} images"


def value(one: Figure, number: float | None = None) -> str:
    """Value of a figure, or a number in its unit; a difference has a sign."""
    shown = one.value if number is None else number
    signed = "+" if one.original is not None or number is not None else ""
    return _number(one, shown, signed)


def interval(one: Figure) -> str:
    """Ends of the interval of a figure."""
    return _ends(one, one.low, one.high, signed="" if one.original is None else "+")


def _ends(one: Figure, low: float | None, high: float | None, *, signed: str) -> str:
    if low is None or high is None:
        return "-"
    return f"{_number(one, low, signed, unit=False)} to {_number(one, high, signed, unit=False)}"


def _own(one: Figure, number: float | None) -> str:
    return "" if number is None else f"{100 * number:.2f}%" if one.name in FRACTIONS else _number(one, number, "")


def _number(one: Figure, number: float, signed: str, *, unit: bool = True) -> str:
    """In points or per cent for fractions of images, else with four digits and the unit."""
    if not math.isfinite(number):
        return "identical" if number > 0 and one.better == "higher" and not signed else f"{number:{signed}g}"
    if one.name in FRACTIONS:
        text, name = f"{100 * number:{signed}.2f}", " points" if signed else "%"
    elif one.name == "cosine":
        text, name = f"{number:{signed}.5f}", ""
    elif one.unit == "dB":
        text, name = f"{number:{signed}.2f}", " dB"
    else:
        text, name = f"{number:{signed}.4g}", f" {one.unit}" if one.unit else ""
    return text + name if unit else text


def _p(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}" if number >= 0.001 else "<0.001"


def layers_table(layers: Sequence[LayerError]) -> Table:
    """Where error enters and how it grows: the tensors at which it rises most, in the order of computation."""
    rising = [i for i, one in enumerate(layers) if rise(one) > 0]
    chosen = sorted(sorted(rising, key=lambda i: -rise(layers[i]))[:_LAYERS - 1])
    if len(layers) - 1 not in chosen:
        chosen.append(len(layers) - 1)
    rows = [(layers[i].tensor, layers[i].op_type + (" *" if layers[i].rewritten else ""),
             f"{layers[i].rel_error:.2e}", decibel(layers[i].snr_db), growth(layers[i].growth),
             bar(layers[i].rel_error)) for i in chosen]
    title = "tensor" if len(chosen) == len(layers) else f"{len(chosen)} of {len(layers)} tensors"
    return named_table((title, "written by", "rel. error", "SNR", "growth", "error"), rows, left=(1, 5))


def rise(one: LayerError) -> float:
    """By how much the error is larger than what the node reads."""
    if one.growth is None or one.growth <= 0:
        return 0.0
    return one.rel_error if math.isinf(one.growth) else one.rel_error * (1.0 - 1.0 / one.growth)


def growth(factor: float | None) -> str:
    """``enters``, a factor, or nothing."""
    return "" if factor is None else "enters" if math.isinf(factor) else f"{factor:.2f}x"


def bar(error: float, width: int = 8) -> str:
    """An error on a logarithmic scale from 1e-4 to 1."""
    if not error > 0:
        return ""
    part = min(max(1.0 + math.log10(error) / _DECADES, 0.0), 1.0) if math.isfinite(error) else 1.0
    eighths = round(part * width * 8)
    return "█" * (eighths // 8) + _BARS[eighths % 8].strip()


def shifts_table(shifts: Sequence[Shifted]) -> Table:
    """Figure on clean and on changed images, and by how much more the rewritten model lost."""
    clean = shifts[0].clean
    rows = [("none", "", *_both(clean), "", "")]
    rows += [(one.shift, one.strength, *_both(one.figure), value(one.figure, one.excess),
              _ends(one.figure, one.low, one.high, signed="+")) for one in shifts]
    headers = ("original", "rewritten") if clean.original is not None else ("", clean.name)
    return named_table(("shift", "strength", *headers, "excess loss", f"{100 * clean.confidence:g} % interval"), rows,
                       left=(1,))


def _both(one: Figure) -> tuple[str, str]:
    if one.original is None:
        return "", value(one)
    return _own(one, one.original), _own(one, one.rewritten)


def shifts_line(shifts: Sequence[Shifted]) -> str:
    """Whether the rewritten model degrades faster."""
    worse = [f"{one.shift} {one.strength}" for one in shifts if one.low is not None and one.low > 0]
    name = shifts[0].figure.name
    if worse:
        return f"shifts: {name} falls faster than the original's under {', '.join(worse)}" if (
            shifts[0].clean.original is not None) else f"shifts: {name} falls under {', '.join(worse)}"
    return f"shifts: no shift shows that the rewritten model degrades faster than the original (by {name})"


def worst_lines(worst: Sequence[WorstSample]) -> list[str]:
    """The first few images with the largest loss."""
    shown = [f"{one.name} ({one.note}; {one.measure} {one.loss:.3g})" for one in worst[:_WORST]]
    return [f"furthest apart on: {'; '.join(shown)}"] if shown else []
