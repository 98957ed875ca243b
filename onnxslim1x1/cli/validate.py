"""`onnxslim1x1 validate`: whether the rewritten model is faster, and still right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim1x1.cli.baseline import BaselineFlags
from onnxslim1x1.cli.ci import CiFlags
from onnxslim1x1.cli.exits import exit_for
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DataFlags, GateFlags, OutputFlags, RunFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar


@grouped
def command(
    original: Annotated[Path, typer.Argument(help="ONNX model before.", show_default=False)],
    rewritten: Annotated[Path, typer.Argument(help="ONNX model after.", show_default=False)], *,
    images: DataFlags, gates: GateFlags, base: BaselineFlags, ci: CiFlags, run: RunFlags, out: OutputFlags,
) -> None:
    """Compare two models on the same inputs: results, latency, size; exit code 4 or 5 if a gate fails."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.document import document
    from onnxslim1x1.report.outcome import Outcome
    from onnxslim1x1.report.validation import validation_json, validation_report
    from onnxslim1x1.runtime.hardware import environment

    data, settings = images.options(), gates.settings()
    ci.require(original, rewritten, images.data, images.labels, baseline=base.baseline)
    known, machine = base.load(original, rewritten), environment(threads=run.threads, provider=run.provider)
    with progress_bar() as progress:
        report = api.validate(original, rewritten, data=data, run=run.options(progress), settings=settings)
    report = base.judged(report, known, machine)
    if out.json:
        print_json(document("validate", {
            "environment": machine, "original": original,
            "rewritten": rewritten, "validation": validation_json(report), "warnings": report.warnings}))
    else:
        for warning in report.warnings:
            note(warning, "warning")
        print_report(*validation_report(report))
    ci.publish(Outcome(command="validate", original=f"{original}", rewritten=f"{rewritten}", report=report,
                       warnings=report.warnings))
    exit_for(report)
