"""`--explore` of `plan` and `slim`: what every speed-up costs, before one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim1x1.cli.options import BudgetFlags, ExploreFlags, OutputFlags, RunFlags
from onnxslim1x1.cli.output import note, print_json, print_report, progress_bar, terminal_width

if TYPE_CHECKING:
    from onnxslim1x1.runtime.options import DataOptions


def explore(model: Path, calibration: DataOptions | None, *, front: ExploreFlags, budget: BudgetFlags, run: RunFlags,
            out: OutputFlags) -> None:
    """Print the Pareto front of speed and loss, and draw it if that is wanted."""
    from onnxslim1x1 import api
    from onnxslim1x1.report.front import front_json, front_report
    from onnxslim1x1.report.style import WIDE

    wanted = budget.budget()
    with progress_bar() as progress:
        found = api.explore(model, wanted, calibration=calibration, run=run.options(progress), plot=front.plot)
    drawn = front.plot if found.points else None
    if out.json:
        print_json(front_json(found, drawn))
        return
    for line in found.notes:
        note(line)
    print_report(*front_report(found, drawn, wide=terminal_width() >= WIDE))
