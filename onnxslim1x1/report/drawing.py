"""What all plots of pages are drawn with: colours, empty plots, ticks and what reacts to a click.

Colours are told apart by colour-blind people (Okabe and Ito) and show on dark and on light ground.
"""

from __future__ import annotations

import math
from typing import Any

from bokeh.models import BasicTickFormatter, FixedTicker, HoverTool, TapTool
from bokeh.plotting import figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#808080"
PICKED = "#d55e00"
CURVES = (BLUE, ORANGE, GREEN, PURPLE)

_LEFT, _RIGHT = 48, 8  # pixels that plots leave free at their sides, so that those above each other agree


def blank(height: int, *, zoom: bool = False, **options: Any) -> figure:
    """An empty plot that neither drags nor scrolls by itself: a finger on it moves the page."""
    plot = figure(height=height, tools="xwheel_zoom,xpan,reset" if zoom else "", sizing_mode="stretch_width",
                  toolbar_location="above" if zoom else None, active_drag=None, active_scroll=None, min_width=0,
                  background_fill_alpha=0.0, border_fill_alpha=0.0, outline_line_alpha=0.3, min_border_left=_LEFT,
                  min_border_right=_RIGHT, **options)
    plot.toolbar.logo = None
    return plot


def pickable(plot: figure, target: Any, tooltips: list[tuple[str, str]]) -> None:
    """Let a click select an entry, and tell about the one under the pointer."""
    plot.add_tools(TapTool(renderers=[target]), HoverTool(renderers=[target], tooltips=tooltips))


def outline(renderer: Any) -> None:
    """Draw what is selected with a thick line."""
    renderer.selection_glyph.line_width = 3


def plain_ticks(axis: Any, start: float, end: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out."""
    powers = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
    steps = (1, 2, 5) if len(powers) < 4 else (1,)
    ticks = [step * 10.0 ** power for power in powers for step in steps if start <= step * 10.0 ** power <= end]
    axis.ticker = FixedTicker(ticks=ticks)
    axis.formatter = BasicTickFormatter(use_scientific=False)
    axis.major_label_overrides = {tick: f"{tick:g}" for tick in ticks}
