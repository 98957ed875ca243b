"""`onnxslim1x1 cache`: what is kept between runs."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import CacheOption, OutputFlags
from onnxslim1x1.cli.output import print_json, print_report


@grouped
def command(
    *, cache: CacheOption = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything that is kept.")] = False,
    out: OutputFlags,
) -> None:
    """Measured times and statistics that are kept between runs: where, how many, how large, how old."""
    from onnxslim1x1.report.cache import cache_json, cache_report
    from onnxslim1x1.runtime.store import user_store

    store = user_store(cache)
    entries = store.clear() if clear else store.entries()
    if out.json:
        print_json(cache_json(store.folder, entries, removed=clear))
    else:
        print_report(*cache_report(store.folder, entries, removed=clear))
