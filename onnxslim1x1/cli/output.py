"""The one printer: data on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxslim1x1.cli.exits import EXIT_UNUSABLE
from onnxslim1x1.report.style import Table, lines_of

if TYPE_CHECKING:
    from onnxslim1x1.report.views import AnalysisView, ComparisonView


def print_json(document: dict[str, Any]) -> None:
    """Print exactly one JSON document."""
    with _open_pipe():
        sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print a text as it is."""
    with _open_pipe():
        sys.stdout.write(text)


def print_report(*parts: str | Table) -> None:
    """Print tables as they are and lines at the width of the terminal (80 columns where there is none)."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    with _open_pipe():
        for part in parts:
            lines = lines_of(part, terminal_width())
            if isinstance(part, Table):
                lines[0] = f"{bold}{lines[0]}{plain}"
            sys.stdout.write("".join(f"{line}\n" for line in lines))


@contextmanager
def _open_pipe() -> Iterator[None]:
    """Let a reader such as `head` leave early: what it does not want is dropped, and that is no error."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str, kind: str = "note") -> None:
    """One line on standard error."""
    sys.stderr.write(f"{kind}: {text}\n")


def show(shown: AnalysisView | ComparisonView, *, nodes: bool = False) -> None:
    """Print an analysis or a comparison, its warnings on standard error."""
    for warning in shown.warnings:
        note(warning)
    print_report(*shown.tables(terminal_width(), nodes=nodes))


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None] | None]:
    """Progress by stage on standard error; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>12}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def told(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=min(done, 1.0))

        yield told


def terminal_width() -> int:
    """Columns that reports may use: of the terminal, of $COLUMNS, or 80."""
    return shutil.get_terminal_size((80, 24)).columns


def give_up(message: str) -> None:
    """Leave from whatever thread, as a native library holds the main one; temporary folders are removed."""
    import atexit

    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(EXIT_UNUSABLE)
