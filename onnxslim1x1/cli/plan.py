"""`onnxslim1x1 plan`: decide now, apply later."""

from __future__ import annotations

from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import (
    BudgetFlags,
    CalibrationOption,
    ImageFlags,
    ModelArgument,
    OutputFlags,
    OutputOption,
    RunFlags,
)
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar


@grouped
def command(
    model: ModelArgument, *, output: OutputOption, calibration: CalibrationOption = None,
    budget: BudgetFlags, images: ImageFlags, run: RunFlags, out: OutputFlags,
) -> None:
    """Decide which layers to rewrite, and how, and write that as a JSON file that can be read and edited."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.plan import plan_json, plan_report

    wanted, fit = budget.budget(), images.other(calibration)
    with progress_bar() as progress:
        made = api.plan(model, wanted, output=output, calibration=fit, run=run.options(progress))
    if out.json:
        print_json(plan_json(made, output))
        return
    for line in made.notes:
        note(line)
    print_report(*plan_report(made, output))
