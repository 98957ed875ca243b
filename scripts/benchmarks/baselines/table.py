"""The rows as text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from onnxslim1x1.report.format import count, ms, percent

from .job import SHARE_PER_SEED
from .store import Row

COLUMNS = ((20, "method"), (6, "asked"), (6, "MACs"), (6, "kept"), (6, "params"), (22, "ms, 1 thread"),
           (22, "ms, 2 threads"), (7, "top-1"), (7, "agree"), (7, "KL"), (6, "s"), (6, "MB"), (0, "how"))


def head(model: str, row: Row | None = None) -> str:
    """Title of a model's part, and the names of the columns."""
    names = "  ".join(f"{name:{'<' if number == 0 else '>'}{width}}" for number, (width, name) in enumerate(COLUMNS))
    about = ""
    if row is not None and "images" in row:
        used = row["conditions"]["calibration_images"]
        about = f": {row['images']} evaluation images, {used} calibration images without labels"
    return f"\n{model}{about}\n{names}"


def line(row: Row) -> str:
    """One row."""
    asked = "-" if row["budget"] is None else f"{row['budget']:.3f}"
    name = row["method"] if row["seed"] is None else f"{row['method']} #{row['seed']}"
    if "error" in row:
        return f"{name:{COLUMNS[0][0]}}  {asked:>6}  {row['error']}"
    classes, latency = row.get("classification") or {}, row.get("latency") or {}
    cells = [name, asked, count(row["cost"]["macs"]), f"{kept(row):.3f}", count(row["cost"]["params"]),
             _speed(latency.get("1")), _speed(latency.get("2")), percent(classes.get("top1_rewritten"), digits=2),
             percent(classes.get("agreement"), digits=2), _kl(classes.get("kl")),
             "-" if row.get("seconds") is None else f"{row['seconds']:.1f}",
             "-" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 1e6:.0f}", row.get("note", "")]
    aligned = (f"{cell:{'<' if number in (0, len(COLUMNS) - 1) else '>'}{width}}"
               for number, (cell, (width, _)) in enumerate(zip(cells, COLUMNS, strict=True)))
    return "  ".join(aligned).rstrip()


def kept(row: Row) -> float:
    """Part of the MACs that is left."""
    return float(row["cost"]["macs"] / row["cost_original"]["macs"])


def spread(rows: Sequence[Row]) -> str:
    """What the choice of calibration images changes: mean, standard deviation and range over seeds."""
    def described(values: Iterable[float], scale: float, digits: int) -> str:
        found = [scale * v for v in values]
        return (f"{statistics.mean(found):.{digits}f} +- {statistics.stdev(found):.{digits}f} "
                f"({min(found):.{digits}f} to {max(found):.{digits}f})")

    first, scores = rows[0], [row["classification"] for row in rows]
    return (f"{first['method']} at {first['budget']:.3f}, {len(rows)} seeds, each with {SHARE_PER_SEED:.0%} of the "
            f"calibration images: top-1 {described((s['top1_rewritten'] for s in scores), 100, 2)} %, "
            f"agreement {described((s['agreement'] for s in scores), 100, 2)} %, "
            f"KL {described((s['kl'] for s in scores), 1, 4)}")


def _speed(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    return (f"{ms(found['rewritten']['median_s'])} {found['speedup']:.2f}x "
            f"({found['speedup_low']:.2f}-{found['speedup_high']:.2f})")


def _kl(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
