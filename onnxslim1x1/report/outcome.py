"""What a pipeline wants to know of a run: which promises hold, and where in the model something is to be said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxslim1x1.runtime.evidence import LayerError
from onnxslim1x1.runtime.verdict import Gate, ValidationReport
from onnxslim1x1.search.plan import PlannedLayer, SkippedLayer

_MOST_LAYERS = 10
_GROWS = 2.0  # a layer that doubles the error that it is fed has one of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A run of `validate` or `slim`.

    Attributes:
        command: which of the two.
        original: model before, as it was named.
        rewritten: model after, or None if no file was written.
        report: the comparison, or None if there was none.
        layers: what was rewritten, as far as this run knows.
        declined: layers that were left alone, and why.
        unchanged: why nothing was changed, or None.
        warnings: one line each.
    """

    command: str
    original: str
    rewritten: str | None
    report: ValidationReport | None
    layers: tuple[PlannedLayer, ...] = ()
    declined: tuple[SkippedLayer, ...] = ()
    unchanged: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The promises."""
        return self.report.gates if self.report else ()

    @property
    def failed(self) -> tuple[Gate, ...]:
        """Promises that are broken."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def passed(self) -> bool:
        """Whether none is."""
        return not self.failed

    @property
    def title(self) -> str:
        """One line: what ran, and how it ended."""
        kinds = sorted({gate.kind for gate in self.failed})
        return f"onnxslim1x1 {self.command}: " + (f"{' and '.join(kinds)} FAILED" if kinds else "passed")

    @property
    def regressed(self) -> tuple[LayerError, ...]:
        """Where a broken promise about accuracy comes from: layers that add an error of their own, the worst first."""
        if self.report is None or self.report.accuracy_passed:
            return ()
        own = [x for x in self.report.layers if x.growth is not None and x.growth >= _GROWS and x.rel_error > 0]
        return tuple(sorted(own, key=lambda x: -x.rel_error))[:_MOST_LAYERS]


def judgement(gate: Gate) -> str:
    """A gate as a sentence: ``max_drop is 0.02, at most 0.01 was promised``."""
    side = "at least" if gate.name.startswith("min_") else "at most"
    if gate.value is None:
        return f"{gate.name} could not be measured, {side} {gate.bound:.6g} was promised"
    value = "infinite" if math.isinf(gate.value) else f"{gate.value:.6g}"
    return f"{gate.name} is {value}, {side} {gate.bound:.6g} was promised"
