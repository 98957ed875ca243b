"""Exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxslim1x1.errors import (
    BaselineError,
    DataError,
    InfeasibleBudget,
    ModelError,
    OptionError,
    OutputError,
    PlanMismatchError,
    RankError,
    RuntimeFailure,
    SlimError,
    UnknownLayerError,
)

if TYPE_CHECKING:
    from onnxslim1x1.runtime.verdict import ValidationReport

EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_UNUSABLE = 3
EXIT_ACCURACY = 4
EXIT_LATENCY = 5
EXIT_UNCHANGED = 6
EXIT_INTERRUPTED = 130  # what shells use for Ctrl-C

_USAGE = (OptionError, RankError, UnknownLayerError, InfeasibleBudget)
_UNUSABLE = (ModelError, DataError, BaselineError, PlanMismatchError, OutputError, RuntimeFailure)


def exit_code(error: SlimError) -> int:
    """Exit code of an error."""
    if isinstance(error, _USAGE):
        return EXIT_USAGE
    return EXIT_UNUSABLE if isinstance(error, _UNUSABLE) else EXIT_INTERNAL


def exit_for(report: ValidationReport | None) -> None:
    """Leave with the code of the first kind of gate that failed, if any."""
    import typer  # codes are known before the parser is loaded

    if report is None or report.passed:
        return
    raise typer.Exit(EXIT_LATENCY if report.accuracy_passed else EXIT_ACCURACY)
