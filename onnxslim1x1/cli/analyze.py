"""`onnxslim1x1 analyze`: where the milliseconds go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import ImageFlags, ModelArgument, OutputFlags, RunFlags
from onnxslim1x1.cli.output import print_json, progress_bar, show
from onnxslim1x1.cli.reports import ReportFlags
from onnxslim1x1.errors import OptionError


@grouped
def command(
    model: ModelArgument,
    other: Annotated[Path | None, typer.Argument(
        help="A second model to put beside it: the rewritten one, or another export.", show_default=False)] = None, *,
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
    files: ReportFlags, run: RunFlags, out: OutputFlags,
) -> None:
    """Cost, measured time, redundancy and possible rewrite of every layer; of two models, side by side."""
    from onnxslim1x1.graph.model import load  # not the whole interface: it takes longer to load than costs to count
    from onnxslim1x1.report.views import view
    from onnxslim1x1.search.inspection import Inspection, inspect

    if nodes and no_measure:
        raise OptionError("--nodes: contradicts --no-measure, which times no node; drop one of the two")
    if nodes and other:
        raise OptionError("--nodes: two models are compared layer by layer; drop it, or analyse one of them")
    files.require(model, other, calibration, json=out.json)
    with progress_bar() as progress:
        settings = run.options(progress)
        wanted = Inspection(measure=not no_measure, digest=out.json or bool(files.wanted), max_error=max_error,
                            calibration=images.other(calibration))
        found = [inspect(load(path), wanted, settings) for path in (model, other) if path]
    shown = view(found, sort, top)
    files.write(shown.document)
    if out.json:
        print_json(shown.document())
    elif not files.print_instead:
        show(shown, nodes=nodes)
