"""`onnxslim1x1 bisect`: the smallest set of rewritten layers that breaks a gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxslim1x1.cli.accuracy import AccuracyGates
from onnxslim1x1.cli.apply import ApplyFlags
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import DataFlags, ModelArgument, OutputFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar


@grouped
def command(
    model: ModelArgument,
    plan: Annotated[Path, typer.Argument(help="Plan that onnxslim1x1 plan wrote.", show_default=False)], *,
    images: DataFlags, gates: AccuracyGates,
    calibration: Annotated[Path | None, typer.Option(
        help="Where the images of the plan are (default: where they were).")] = None,
    run: ApplyFlags, out: OutputFlags,
) -> None:
    """Find the smallest set of a plan's layers that breaks an accuracy gate, by delta debugging."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.bisection import bisection_json, bisection_report

    data, settings = images.options(), gates.settings()
    if data is None:
        note("accuracy is judged on random inputs, which says little about real ones: give --data", "warning")
    with progress_bar() as progress:
        found = api.bisect(model, plan, data=data, calibration=calibration, run=run.options(progress),
                           settings=settings)
    if out.json:
        print_json(bisection_json(found, model=model, plan=plan))
    else:
        print_report(*bisection_report(found))
