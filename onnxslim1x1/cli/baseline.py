"""Options about what was recorded earlier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxslim1x1.cli.output import note
from onnxslim1x1.errors import BaselineError, OptionError

if TYPE_CHECKING:
    from onnxslim1x1.report.baseline import Baseline
    from onnxslim1x1.runtime.hardware import Environment
    from onnxslim1x1.runtime.verdict import ValidationReport


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineFlags:
    """What later exports must not fall behind."""

    baseline: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Gates: not slower, bigger or worse than recorded in this file.")] = None
    update_baseline: Annotated[bool, typer.Option(
        "--update-baseline", help="Record what is found in the file of --baseline, unless a gate fails.")] = False

    def load(self, *inputs: Path) -> Baseline | None:
        """What was recorded, before anything is measured; None if there is nothing to compare with.

        Raises:
            OptionError: there is no file to update, or it is a model.
            BaselineError: it cannot be read.
            OutputError: it cannot be written.
        """
        if self.baseline is None:
            if self.update_baseline:
                raise OptionError("--update-baseline: which file? name it with --baseline baseline.json")
            return None
        from onnxslim1x1.report.baseline import load_baseline

        if not self.update_baseline:
            return load_baseline(self.baseline)
        from onnxslim1x1.graph.save import require_writable

        require_writable(self.baseline, *inputs, example="baseline.json", option="--baseline")
        try:
            return load_baseline(self.baseline)
        except BaselineError:  # whatever is there gives way
            return None

    def judged(self, report: ValidationReport, known: Baseline | None, environment: Environment) -> ValidationReport:
        """The report with the gates of the baseline; or the report as it is, which is recorded if it passes.

        Raises:
            BaselineError: the baseline was recorded for something else.
            OutputError: it cannot be written.
        """
        if self.baseline is None:
            return report
        from onnxslim1x1.graph.save import write_bytes
        from onnxslim1x1.report.baseline import baseline_text, compared, recorded

        if not self.update_baseline:
            return compared(report, known, environment, f"{self.baseline}") if known else report
        if not report.passed:
            note(f"{self.baseline} is left as it was: a gate failed", "warning")
            return report
        made = recorded(report, environment, slack=known.slack if known else None)
        write_bytes(self.baseline, baseline_text(made).encode("utf-8", errors="replace"), "--baseline")
        note(f"wrote {self.baseline}")
        return report
