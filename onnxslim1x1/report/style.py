"""How tables look."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tabulate import tabulate

from onnxslim1x1.report.format import fitted

NARROW = 80  # columns that every table fits into
WIDE = 160  # columns of a terminal from which on tables show everything
_GAP = 2


class Column(NamedTuple):
    """One column of a table."""

    header: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns as text, with a rule under the header.

    Attributes:
        headers: one per column.
        rows: cells.
        left: columns that are aligned to the left; all others are to the right.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int]

    @property
    def columns(self) -> tuple[Column, ...]:
        """From left to right."""
        return tuple(Column(header, tuple(row[i] for row in self.rows)) for i, header in enumerate(self.headers))

    def lines(self) -> list[str]:
        """Header, rule and rows, all of one width."""
        align = ["left" if number in self.left else "right" for number in range(len(self.headers))]
        header, *rows = tabulate((self.headers, *self.rows), tablefmt="plain", colalign=align,
                                 disable_numparse=True).split("\n")  # headers of its own are wider than they need be
        return [header, "─" * max(map(len, (header, *rows))), *rows]


def lines_of(part: str | Table, width: int) -> list[str]:
    """Lines of a table as they are, and of a text wrapped to a width."""
    if isinstance(part, Table):
        return part.lines()
    return [line for whole in part.split("\n") for line in textwrap.wrap(
        whole, width, break_on_hyphens=False, replace_whitespace=False) or [""]]


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
    header, *named = [(name, *row[1:]) for name, row in zip(names, cells, strict=True)]
    return Table(headers=header, rows=tuple(named), left=frozenset((0, *left)))


def _distinct(names: Sequence[str], width: int) -> list[str]:
    """Names within a width; those that would look alike lose what they begin with alike instead of their middle."""
    short = [fitted(name, width) for name in names]
    for label in {x for x, times in Counter(short).items() if times > 1}:
        group = {name for name, x in zip(names, short, strict=True) if x == label}
        common = _common_prefix(min(group), max(group))  # all others lie between these two
        short = [fitted("…" + name[common:], width) if name in group and len(group) > 1 else x
                 for name, x in zip(names, short, strict=True)]
    return short


def _common_prefix(first: str, second: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
