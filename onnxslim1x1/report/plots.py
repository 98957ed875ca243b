"""The plots of a page, drawn by bokeh, which is an extra (``pip install 'onnxslim1x1[report]'``).

Sources called ``rows`` have one entry per row of the table, in its order: the script of the page selects by position.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.layouts import column
from bokeh.models import ColumnDataSource, FactorRange, LayoutDOM, Range1d
from bokeh.plotting import figure

from onnxslim1x1.report.drawing import (
    BLUE,
    CURVES,
    GREEN,
    GREY,
    ORANGE,
    PICKED,
    blank,
    outline,
    pickable,
    plain_ticks,
)
from onnxslim1x1.report.format import count, ms, percent, shape
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, LayerRecord, RooflineRecord
from onnxslim1x1.search.comparison import Match

_ZOOM_FROM = 60  # rows from which on bars are so thin that one wants to zoom


def overview(record: AnalysisRecord) -> LayoutDOM:
    """The stages and layers of the graph as a strip, and below it what each layer has of the MACs and of the time."""
    layers, totals = record.layers, record.totals
    order = sorted(range(len(layers)), key=lambda row: layers[row].index)
    place = {row: position for position, row in enumerate(order)}
    whole = totals.measured.layers_s if totals.measured else None
    shares = {"MACs": [_percent(p.macs, totals.macs) for p in layers]}
    if whole:
        shares["time"] = [_percent(p.time_s, whole) for p in layers]
    strip = _strip(layers, place, shares["time" if whole else "MACs"])
    described = [f"{count(p.macs)} MACs" + (f", {ms(p.time_s)} ms" if whole else "") for p in layers]
    bars = _bars([place[row] for row in range(len(layers))], shares, names=[p.name for p in layers],
                 described=described, label="% of all layers")
    bars.x_range = strip.x_range
    return column(strip, bars, sizing_mode="stretch_width")


def compared_bars(record: ComparisonRecord) -> LayoutDOM:
    """What every layer and what stands for it take: time if it was measured, else MACs."""
    timed = record.totals.layers_s.before is not None and record.totals.layers_s.after is not None

    def values(side: str) -> list[float]:
        if timed:
            return [1e3 * (getattr(m.time_s, side) or 0.0) for m in record.matches]
        return [(getattr(m.macs, side) or 0) / 1e6 for m in record.matches]

    return _bars(list(range(len(record.matches))), {"before": values("before"), "after": values("after")},
                 names=[match_name(m) for m in record.matches],
                 described=[f"{count(m.macs.before)} to {count(m.macs.after)} MACs" for m in record.matches],
                 label="ms" if timed else "million MACs")


def match_name(match: Match) -> str:
    """What a match is called: as its last layer, which both models have where they have it at all."""
    return (match.before or match.after)[-1]


def _strip(layers: Sequence[LayerRecord], place: Mapping[int, int], shares: Sequence[float]) -> figure:
    plot = blank(118, x_range=Range1d(start=-0.5, end=len(layers) - 0.5), y_range=Range1d(start=0, end=3))
    plot.axis.visible = False
    plot.grid.visible = False
    stages = ColumnDataSource(_stages(sorted(layers, key=lambda p: p.index)), name="stages")
    plot.quad(left="left", right="right", bottom=2.1, top=2.95, source=stages, fill_color=BLUE, fill_alpha="alpha",
              line_color=None)
    plot.text(x="middle", y=2.52, text="shown", source=stages, text_align="center", text_baseline="middle",
              text_font_size="11px", text_color=GREY)
    most = max(shares, default=0.0) or 1.0
    rows = ColumnDataSource({
        "x": [place[row] for row in range(len(layers))], "name": [p.name for p in layers],
        "kind": [p.kind for p in layers], "share": [f"{share:.1f} %" for share in shares],
        "out": [shape(p.out_shape) for p in layers], "alpha": [0.12 + 0.88 * share / most for share in shares]},
        name="rows")
    cells = plot.rect(x="x", y=1.4, width=0.9, height=1.2, source=rows, fill_color=ORANGE, fill_alpha="alpha",
                      line_color=GREY, line_alpha=0.4, selection_line_color=PICKED, selection_line_alpha=1.0,
                      nonselection_fill_alpha="alpha", nonselection_line_alpha=0.4)
    outline(cells)
    offered = [place[row] for row, p in enumerate(layers) if p.proposal]
    plot.scatter(x=offered, y=[0.4] * len(offered), size=7, color=GREEN)
    pickable(plot, cells, [("layer", "@name"), ("kind", "@kind"), ("out", "@out"), ("share", "@share")])
    return plot


def _stages(layers: Sequence[LayerRecord]) -> dict[str, list[Any]]:
    """Runs of layers with one spatial output size, in the order of the graph."""
    found: dict[str, list[Any]] = {"left": [], "right": [], "middle": [], "label": [], "shown": [], "alpha": []}
    for label, run in itertools.groupby(enumerate(layers), key=lambda item: _stage(item[1])):
        places = [position for position, _ in run]
        values = (places[0] - 0.46, places[-1] + 0.46, (places[0] + places[-1]) / 2, label, label,
                  0.18 if len(found["left"]) % 2 else 0.32)
        for key, value in zip(found, values, strict=True):
            found[key].append(value)
    return found


def _stage(layer: LayerRecord) -> str:
    if layer.kind == "dense":
        return "dense"
    return "?" if layer.out_shape is None else shape(layer.out_shape[2:])


def _bars(places: Sequence[int], values: Mapping[str, Sequence[float]], *, names: Sequence[str],
          described: Sequence[str], label: str) -> figure:
    """Bars beside each other at each place; a column of the full height behind them takes clicks."""
    most = max((v for series in values.values() for v in series), default=0.0) or 1.0
    plot = blank(210, x_range=Range1d(start=-0.5, end=len(places) - 0.5), y_range=Range1d(start=0, end=1.05 * most),
                   zoom=len(places) > _ZOOM_FROM)
    plot.xaxis.visible = False
    plot.xgrid.visible = False
    plot.yaxis.axis_label = label
    width = 0.84 / len(values)
    data: dict[str, Any] = {"x": list(places), "name": list(names), "text": list(described),
                            "top": [1.05 * most] * len(places)}
    for number, (name, series) in enumerate(values.items()):
        data[name] = list(series)
        data[f"x_{name}"] = [place + (number - (len(values) - 1) / 2) * width for place in places]
    rows = ColumnDataSource(data, name="rows")
    target = plot.vbar(x="x", top="top", width=1.0, source=rows, fill_color=PICKED, fill_alpha=0.0, line_color=None,
                       selection_fill_alpha=0.18, nonselection_fill_alpha=0.0)
    for name, color in zip(values, (BLUE, ORANGE), strict=False):
        plot.vbar(x=f"x_{name}", top=name, width=width, source=rows, fill_color=color, line_color=None,
                  nonselection_fill_alpha=1.0)
    pickable(plot, target, [("layer", "@name"), ("", "@text"),
                             *((name, f"@{{{name}}}{{0.00}} {'%' if '%' in label else label}") for name in values)])
    return plot


def roofline_plot(record: AnalysisRecord) -> LayoutDOM | None:
    """Achieved rate over intensity, below what the machine can do; None if nothing was measured."""
    roof, shown = record.roofline, [p for p in record.layers if p.intensity and p.gmacs_per_s]
    if roof is None or not shown:
        return None
    whole = (record.totals.measured.layers_s if record.totals.measured else None) or 1.0
    xs = [p.intensity if p.intensity and p.gmacs_per_s else float("nan") for p in record.layers]
    ys = [p.gmacs_per_s or float("nan") for p in record.layers]
    left, right, low = _roof_ranges(roof, [p.intensity or 1.0 for p in shown], [p.gmacs_per_s or 1.0 for p in shown])
    plot = blank(330, x_range=Range1d(start=left, end=right), x_axis_type="log", y_axis_type="log",
                   y_range=Range1d(start=low, end=2.0 * roof.peak / 1e9))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "MACs per byte", "GMAC/s"
    plain_ticks(plot.xaxis, left, right)
    plain_ticks(plot.yaxis, low, 2.0 * roof.peak / 1e9)
    line = [left, roof.ridge, right]
    plot.line(line, [min(roof.peak, roof.bandwidth * x) / 1e9 for x in line], line_width=2, color=GREY)
    plot.text(x=[right], y=[roof.peak / 1e9], text=[f"{roof.peak / 1e9:.3g} GMAC/s"], text_align="right",
              text_baseline="bottom", text_font_size="11px", text_color=GREY, x_offset=-4, y_offset=-2)
    source = ColumnDataSource({
        "x": xs, "y": ys, "name": [p.name for p in record.layers],
        "size": [6 + 16 * ((p.time_s or 0.0) / whole) ** 0.5 for p in record.layers],
        "color": [BLUE if p.roof and p.roof.bound == "compute" else ORANGE for p in record.layers],
        "text": [f"{percent(p.roof.fraction, 1.0, 0)} of the roof" if p.roof else "" for p in record.layers]},
        name="rows")
    points = plot.scatter(x="x", y="y", size="size", source=source, fill_color="color", line_color="color",
                          fill_alpha=0.55, selection_line_color=PICKED, nonselection_fill_alpha=0.55,
                          nonselection_line_alpha=1.0)
    outline(points)
    pickable(plot, points, [("layer", "@name"), ("GMAC/s", "@y{0.0}"), ("MAC/byte", "@x{0.0}"), ("", "@text")])
    return plot


def _roof_ranges(roof: RooflineRecord, xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """From, to and from where the axes go: with room around the points and around the ridge."""
    return min(*xs, roof.ridge) / 2, max(*xs, roof.ridge) * 2, min(*ys, roof.peak / 1e10) / 2


def spectra_plot() -> LayoutDOM:
    """Axes for the curves of one layer at a time; the script of the page fills the sources ``curve…`` and ``mark``."""
    plot = blank(330, x_range=Range1d(start=0, end=100), y_range=Range1d(start=0, end=1))
    plot.xaxis.axis_label, plot.yaxis.axis_label = "directions kept, %", "relative error"
    for number, color in enumerate(CURVES):
        for dash, name in (("solid", "weights"), ("dashed", "activations")):
            source = ColumnDataSource({"x": [], "y": []}, name=f"curve_{name}_{number}")
            plot.line("x", "y", source=source, color=color, line_width=2, line_dash=dash)
    mark = ColumnDataSource({"x": [], "y": [], "text": [], "align": [], "shift": []}, name="mark")
    plot.segment(x0="x", y0=0, x1="x", y1="y", source=mark, color=PICKED, line_dash="dotted", line_width=2)
    plot.scatter("x", "y", source=mark, size=11, marker="diamond", color=PICKED)
    plot.text("x", "y", text="text", source=mark, text_font_size="12px", text_color=GREY, text_align="align",
              x_offset="shift", y_offset=-8)
    return plot


def operator_bars(by_op: Mapping[str, float]) -> LayoutDOM:
    """Kernel time by operator, the most expensive on top."""
    most = sorted(((seconds, op) for op, seconds in by_op.items() if seconds > 0), reverse=True)[:12]
    names = [op for _, op in most]
    plot = figure(height=46 + 24 * len(most), y_range=FactorRange(factors=names[::-1]), tools="", toolbar_location=None,
                  sizing_mode="stretch_width", background_fill_alpha=0.0, border_fill_alpha=0.0,
                  x_range=Range1d(start=0, end=1.2e3 * max((s for s, _ in most), default=1.0)), outline_line_color=None)
    source = ColumnDataSource({"op": names, "value": [1e3 * s for s, _ in most], "text": [ms(s) for s, _ in most]})
    plot.hbar(y="op", right="value", height=0.7, source=source, color=ORANGE)
    plot.text(x="value", y="op", text="text", source=source, x_offset=5, text_baseline="middle", text_font_size="11px",
              text_color=GREY)
    plot.xaxis.axis_label = "ms per run"
    plot.ygrid.visible = False
    return plot


def _percent(part: float | None, whole: float | None) -> float:
    return 100 * (part or 0) / whole if whole else 0.0
