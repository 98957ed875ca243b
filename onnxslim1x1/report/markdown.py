"""Pieces of GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnxslim1x1.report.style import Table


def plain(text: str) -> str:
    """Text that Markdown shows as it is: names of layers may hold whatever Markdown and HTML give a meaning to."""
    return re.sub(r"[\\`*{}\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def row(cells: Iterable[str]) -> str:
    """One row of a table; the cells are Markdown already."""
    return f"| {' | '.join(cells)} |"


def table(shown: Table) -> str:
    """A table with its cells as they are."""
    rule = [":--" if number in shown.left else "--:" for number in range(len(shown.headers))]
    return "\n".join(map(row, [map(plain, shown.headers), rule, *(map(plain, cells) for cells in shown.rows)]))
