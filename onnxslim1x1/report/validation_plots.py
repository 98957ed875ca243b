"""The plots of the page of a validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource, FactorRange, LayoutDOM, Range1d
from bokeh.plotting import figure

from onnxslim1x1.report.drawing import BLUE, GREY, ORANGE, PICKED, blank, outline, pickable, plain_ticks
from onnxslim1x1.report.validation_records import LatencyRecord, LayerErrorRecord, ShiftedRecord, ValidationRecord
from onnxslim1x1.report.words import known, label, scale, setting

_ZOOM_FROM = 60  # tensors from which on points lie so close that one wants to zoom
_MOST_SETTINGS = 6  # of which distributions are drawn
_GOLDEN = 0.6180339887  # multiples of it spread points evenly, in the same way every time
_NAMES = ("original", "rewritten", "original again")


def ratios(latencies: Sequence[LatencyRecord]) -> LayoutDOM | None:
    """The measured ratio of every setting with its interval, on the band that two equal models showed."""
    if not latencies:
        return None
    names = [f"{setting(x)}{' ' * i}" for i, x in enumerate(latencies)]  # blanks tell equal settings apart
    ends = [value for x in latencies for value in (x.speedup_low, x.speedup_high, x.noise_low, x.noise_high, 1.0)]
    room = 0.08 * (max(ends) - min(ends)) or 0.05
    plot = _rows(names, start=min(ends) - room, end=max(ends) + room, label="original / rewritten: above 1 is faster")
    plot.hbar(y=names, left=[x.noise_low for x in latencies], right=[x.noise_high for x in latencies], height=0.7,
              color=GREY, fill_alpha=0.3, line_alpha=0.0)
    plot.vspan(x=[1.0], line_color=GREY, line_dash="dashed")
    colors = [{"faster": BLUE, "slower": PICKED}.get(x.verdict, GREY) for x in latencies]
    _intervals(plot, {"y": names, "low": [x.speedup_low for x in latencies], "x": [x.speedup for x in latencies],
                      "high": [x.speedup_high for x in latencies], "color": colors})
    return plot


def distributions(latencies: Sequence[LatencyRecord]) -> dict[str, LayoutDOM | None]:
    """Times of single runs of both models and of the original's second copy, for the first few settings."""
    return {f"times_{number}": _distribution(x) for number, x in enumerate(latencies[:_MOST_SETTINGS])}


def _distribution(latency: LatencyRecord) -> LayoutDOM:
    kept = latency.samples
    series = [] if kept is None else [kept.original, kept.rewritten, kept.again]
    summaries = [latency.original, latency.rewritten]
    last = 1.3e3 * max(x.p90_s for x in summaries)
    first = 1e3 * min([x.p10_s for x in summaries] + [min(s) for s in series if s])
    names = _NAMES[: max(len(series), 2)]
    plot = _rows(names, start=first - 0.04 * (last - first), end=last, label="ms per run")
    for name, color, seconds in zip(names, (BLUE, ORANGE, BLUE), series, strict=False):
        shown = [1e3 * s for s in seconds if 1e3 * s <= last]
        places: list[Any] = [(name, 0.7 * ((i * _GOLDEN) % 1 - 0.5)) for i in range(len(shown))]
        plot.scatter(x=shown, y=places, size=4, color=color, fill_alpha=0.6,
                     line_alpha=0.0)
        if beyond := len(seconds) - len(shown):
            plot.text(x=[last], y=[name], text=[f"{beyond} slower"], text_align="right", text_baseline="middle",
                      text_font_size="11px", text_color=GREY, x_offset=-4)
    for name, x in zip(names, summaries, strict=False):
        plot.segment(x0=[1e3 * x.p10_s], x1=[1e3 * x.p90_s], y0=[name], y1=[name], line_width=3, line_color=GREY)
        plot.scatter(x=[1e3 * x.median_s], y=[name], size=12, marker="diamond", color=PICKED)
    return plot


def _rows(names: Sequence[str], *, start: float, end: float, label: str) -> figure:
    """An empty plot with one row per name, the first on top."""
    plot = blank(64 + 40 * len(names), y_range=FactorRange(factors=list(names)[::-1]),
                 x_range=Range1d(start=start, end=end))
    plot.xaxis.axis_label = label
    plot.ygrid.visible = False
    return plot


def _intervals(plot: figure, columns: dict[str, list[Any]]) -> None:
    """A bar from ``low`` to ``high`` with a diamond at ``x`` in every row ``y``.

    Colours are a column, too: of a list bokeh makes columns in an order that differs from process to process.
    """
    source = ColumnDataSource(columns)
    plot.segment(x0="low", x1="high", y0="y", y1="y", source=source, line_width=5, line_color="color")
    plot.scatter(x="x", y="y", source=source, size=12, marker="diamond", fill_color="color", line_color="color")


def growth(layers: Sequence[LayerErrorRecord]) -> LayoutDOM | None:
    """Relative error of every intermediate tensor in the order of computation; None if there is no error at all."""
    errors = [known(x.rel_error) or float("nan") for x in layers]  # an error of 0 has no place on a logarithmic axis
    shown = [100 * e for e in errors if e == e]  # noqa: PLR0124  (NaN)
    if not shown:
        return None
    low, high = min(shown) / 2, max(shown) * 2
    plot = blank(300, x_range=Range1d(start=-0.8, end=len(layers) - 0.2), y_range=Range1d(start=low, end=high),
                 y_axis_type="log", zoom=len(layers) > _ZOOM_FROM)
    plot.xaxis.visible = False
    plot.xgrid.visible = False
    plot.yaxis.axis_label = "relative error, %"
    plain_ticks(plot.yaxis, low, high)
    places = list(range(len(layers)))
    plot.line(x=places, y=[100 * e for e in errors], color=GREY, line_alpha=0.5)
    source = ColumnDataSource({
        "x": places, "y": [100 * e for e in errors], "name": [x.node for x in layers],
        "op": [x.op_type for x in layers], "color": [ORANGE if x.rewritten else BLUE for x in layers],
        "size": [10 if x.rewritten else 6 for x in layers]}, name="rows")
    points = plot.scatter(x="x", y="y", size="size", source=source, fill_color="color", line_color="color",
                          fill_alpha=0.7, selection_line_color=PICKED, nonselection_fill_alpha=0.7,
                          nonselection_line_alpha=1.0)
    outline(points)
    pickable(plot, points, [("layer", "@name"), ("operator", "@op"), ("error", "@y{0.[000]} %")])
    return plot


def excesses(shifts: Sequence[ShiftedRecord]) -> LayoutDOM | None:
    """How much more the rewritten model loses to each change of the inputs, by the figure that most of them have."""
    usual = Counter(x.figure.name for x in shifts if known(x.excess) is not None).most_common(1)
    shown = [x for x in shifts if usual and x.figure.name == usual[0][0] and known(x.excess) is not None]
    if not shown:
        return None
    written = scale(shown[0].figure)
    names = [f"{x.shift} {x.strength}{' ' * i}" for i, x in enumerate(shown)]

    def ends(name: str) -> list[float]:
        values: list[Any] = [known(getattr(x, name)) for x in shown]
        return [written.factor * float(x.excess if value is None else value or 0.0)  # type: ignore[arg-type]
                for x, value in zip(shown, values, strict=True)]

    lows, middles, highs = ends("low"), ends("excess"), ends("high")
    room = 0.08 * (max(*highs, 0.0) - min(*lows, 0.0)) or 1.0
    plot = _rows(names, start=min(*lows, 0.0) - room, end=max(*highs, 0.0) + room,
                 label=f"{label(usual[0][0])}:{written.unit_of_change} lost more")
    plot.vspan(x=[0.0], line_color=GREY, line_dash="dashed")
    colors = [PICKED if low > 0 else BLUE for low in lows]
    _intervals(plot, {"y": names, "low": lows, "x": middles, "high": highs, "color": colors})
    return plot


def plots(found: ValidationRecord) -> dict[str, LayoutDOM | None]:
    """All plots by the names that the template gives their places."""
    return {"ratios": ratios(found.latencies), **distributions(found.latencies), "growth": growth(found.layers),
            "excesses": excesses(found.shifts)}
