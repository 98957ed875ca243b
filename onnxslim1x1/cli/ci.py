"""Options for pipelines: files that CI services read, and what they are told without being asked."""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.output import note
from onnxslim1x1.errors import OptionError

if TYPE_CHECKING:
    from onnxslim1x1.report.outcome import Outcome

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, kw_only=True, slots=True)
class CiFlags:
    """What a pipeline is told."""

    junit: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write the gates as JUnit XML, which CI services show as tests.")] = None
    summary: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write a summary as Markdown; it is also appended to $GITHUB_STEP_SUMMARY if that is "
                             "set.")] = None
    sarif: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write declined and regressed layers and failed gates as SARIF 2.1.0, for code "
                             "scanning.")] = None

    @property
    def wanted(self) -> dict[str, Path]:
        """Option and file of every report that was asked for."""
        files = {"--junit": self.junit, "--summary": self.summary, "--sarif": self.sarif}
        return {option: path for option, path in files.items() if path is not None}

    @property
    def given(self) -> tuple[str, ...]:
        """Options that were given."""
        return tuple(self.wanted)

    def require(self, *inputs: Path | None, baseline: Path | None = None) -> None:
        """Fail before the work rather than after it.

        Args:
            inputs: files that are read.
            baseline: a file that is read or written besides.

        Raises:
            OptionError: two results have one place, or an output is an input.
            OutputError: a file cannot be written there.
        """
        if not self.wanted:
            return
        from onnxslim1x1.graph.save import require_writable

        places = [*self.wanted.items(), *([("--baseline", baseline)] if baseline else [])]
        for (one, path), (other, same) in itertools.combinations(places, 2):
            if path.absolute() == same.absolute():
                raise OptionError(f"{one} and {other}: both write to {path}; give one of them another file")
        for option, path in self.wanted.items():
            require_writable(path, *inputs, example=f"report{path.suffix}", option=option)

    def publish(self, outcome: Outcome) -> None:
        """Write the files that were asked for, and tell GitHub Actions where that is what runs this.

        Raises:
            OutputError: a file cannot be written.
        """
        from onnxslim1x1.graph.save import write_bytes
        from onnxslim1x1.report.summary import summary_text

        step = os.environ.get(_STEP_SUMMARY)
        for option, path in self.wanted.items():
            if not (option == "--summary" and step and path.absolute() == Path(step).absolute()):
                write_bytes(path, _content(option, outcome), option)
                note(f"wrote {path}")
        if step:
            _append(Path(step), summary_text(outcome))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from onnxslim1x1.report.annotations import annotation_lines

            sys.stderr.write("".join(f"{line}\n" for line in annotation_lines(outcome)))


def _content(option: str, outcome: Outcome) -> bytes:
    if option == "--junit":
        from onnxslim1x1.report.junit import junit_text

        return junit_text(outcome)
    if option == "--sarif":
        from onnxslim1x1.report.sarif import sarif_document

        text = json.dumps(sarif_document(outcome), indent=2, allow_nan=False) + "\n"
    else:
        from onnxslim1x1.report.summary import summary_text

        text = summary_text(outcome)
    return text.encode("utf-8", errors="replace")


def _append(path: Path, text: str) -> None:
    """Others write to this file, too; that a page is missing is no reason to fail a gate."""
    try:
        with path.open("ab") as file:
            file.write(text.encode("utf-8", errors="replace"))
    except OSError as error:
        note(f"${_STEP_SUMMARY}: {path} cannot be written ({error.strerror or error})", "warning")
