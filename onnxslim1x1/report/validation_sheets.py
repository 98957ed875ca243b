"""Findings of a validation as tables, for pages and Markdown: one function per table, empty where nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxslim1x1.report.facts import UNKNOWN
from onnxslim1x1.report.format import count, ms, shape, size_bytes
from onnxslim1x1.report.rows import Cell, Column, Sheet, count_cell, ms_cell, number_cell, text_cell
from onnxslim1x1.report.validation_records import FigureRecord, LayerErrorRecord, SlimRecord, ValidationRecord
from onnxslim1x1.report.words import (
    IDENTICAL,
    NOT_FINITE,
    exact_outputs,
    excess_words,
    gate_name,
    gate_value,
    growth_words,
    interval_text,
    is_change,
    label,
    scale,
    setting,
    snr,
)

EMPTY = Sheet(columns=(), rows=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One table with what is to be said about it.

    Attributes:
        key: for the elements of a page.
        title: heading.
        note: what it shows, or empty.
        sheet: the table.
    """

    key: str
    title: str
    note: str
    sheet: Sheet


def sections(found: ValidationRecord) -> list[Section]:
    """All tables of a validation that have rows, in the order in which one wants to know."""
    every = (
        Section(key="gates", title="Promises", note="What had to hold, and what was found.", sheet=gates(found)),
        Section(key="latency", title="Latency", sheet=latencies(found),
                note="Both models and a second copy of the original (A') ran by turns; the ratio counts only where its "
                     "whole interval lies beyond what two equal models showed."),
        Section(key="accuracy", title="Accuracy", sheet=figures(found),
                note=(f"Judged as {found.task}: {found.task_reason}. " if found.task else "") +
                     "A change is rewritten minus original; the interval says how far other images of the same kind "
                     "could move it."),
        Section(key="outputs", title="Differences per output", sheet=outputs(found),
                note="Of the rewritten model from the original, over all runs."),
        Section(key="footprint", title="Size, memory, loading", sheet=footprint(found), note=""),
        Section(key="shifts", title="Changed inputs", sheet=shifts(found),
                note="Does the rewritten model suffer more than the original when the images get worse? Lost is "
                     "against the same figure on the images as they are."),
        Section(key="mismatches", title="Inputs and outputs that do not match", sheet=mismatches(found), note=""))
    return [section for section in every if section.sheet.rows]


def _sheet(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Sheet:
    """Without the columns in which nothing is known."""
    whole = Sheet(columns=tuple(columns), rows=tuple(map(tuple, rows)))
    return whole.only(lambda i: any(row[i].value is not None for row in whole.rows))


def _name(key: str, title: str) -> Column:
    return Column(key=key, title=title, is_text=True, is_narrow=True)


def _figure(key: str, title: str, *, narrow: bool = False) -> Column:
    return Column(key=key, title=title, is_narrow=narrow)


def gates(found: ValidationRecord) -> Sheet:
    """Every promise, the broken ones first."""
    rows = [(text_cell(gate_name(g)), text_cell("passed" if g.passed else "FAILED"),
             text_cell(gate_value(g)),
             text_cell(f"{'at least' if g.name.startswith('min_') else 'at most'} {g.bound:g}"))
            for g in sorted(found.gates, key=lambda gate: gate.passed)]
    columns = (_name("gate", "promise"), _name("verdict", "verdict"), _figure("value", "found", narrow=True),
               _figure("bound", "bound", narrow=True))
    return _sheet(columns, rows)


def latencies(found: ValidationRecord) -> Sheet:
    """One row per setting."""
    rows = [(text_cell(setting(x)), text_cell(x.verdict), ms_cell(x.original.median_s), ms_cell(x.rewritten.median_s),
             number_cell(x.speedup, ".2f"), text_cell(f"{x.speedup_low:.2f} to {x.speedup_high:.2f}"),
             text_cell(f"{x.noise_low:.2f} to {x.noise_high:.2f}"),
             text_cell(f"{ms(x.original.p10_s)} to {ms(x.original.p90_s)}"),
             text_cell(f"{ms(x.rewritten.p10_s)} to {ms(x.rewritten.p90_s)}"), count_cell(x.original.runs))
            for x in found.latencies]
    columns = (_name("setting", "setting"), _name("verdict", "verdict"), _figure("original_ms", "original, ms"),
               _figure("rewritten_ms", "rewritten, ms"), _figure("speedup", "ratio", narrow=True),
               _figure("interval", "95 % interval", narrow=True), _figure("noise", "A/A'"),
               _figure("original_range", "original, 80 %"), _figure("rewritten_range", "rewritten, 80 %"),
               _figure("runs", "runs"))
    return _sheet(columns, rows)


def figures(found: ValidationRecord) -> Sheet:
    """Figures of accuracy with their intervals; what the classes say where there are none."""
    several = len({f.output for f in found.figures}) > 1
    exact = exact_outputs(found)
    rows = [_figure_row(f, several, f.output in exact) for f in found.figures] or _class_rows(found)
    columns = (_name("figure", "figure"), _name("output", "output"), _figure("original", "original"),
               _figure("rewritten", "rewritten"), _figure("value", "comparison", narrow=True),
               _figure("interval", "interval", narrow=True), _figure("p", "p"), _figure("images", "images"))
    return _sheet(columns, rows)


def _figure_row(figure: FigureRecord, several: bool, exact: bool) -> tuple[Cell, ...]:
    written, changed = scale(figure), is_change(figure)
    value, infinite = figure.value, IDENTICAL if exact else NOT_FINITE
    told = infinite if value is None else f"{value * written.factor:+{written.form}}{written.unit_of_change}" \
        if changed else written.value(value)
    interval = interval_text(figure) or None
    return (text_cell(label(figure.name)), text_cell(figure.output if several else None),
            Cell(text=written.value(figure.original) if changed else "", value=figure.original),
            Cell(text=written.value(figure.rewritten) if changed else "", value=figure.rewritten),
            Cell(text=told, value=value if value is not None else infinite), text_cell(interval),
            number_cell(figure.p_value, ".2g"), count_cell(figure.images))


def _class_rows(found: ValidationRecord) -> list[tuple[Cell, ...]]:
    classes = found.classification
    if classes is None:
        return []
    pairs = (("top-1", classes.top1_original, classes.top1_rewritten),
             ("top-5", classes.top5_original, classes.top5_rewritten))
    rows: list[tuple[str, str | None, str | None, str]]
    rows = [(name, f"{100 * a:.2f}%", f"{100 * b:.2f}%", f"{100 * (b - a):+.2f} points")
            for name, a, b in pairs if a is not None and b is not None]
    rows.append(("same class", None, None, f"{100 * classes.agreement:.2f}%"))
    if classes.kl is not None:
        rows.append(("KL divergence", None, None, f"{classes.kl:.4g} nats"))
    return [(text_cell(name), text_cell(None), Cell(text=a or "", value=a), Cell(text=b or "", value=b), text_cell(c),
             text_cell(None), text_cell(None), count_cell(classes.images)) for name, a, b, c in rows]


def outputs(found: ValidationRecord) -> Sheet:
    """Differences of every output."""
    def difference(value: float | None) -> Cell:
        return Cell(text="infinite" if value is None else f"{value:.2g}", value="infinite" if value is None else value)

    rows = [(text_cell(o.name), text_cell(snr(o)), difference(o.max_abs),
             difference(o.mean_abs), difference(o.max_rel), difference(o.mean_rel), number_cell(o.cosine, ".5f"),
             count_cell(o.nan_count_new)) for o in found.outputs]
    columns = (_name("output", "output"), _figure("snr_db", "SNR", narrow=True),
               _figure("max_abs", "max abs", narrow=True), _figure("mean_abs", "mean abs"),
               _figure("max_rel", "max rel"), _figure("mean_rel", "mean rel"), _figure("cosine", "cosine"),
               _figure("new_nan", "new NaN", narrow=True))
    return _sheet(columns, rows)


def footprint(found: ValidationRecord) -> Sheet:
    """What both models take up besides time: cost, size, memory, loading."""
    rows: list[tuple[str, str, str, str]] = []

    def add(name: str, before: float | None, after: float | None, form: str) -> None:
        if before is not None and after is not None:
            write = {"bytes": lambda x: size_bytes(int(x)), "ms": lambda x: f"{ms(x)} ms", "count": count}[form]
            rows.append((name, write(before), write(after), times_less(before, after)))

    old, new = found.cost_original, found.cost_rewritten
    if old and new:
        add("MACs", old.macs, new.macs, "count")
        add("parameters", old.params, new.params, "count")
    add("file", found.size_original_bytes, found.size_rewritten_bytes, "bytes")
    if found.footprints:
        first, second = found.footprints
        add("loading", first.load_s, second.load_s, "ms")
        add("arena while running", first.arena_bytes, second.arena_bytes, "bytes")
        add("resident memory", first.resident_bytes, second.resident_bytes, "bytes")
    columns = (_name("what", ""), _figure("original", "original", narrow=True),
               _figure("rewritten", "rewritten", narrow=True), _figure("change", "change", narrow=True))
    return _sheet(columns, [tuple(map(text_cell, row)) for row in rows])


def times_less(before: float, after: float) -> str:
    """How many times less the rewritten model needs; empty where that is no number."""
    if before == after:
        return "the same"
    if not after or not before:
        return ""
    return f"{before / after:.2f}x less" if before >= after else f"{after / before:.2f}x more"


def shifts(found: ValidationRecord) -> Sheet:
    """Every change of the inputs with what both models lost by it."""
    rows = []
    for one in found.shifts:
        written = scale(one.figure)
        rows.append((text_cell(one.shift), text_cell(one.strength), text_cell(label(one.figure.name)),
                     _lost(one.clean.original, one.figure.original, one.clean),
                     _lost(one.clean.rewritten, one.figure.rewritten, one.clean),
                     Cell(text=written.value(one.figure.value) if one.figure.original is None else "",
                          value=one.figure.value if one.figure.original is None else None),
                     text_cell(excess_words(one)), count_cell(one.figure.images)))
    columns = (_name("shift", "change"), _name("strength", "strength"), Column(key="figure", title="figure",
                                                                               is_text=True),
               _figure("original_lost", "original lost"), _figure("rewritten_lost", "rewritten lost"),
               _figure("value", "comparison"), _figure("excess", "difference", narrow=True),
               _figure("images", "images"))
    return _sheet(columns, rows)


def _lost(clean: float | None, changed: float | None, figure: FigureRecord) -> Cell:
    """How much worse a model got, in the unit of the figure."""
    if clean is None or changed is None:
        return text_cell(None)
    lost = clean - changed if figure.better == "higher" else changed - clean
    return Cell(text=scale(figure).change(lost), value=lost)


def mismatches(found: ValidationRecord) -> Sheet:
    """What the rewritten model does not have, or has otherwise."""
    return _sheet((_name("name", "name"), _name("reason", "what is wrong"), Column(key="code", title="code",
                                                                                  is_text=True)),
                  [(text_cell(m.name), text_cell(m.reason), text_cell(m.code)) for m in found.mismatches])


def layer_errors(layers: Sequence[LayerErrorRecord]) -> Sheet:
    """One row per intermediate tensor, in the order of computation."""
    rows = [(text_cell(x.node), text_cell(x.op_type), text_cell("rewritten" if x.rewritten else ""),
             error_cell(x.rel_error), Cell(text=layer_snr(x), value=x.snr_db),
             Cell(text=growth_words(x), value=x.growth), text_cell(x.tensor),
             text_cell(x.counterpart if x.counterpart != x.tensor else None)) for x in layers]
    columns = (_name("node", "layer"), Column(key="op_type", title="operator", is_text=True),
               Column(key="rewritten", title="rewritten", is_text=True),
               _figure("rel_error", "error", narrow=True), _figure("snr_db", "SNR, dB"),
               _figure("growth", "growth", narrow=True), Column(key="tensor", title="writes", is_text=True),
               Column(key="counterpart", title="compared with", is_text=True))
    return _sheet(columns, rows)


def error_cell(error: float | None) -> Cell:
    """A relative error in per cent."""
    return Cell(text=NOT_FINITE if error is None else f"{100 * error:.3g}%", value=error)


def layer_snr(layer: LayerErrorRecord) -> str:
    """Signal-to-noise ratio of a tensor; ``exact`` without any error."""
    if layer.snr_db is None:
        return "exact" if layer.rel_error == 0 else NOT_FINITE
    return f"{layer.snr_db:.1f}"


def planned(slim: SlimRecord) -> Sheet:
    """The layers that were rewritten."""
    rows = [(text_cell(p.layer), text_cell(p.strategy), text_cell(shape(p.ranks)), number_cell(p.error, ".3f"),
             count_cell(p.before.macs), count_cell(p.after.macs),
             Cell(text=UNKNOWN if p.speedup is None else f"{p.speedup:.2f}x", value=p.speedup))
            for p in slim.plan.layers]
    columns = (_name("layer", "layer"), _name("family", "family"), _figure("rank", "rank", narrow=True),
               _figure("error", "error", narrow=True), _figure("macs", "MACs"), _figure("macs_after", "after"),
               _figure("alone", "alone"))
    return _sheet(columns, rows)


def left_alone(slim: SlimRecord) -> list[tuple[str, str, list[str]]]:
    """Why layers were left alone: code, the first reason, and their names, the most frequent code first."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for one in slim.plan.skipped:
        groups.setdefault(one.code, []).append((one.reason, one.layer))
    return sorted(((code, found[0][0], [name for _, name in found]) for code, found in groups.items()),
                  key=lambda group: -len(group[2]))
