"""`onnxslim1x1 analyze`: where the milliseconds go."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import ModelArgument, OutputFlags, RunFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar, terminal_width


@grouped
def command(
    model: ModelArgument, *,
    no_measure: Annotated[bool, typer.Option(
        "--no-measure", help="Costs and eligibility only: no inference, no factorisation.")] = False,
    top: Annotated[int | None, typer.Option(help="Only the first N layers.", min=1)] = None,
    sort: Annotated[Literal["graph", "time", "macs", "params", "gain"], typer.Option(
        help="Order of the layers.")] = "graph",
    max_error: Annotated[float, typer.Option(
        help="Largest relative weight error of a proposal.", min=0.0, max=1.0)] = 0.3,
    run: RunFlags, out: OutputFlags,
) -> None:
    """Cost, measured time and possible rewrite of every convolution and dense layer."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.analysis import analysis_json, analysis_report, sorted_layers
    from onnxslim1x1.report.style import WIDE

    with progress_bar() as progress:
        found = api.analyze(model, run=run.options(progress), measure=not no_measure, digest=out.json,
                            max_error=max_error)
    layers = sorted_layers(found, sort, top)
    if out.json:
        print_json(analysis_json(found, layers))
        return
    for warning in found.warnings:
        note(warning)
    print_report(*analysis_report(found, layers, wide=terminal_width() >= WIDE))
