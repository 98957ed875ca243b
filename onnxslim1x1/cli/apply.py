"""`onnxslim1x1 apply`: carry out a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import CacheOption, ModelArgument, OutputFlags, OutputOption, Progress, RunFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar

if TYPE_CHECKING:
    from onnxslim1x1.runtime.options import RunOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyFlags:
    """How the model is run; seed and shapes are those of the plan."""

    threads: Annotated[int, typer.Option(
        help="Threads within an operator; 0: as many as the plan says.", min=0, max=1024)] = 0
    cache: CacheOption = None
    no_cache: Annotated[bool, typer.Option(
        "--no-cache", help="Collect everything anew, and keep nothing for the next run.")] = False

    def options(self, progress: Progress | None) -> RunOptions:
        """As a value of the API.

        Raises:
            OptionError: two options contradict each other.
        """
        return RunFlags(threads=self.threads, cache=self.cache, no_cache=self.no_cache).options(progress)


@grouped
def command(
    model: ModelArgument,
    plan: Annotated[Path, typer.Argument(help="Plan that onnxslim1x1 plan wrote.", show_default=False)], *,
    output: OutputOption,
    calibration: Annotated[Path | None, typer.Option(
        help="Where the images of the plan are (default: where they were).")] = None,
    run: ApplyFlags, out: OutputFlags,
) -> None:
    """Carry out a plan, edited or not; the same plan gives the same bytes on the same machine."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.plan import apply_json, apply_report

    with progress_bar() as progress:
        result = api.apply(model, plan, output, calibration=calibration, run=run.options(progress))
    if out.json:
        print_json(apply_json(result, output))
        return
    for line in result.notes:
        note(line)
    print_report(*apply_report(result, output))
