"""`onnxslim1x1 analyze`: where the milliseconds go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import ModelArgument, OutputFlags, RunFlags
from onnxslim1x1.cli.output import print_analysis, print_json, progress_bar

if TYPE_CHECKING:
    from onnxslim1x1.runtime.options import RunOptions
    from onnxslim1x1.search.analysis import Analysis


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
    from onnxslim1x1.report.analysis import analysis_json, sorted_layers

    with progress_bar() as progress:
        found = _analysis(model, run.options(progress), digest=out.json, max_error=None if no_measure else max_error)
    if out.json:
        print_json(analysis_json(found, sorted_layers(found, sort, top)))
    else:
        print_analysis(found, sort=sort, top=top)


def _analysis(model: Path, run: RunOptions, *, digest: bool, max_error: float | None) -> Analysis:
    """As `onnxslim1x1.analyze`, which takes longer to load than costs take to count (no `max_error`)."""
    if max_error is None:
        from onnxslim1x1.graph.model import load
        from onnxslim1x1.search.costs import costs

        return costs(load(model), run, digest=digest)
    from onnxslim1x1 import api

    return api.analyze(model, run=run, digest=digest, max_error=max_error)
