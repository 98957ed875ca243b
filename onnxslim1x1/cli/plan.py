"""`onnxslim1x1 plan`: decide now, apply later."""

from __future__ import annotations

from onnxslim1x1.cli.explore import explore
from onnxslim1x1.cli.groups import grouped
from onnxslim1x1.cli.options import (
    BudgetFlags,
    CalibrationOption,
    ExploreFlags,
    ImageFlags,
    ModelArgument,
    OptionalOutput,
    OutputFlags,
    RunFlags,
)
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar


@grouped
def command(
    model: ModelArgument, *, output: OptionalOutput = None, calibration: CalibrationOption = None,
    front: ExploreFlags, budget: BudgetFlags, images: ImageFlags, run: RunFlags, out: OutputFlags,
) -> None:
    """Decide which layers to rewrite, and how, and write that as a JSON file that can be read and edited."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.plan import plan_json, plan_report

    wanted, fit, target = budget.budget(), images.other(calibration), front.output(output)
    if target is None:
        explore(model, fit, front=front, budget=budget, run=run, out=out)
        return
    with progress_bar() as progress:
        made = api.plan(model, wanted, output=target, calibration=fit, run=run.options(progress))
    if out.json:
        print_json(plan_json(made, target))
        return
    for line in made.notes:
        note(line)
    print_report(*plan_report(made, target))
