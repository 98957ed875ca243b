"""Two models side by side, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from onnxslim1x1.report.analysis import analysis_json
from onnxslim1x1.report.document import document
from onnxslim1x1.report.facts import UNKNOWN, total_rows
from onnxslim1x1.report.format import TIME_NOISE, change, count, ms
from onnxslim1x1.report.style import NARROW, WIDE, Table, named_table
from onnxslim1x1.search.comparison import Comparison, Found, Match, Pair

_ADDED, _REMOVED = "added", "removed"


def sorted_matches(comparison: Comparison, key: str, top: int | None) -> list[Match]:
    """Matches by falling `key` (one of `report.analysis.SORT_KEYS`), the first `top` of them.

    What the first model takes decides, and for what it does not have, the second. ``gain`` is the time that was saved
    (the MACs where no time was measured).
    """
    timed = comparison.totals.layers_s.before is not None
    keys: dict[str, Callable[[Match], float]] = {
        "time": lambda m: _either(m.time_s), "macs": lambda m: _either(m.macs), "params": lambda m: _either(m.params),
        "gain": lambda m: _saved(m.time_s if timed else m.macs)}
    matches = list(comparison.matches)
    if key != "graph":
        matches.sort(key=keys[key], reverse=True)
    return matches[:top]


def _either(pair: Pair) -> float:
    return pair.before or pair.after or 0.0


def _saved(pair: Pair) -> float:
    return (pair.before or 0.0) - (pair.after or 0.0)


def comparison_report(comparison: Comparison, matches: Sequence[Match], *, wide: bool) -> list[str | Table]:
    """Table of `matches`, the totals, and how the layers were matched."""
    headers, rows = (_wide if wide else _narrow)(comparison, matches)
    left = (1, 2) if wide else (1,)
    return [named_table(headers, rows, left=left, width=WIDE if wide else NARROW), "",
            named_table(("in total", "before", "after", "change"), total_rows(comparison.totals)),
            *_remarks(comparison)]


def _narrow(comparison: Comparison, matches: Sequence[Match]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    timed = comparison.totals.layers_s.before is not None
    rows = [(_name(m), _became(m), count(m.macs.before), count(m.macs.after),
             *((ms(m.time_s.before), ms(m.time_s.after), change(m.time_s, noise=TIME_NOISE)) if timed else
               (change(m.macs),)))
            for m in matches]
    times = ("ms", "after") if timed else ()
    return ("layer", "became", "MACs", "after", *times, "time" if timed else "MACs"), [_known(row) for row in rows]


def _wide(_comparison: Comparison, matches: Sequence[Match]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [(_name(m), _became(m), m.found, count(m.macs.before), count(m.macs.after), change(m.macs),
             count(m.params.before), count(m.params.after), ms(m.time_s.before), ms(m.time_s.after),
             change(m.time_s, noise=TIME_NOISE))
            for m in matches]
    return ("layer", "became", "matched by", "MACs", "after", "change", "params", "after", "ms", "after",
            "change"), [_known(row) for row in rows]


def _known(row: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(UNKNOWN if cell == "?" else cell for cell in row)


def _name(match: Match) -> str:
    return (match.before or match.after)[-1]


def _became(match: Match) -> str:
    """``=`` for a layer that is still there, else what happened, or what the layers of a chain are called."""
    if not match.before:
        return f"({_ADDED})"
    if not match.after:
        return f"({_REMOVED})"
    if len(match.before) > 1:
        return f"{len(match.before)} to {len(match.after)} layers"
    if len(match.after) > 1:
        return f"{len(match.after)} layers"
    return "=" if match.before == match.after else match.after[0]


def _remarks(comparison: Comparison) -> list[str]:
    counts = {kind: sum(m.found == kind for m in comparison.matches)
              for kind in get_args(Found)}
    told = ", ".join(f"{number} {'by ' if kind not in (_REMOVED, _ADDED) else ''}{kind}"
                     for kind, number in counts.items() if number)
    lines = [f"matched: {told}" if told else "neither model has convolutions or dense layers"]
    if comparison.totals.latency_s.before is not None:
        lines.append("first one model ran, then the other; onnxslim1x1 validate measures them by turns and compares "
                     "what they compute")
    return lines


def comparison_json(comparison: Comparison, matches: Sequence[Match]) -> dict[str, Any]:
    """The same as data, with both analyses."""
    return document("compare", {
        "totals": comparison.totals, "matches": tuple(matches),
        "before": analysis_json(comparison.before, comparison.before.layers),
        "after": analysis_json(comparison.after, comparison.after.layers),
        "warnings": comparison.warnings})
