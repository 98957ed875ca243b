"""`onnxslim1x1 report`: pages and tables from what other commands wrote with --json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DebugFlags
from onnxslim1x1.cli.reports import ReportFlags


@grouped
def command(
    file: Annotated[Path, typer.Argument(
        help="What analyze, slim or validate printed with --json.", show_default=False)], *,
    files: ReportFlags, _out: DebugFlags,
) -> None:
    """Turn the JSON of other commands into a page (beside it unless --html says where), CSV or Markdown."""
    from onnxslim1x1.report.documents import load_document

    wanted = files if files.wanted else replace(files, html=file.with_suffix(".html"))
    document = load_document(file)
    wanted.require(file)
    wanted.write(lambda: document, f"{file}")
