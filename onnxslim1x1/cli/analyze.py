"""`onnxslim1x1 analyze`: where the milliseconds go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import ImageFlags, ModelArgument, OutputFlags, RunFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar, terminal_width
from onnxslim1x1.errors import OptionError


@grouped
def command(
    model: ModelArgument, *,
    no_measure: Annotated[bool, typer.Option(
        "--no-measure", help="Costs and eligibility only: no inference, no factorisation.")] = False,
    calibration: Annotated[Path | None, typer.Option(
        help="Images for spectra and proposals, without labels: a folder, .npy or .npz (else the weights alone tell).",
    )] = None,
    images: ImageFlags,
    top: Annotated[int | None, typer.Option(help="Only the first N layers.", min=1)] = None,
    sort: Annotated[Literal["graph", "time", "macs", "params", "gain"], typer.Option(
        help="Order of the layers.")] = "graph",
    nodes: Annotated[bool, typer.Option("--nodes", help="Also print what every node of the graph costs.")] = False,
    max_error: Annotated[float | None, typer.Option(
        help="Largest relative error of a proposal: of the outputs with --calibration (default: 0.1), else of the "
             "weights (default: 0.3).", min=0.0, max=1.0)] = None,
    run: RunFlags, out: OutputFlags,
) -> None:
    """Cost, measured time, redundancy and possible rewrite of every convolution and dense layer."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.analysis import analysis_json, analysis_report, sorted_layers
    from onnxslim1x1.report.style import WIDE

    if nodes and no_measure:
        raise OptionError("--nodes: contradicts --no-measure, which times no node; drop one of the two")
    with progress_bar() as progress:
        found = api.analyze(model, run=run.options(progress), measure=not no_measure, digest=out.json,
                            max_error=max_error, calibration=images.other(calibration))
    layers = sorted_layers(found, sort, top)
    if out.json:
        print_json(analysis_json(found, layers))
        return
    for warning in found.warnings:
        note(warning)
    print_report(*analysis_report(found, layers, wide=terminal_width() >= WIDE, nodes=nodes))
