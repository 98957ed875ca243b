"""`onnxslim1x1 validate`: whether the rewritten model is faster, and still right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim1x1.cli.exits import exit_for
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DataFlags, GateFlags, OutputFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar
from onnxslim1x1.cli.timing import TimedRunFlags


@grouped
def command(
    original: Annotated[Path, typer.Argument(help="ONNX model before.", show_default=False)],
    rewritten: Annotated[Path, typer.Argument(help="ONNX model after.", show_default=False)],
    images: DataFlags, gates: GateFlags, run: TimedRunFlags, out: OutputFlags,
) -> None:
    """Compare two models on the same inputs: results, latency, size; exit code 4 or 5 if a gate fails."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.document import document
    from onnxslim1x1.report.validation import validation_json, validation_report
    from onnxslim1x1.runtime.hardware import environment

    data, settings = images.options(), run.timed(gates.settings())
    with progress_bar() as progress:
        report = api.validate(original, rewritten, data=data, run=run.options(progress), settings=settings)
    if out.json:
        print_json(document("validate", {
            "environment": environment(threads=run.first_threads, provider=run.provider), "original": original,
            "rewritten": rewritten, "validation": validation_json(report), "warnings": report.warnings}))
    else:
        for warning in report.warnings:
            note(warning, "warning")
        print_report(*validation_report(report))
    exit_for(report)
