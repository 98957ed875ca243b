"""Options that write reports into files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxslim1x1.cli.output import note, print_text
from onnxslim1x1.errors import OptionError

_STDOUT = Path("-")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFlags:
    """Whether a page is written, and where."""

    html: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write one self-contained page with tables and plots (needs bokeh).")] = None

    @property
    def wanted(self) -> dict[str, Path]:
        """Option and file of every report that was asked for."""
        return {} if self.html is None else {"--html": self.html}

    def require(self, *inputs: Path | None, json: bool = False, also: Mapping[str, Path | None] | None = None) -> None:
        """Fail before the work rather than after it.

        Args:
            inputs: files that are read.
            json: whether standard output is for one JSON document.
            also: files that other options write.

        Raises:
            OptionError: two results have one place, an output is an input, or a library is missing.
            OutputError: a file cannot be written there.
        """
        if not self.wanted:
            return
        from onnxslim1x1.graph.save import require_writable

        places = [*self.wanted.items(), *([("--json", _STDOUT)] if json else []),
                  *((option, path) for option, path in (also or {}).items() if path)]
        for (one, path), (other, same) in itertools.combinations(places, 2):
            if path.absolute() == same.absolute():
                raise OptionError(f"{one} and {other}: both write to "
                                  f"{'standard output' if path == _STDOUT else path}; give one of them another file")
        if self.html is not None:
            if self.html == _STDOUT:
                raise OptionError("--html -: a page goes into a file; name one, such as report.html")
            from onnxslim1x1.report.template import require_bokeh

            require_bokeh(f"--html {self.html}")
        for option, path in self.wanted.items():
            if path != _STDOUT:
                require_writable(path, *inputs, example="report.html", option=option)

    def write(self, document: Callable[[], Mapping[str, Any]], where: str = "report") -> None:
        """Write every report that was asked for.

        Args:
            document: gives what ``--json`` prints; it is not asked for where nothing is to be written.
            where: what messages call it.

        Raises:
            OutputError: a file cannot be written.
            OptionError: a report of this kind cannot be made of the document.
        """
        if not self.wanted:
            return
        from onnxslim1x1.graph.save import write_bytes
        from onnxslim1x1.report.documents import record
        from onnxslim1x1.report.export import csv_text, markdown_text
        from onnxslim1x1.report.page import html_page

        made = record(document(), where)
        writers = {"--html": html_page, "--csv": csv_text, "--markdown": markdown_text}
        texts = {option: writers[option](made) for option in self.wanted}  # all or none
        for option, path in self.wanted.items():
            if path == _STDOUT:
                print_text(texts[option])
            else:  # a path may hold bytes that are no text
                write_bytes(path, texts[option].encode("utf-8", errors="replace"), option)
                note(f"wrote {path}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFlags(PageFlags):
    """Which reports are written, and where."""

    csv: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write one line per layer for spreadsheets; - prints it instead of the table.")] = None
    markdown: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write totals and the table as Markdown; - prints it instead of the table.")] = None

    @property
    def wanted(self) -> dict[str, Path]:
        """Option and file of every report that was asked for."""
        files = {"--html": self.html, "--csv": self.csv, "--markdown": self.markdown}
        return {option: path for option, path in files.items() if path is not None}

    @property
    def print_instead(self) -> bool:
        """Whether a report takes the place of the table on standard output."""
        return _STDOUT in (self.csv, self.markdown)
