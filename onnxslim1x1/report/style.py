"""How tables look."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from onnxslim1x1.report.format import fitted

NARROW = 80  # columns that every table fits into
WIDE = 160  # columns of a terminal from which on tables show everything
_GAP = 2
_RULE = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # a rule under the header only


def named_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (),
                width: int = NARROW) -> Table:
    """A light table within `width`: numbers are never cut, the names in the first column give way.

    Args:
        headers: one per column.
        rows: cells.
        left: columns besides the first that are aligned to the left.
        width: columns of the terminal.
    """
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    others = sum(max(len(row[i]) for row in cells) + _GAP for i in range(1, len(headers)))
    names = _distinct([row[0] for row in cells], max(width - others, 4))
    table = Table(box=_RULE, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, header in enumerate((names[0], *cells[0][1:])):
        justify = "left" if number == 0 or number in left else "right"
        table.add_column(header, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal of rich
    for name, row in zip(names[1:], cells[1:], strict=True):
        table.add_row(name, *row[1:])
    return table


def _distinct(names: Sequence[str], width: int) -> list[str]:
    """Names within a width; those that would look alike lose what they begin with alike instead of their middle."""
    short = [fitted(name, width) for name in names]
    for label in {x for x in short if short.count(x) > 1}:
        group = {name for name, x in zip(names, short, strict=True) if x == label}
        common = _common_prefix(min(group), max(group))  # all others lie between these two
        short = [fitted("…" + name[common:], width) if name in group and len(group) > 1 else x
                 for name, x in zip(names, short, strict=True)]
    return short


def _common_prefix(first: str, second: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
