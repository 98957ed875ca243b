"""`onnxslim1x1 slim`: make a model faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from onnxslim1x1.cli.ci import CiFlags
from onnxslim1x1.cli.exits import EXIT_UNCHANGED, exit_for
from onnxslim1x1.cli.explore import explore
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import (
    BudgetFlags,
    CalibrationOption,
    DataFlags,
    ExploreFlags,
    ModelArgument,
    OptionalOutput,
    OutputFlags,
    PromiseFlags,
    RunFlags,
)
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar
from onnxslim1x1.cli.reports import PageFlags
from onnxslim1x1.errors import OptionError


@grouped
def command(
    model: ModelArgument, *,
    output: OptionalOutput = None, calibration: CalibrationOption = None,
    front: ExploreFlags, budget: BudgetFlags, images: DataFlags, gates: PromiseFlags, ci: CiFlags,
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Do not compare the result.")] = False,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="Keep the file when a gate fails.")] = False,
    fail_if_unchanged: Annotated[bool, typer.Option(
        "--fail-if-unchanged", help="Exit with 6 if nothing is worth changing.")] = False,
    page: PageFlags, run: RunFlags, out: OutputFlags,
) -> None:
    """Put 1x1 reductions in front of expensive convolutions where that pays, and prove it."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.slimming import slim_json, slim_outcome, slim_report

    if no_validate and gates.given:
        raise OptionError(f"{gates.given[0]}: contradicts --no-validate; drop one of the two")
    fit, wanted = images.other(calibration), budget.budget()
    target = front.output(output, *gates.given, *ci.given, data=images.data, labels=images.labels,
                          no_validate=no_validate, keep_failed=keep_failed, fail_if_unchanged=fail_if_unchanged,
                          html=page.html)
    if target is None:
        explore(model, fit, front=front, budget=budget, run=run, out=out)
        return
    ci.require(model, output, calibration, images.data, images.labels)
    check = None if no_validate else api.Check(data=images.options(), settings=gates.settings(),
                                               keep_failed=keep_failed)
    page.require(model, calibration, images.data, images.labels, also={"--output": target})
    with progress_bar() as progress:
        result = api.slim(model, target, budget=wanted, calibration=fit and replace(fit, labels=None),
                          run=run.options(progress), check=check)
    page.write(lambda: slim_json(result))
    if out.json:
        print_json(slim_json(result))
    else:
        for warning in result.notes:
            note(warning)
        print_report(*slim_report(result))
    ci.publish(slim_outcome(result))
    exit_for(result.validation)
    if fail_if_unchanged and result.unchanged:
        raise typer.Exit(EXIT_UNCHANGED)
