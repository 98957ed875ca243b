"""One row per layer, or per pair of layers, as text and as values to sort by: for pages, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxslim1x1.report.facts import UNKNOWN
from onnxslim1x1.report.format import TIME_NOISE, change, count, geometry, ms, percent, shape, verdict
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, LayerRecord, Record
from onnxslim1x1.search.comparison import Match, Pair

Value = str | float | int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: its name in CSV, with the unit.
        title: its heading for people.
        is_text: whether it holds text rather than numbers.
        is_narrow: whether it is shown on a phone, too.
        is_shown: whether a page shows it at all; what it leaves out is in CSV and Markdown.
    """

    key: str
    title: str
    is_text: bool = False
    is_narrow: bool = False
    is_shown: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell: what people read, and the exact value."""

    text: str
    value: Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table: columns, and one row of cells per layer."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def only(self, wanted: Callable[[int], bool]) -> Sheet:
        """Without the columns at some positions."""
        kept = [i for i in range(len(self.columns)) if wanted(i)]
        return Sheet(columns=tuple(self.columns[i] for i in kept),
                     rows=tuple(tuple(row[i] for i in kept) for row in self.rows))


_LAYERS = (
    Column(key="layer", title="layer", is_text=True, is_narrow=True),
    Column(key="index", title="node", is_shown=False),
    Column(key="kind", title="kind", is_text=True),
    Column(key="kernel", title="kernel", is_text=True),
    Column(key="in_shape", title="in", is_text=True),
    Column(key="out_shape", title="out", is_text=True),
    Column(key="params", title="params"),
    Column(key="macs", title="MACs", is_narrow=True),
    Column(key="macs_share", title="of MACs"),
    Column(key="time_ms", title="ms", is_narrow=True),
    Column(key="time_share", title="of time"),
    Column(key="gmacs_per_s", title="GMAC/s"),
    Column(key="roof_share", title="of roof"),
    Column(key="bound", title="bound by", is_text=True),
    Column(key="rewrite", title="rewrite", is_text=True, is_narrow=True),
    Column(key="error", title="error"),
    Column(key="macs_after", title="MACs after", is_shown=False),
    Column(key="time_ms_after", title="ms after"),
)
_MATCHES = (
    Column(key="layer", title="layer", is_text=True, is_narrow=True),
    Column(key="before", title="before", is_text=True, is_shown=False),
    Column(key="after", title="after", is_text=True),
    Column(key="found", title="matched by", is_text=True),
    Column(key="macs_before", title="MACs"),
    Column(key="macs_after", title="MACs after"),
    Column(key="macs_ratio", title="MACs change", is_narrow=True),
    Column(key="params_before", title="params"),
    Column(key="params_after", title="params after"),
    Column(key="time_ms_before", title="ms", is_narrow=True),
    Column(key="time_ms_after", title="ms after", is_narrow=True),
    Column(key="time_ratio", title="time change"),
)


def sheet(record: Record) -> Sheet:
    """All rows of a record; columns in which nothing is known are left out."""
    if isinstance(record, ComparisonRecord):
        whole = Sheet(columns=_MATCHES, rows=tuple(map(_match_cells, record.matches)))
    else:
        whole = Sheet(columns=_LAYERS, rows=tuple(_layer_cells(layer, record) for layer in record.layers))
    return whole.only(lambda i: not whole.rows or any(row[i].value is not None for row in whole.rows))


def _layer_cells(layer: LayerRecord, record: AnalysisRecord) -> tuple[Cell, ...]:
    totals, after, roof = record.totals, layer.proposal, layer.roof
    whole = totals.measured.layers_s if totals.measured else None
    return (
        text_cell(layer.name), Cell(text=str(layer.index), value=layer.index), text_cell(layer.kind),
        text_cell(geometry(layer.spec)), text_cell(shape(layer.in_shape)), text_cell(shape(layer.out_shape)),
        count_cell(layer.params), count_cell(layer.macs), share_cell(layer.macs, totals.macs), ms_cell(layer.time_s),
        share_cell(layer.time_s, whole), number_cell(layer.gmacs_per_s, ".1f"),
        share_cell(roof.fraction if roof else None, 1.0), text_cell(roof.bound if roof else None),
        text_cell(verdict(after, layer.declined)),
        number_cell(after.error if after else None, ".3f"), count_cell(after.cost.macs if after else None),
        ms_cell(after.time_s if after else None))


def _match_cells(match: Match) -> tuple[Cell, ...]:
    return (
        text_cell((match.before or match.after)[-1]), text_cell(" + ".join(match.before) or None),
        text_cell(" + ".join(match.after) or None), text_cell(match.found),
        count_cell(match.macs.before), count_cell(match.macs.after), _change(match.macs),
        count_cell(match.params.before), count_cell(match.params.after), ms_cell(match.time_s.before),
        ms_cell(match.time_s.after),
        _change(match.time_s, noise=TIME_NOISE))


def _change(pair: Pair, *, noise: float = 0.0) -> Cell:
    return Cell(text=change(pair, noise=noise) or UNKNOWN, value=pair.ratio)


def text_cell(value: str | None) -> Cell:
    """Text, or a mark for what is unknown."""
    return Cell(text=UNKNOWN if value is None else value, value=value)


def count_cell(value: float | None) -> Cell:
    """A large number, shortened."""
    return Cell(text=UNKNOWN if value is None else count(value), value=value)


def number_cell(value: float | None, form: str) -> Cell:
    """A number in a format."""
    return Cell(text=UNKNOWN if value is None else format(value, form), value=value)


def ms_cell(seconds: float | None) -> Cell:
    """Seconds, shown and kept as milliseconds."""
    return Cell(text=ms(seconds), value=None if seconds is None else 1e3 * seconds)


def share_cell(part: float | None, whole: float | None) -> Cell:
    """Part of a whole, shown in per cent."""
    return Cell(text=percent(part, whole), value=None if part is None or not whole else part / whole)
