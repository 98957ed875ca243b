"""Curves of redundancy as sparklines and as data."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import fields
from typing import Any

from onnxslim1x1.spec import SHARES, EnergyCurve, LayerSpectra

LEGEND = "▁ under 25 %, ▂ 25, ▃ 50, ▄ 75, ▅ 90, ▆ 97, ▇ 99, █ 99.9 % and more"

_LEVELS = "▁▂▃▄▅▆▇█"
_FROM = (0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999)  # share from which each level but the first counts
_MOST_POINTS = 64
_DIGITS = 6


def sparkline(curve: EnergyCurve | None, width: int) -> str:
    """What 1/width, 2/width, ... of all directions carry, one character each; nothing without a curve.

    The earlier it is full, the fewer directions matter. Levels are finest near 1, where truncation is decided.
    """
    if curve is None:
        return ""
    ranks = (max(math.ceil(curve.size * k / width), 1) for k in range(1, width + 1))
    return "".join(_LEVELS[bisect_right(_FROM, curve.kept[min(rank, len(curve.kept)) - 1])] for rank in ranks)


def spectra_json(spectra: LayerSpectra | None) -> dict[str, Any] | None:
    """All curves of a layer, by name."""
    if spectra is None:
        return None
    return {field.name: _curve_json(getattr(spectra, field.name)) for field in fields(spectra)}


def _curve_json(curve: EnergyCurve | None) -> dict[str, Any] | None:
    """A curve with at most 64 of its points: evenly spaced ones, and those that carry the shares of tables."""
    if curve is None:
        return None
    directions = {f"{share:g}": curve.directions(share) for share in SHARES}
    count, even = len(curve.kept), _MOST_POINTS - len(directions)
    ranks = set(range(1, count + 1)) if count <= _MOST_POINTS else {
        1 + round(k * (count - 1) / (even - 1)) for k in range(even)} | set(directions.values())
    points = sorted(ranks)
    return {"size": curve.size, "directions": directions, "ranks": points,
            "kept": [round(curve.kept[rank - 1], _DIGITS) for rank in points]}
