"""How tables look."""

from __future__ import annotations

from rich import box
from rich.table import Table

_RULE = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # a rule under the header, no gaps between columns

WIDE = 140  # columns of a terminal from which on tables show everything


def plain_table(*headers: str, right_from: int = 1) -> Table:
    """A light table whose columns from `right_from` on are aligned to the right."""
    table = Table(box=_RULE, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number >= right_from else "left", no_wrap=True,
                         overflow="ellipsis")
    return table
