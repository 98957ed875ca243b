"""`onnxslim1x1 validate`: whether the rewritten model is faster, and still right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnxslim1x1.cli.accuracy import AccuracyFlags
from onnxslim1x1.cli.baseline import BaselineFlags
from onnxslim1x1.cli.ci import CiFlags
from onnxslim1x1.cli.exits import exit_for
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DataFlags, GateFlags, OutputFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar
from onnxslim1x1.cli.reports import PageFlags
from onnxslim1x1.cli.timing import TimedRunFlags


@grouped
def command(
    original: Annotated[Path, typer.Argument(help="ONNX model before.", show_default=False)],
    rewritten: Annotated[Path, typer.Argument(help="ONNX model after.", show_default=False)], *,
    images: DataFlags, gates: GateFlags, accuracy: AccuracyFlags, base: BaselineFlags, ci: CiFlags, page: PageFlags,
    run: TimedRunFlags, out: OutputFlags,
) -> None:
    """Compare two models on the same inputs: results, latency, size; exit code 4 or 5 if a gate fails."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.outcome import Outcome
    from onnxslim1x1.report.validation import validate_json, validation_report
    from onnxslim1x1.runtime.hardware import environment

    data, settings = images.options(), run.timed(accuracy.settings(gates.settings()))
    page.require(original, rewritten, images.data, images.labels, also={"--plot": accuracy.plot})
    ci.require(original, rewritten, images.data, images.labels, baseline=base.baseline)
    known, machine = base.load(original, rewritten), environment(threads=run.first_threads, provider=run.provider)
    with progress_bar() as progress:
        report = api.validate(original, rewritten, data=data, run=run.options(progress), settings=settings,
                              plot=accuracy.plot)
    report = base.judged(report, known, machine)
    found = partial(validate_json, report, original, rewritten, machine)
    page.write(found)
    if out.json:
        print_json(found())
    else:
        for warning in report.warnings:
            note(warning, "warning")
        print_report(*validation_report(report))
    ci.publish(Outcome(command="validate", original=f"{original}", rewritten=f"{rewritten}", report=report,
                       warnings=report.warnings))
    exit_for(report)
