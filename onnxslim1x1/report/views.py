"""What a user sees of one analysis, or of two: the rows that were asked for, as tables and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxslim1x1.report.analysis import analysis_json, analysis_report, sorted_layers
from onnxslim1x1.report.style import WIDE, Table
from onnxslim1x1.search.analysis import Analysis, LayerProfile

if TYPE_CHECKING:  # two models are compared less often than one is shown
    from onnxslim1x1.search.comparison import Comparison, Match


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisView:
    """An analysis and the layers to show of it."""

    analysis: Analysis
    layers: Sequence[LayerProfile]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line each."""
        return self.analysis.warnings

    def tables(self, width: int, *, nodes: bool = False) -> list[str | Table]:
        """For a terminal of so many columns; `nodes` shows every node of the graph, too."""
        return analysis_report(self.analysis, self.layers, wide=width >= WIDE, nodes=nodes)

    def document(self) -> dict[str, Any]:
        """As data."""
        return analysis_json(self.analysis, self.layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonView:
    """A comparison and the matches to show of it."""

    comparison: Comparison
    matches: Sequence[Match]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line each."""
        return self.comparison.warnings

    def tables(self, width: int, *, nodes: bool = False) -> list[str | Table]:  # noqa: ARG002  (the same call for both)
        """For a terminal of so many columns; a comparison has no table of nodes."""
        from onnxslim1x1.report.comparison import comparison_report

        return comparison_report(self.comparison, self.matches, wide=width >= WIDE)

    def document(self) -> dict[str, Any]:
        """As data."""
        from onnxslim1x1.report.comparison import comparison_json

        return comparison_json(self.comparison, self.matches)


def view(analyses: Sequence[Analysis], sort: str, top: int | None) -> AnalysisView | ComparisonView:
    """View of one analysis, or of two side by side.

    Args:
        analyses: one or two.
        sort: one of `report.analysis.SORT_KEYS`.
        top: how many rows at most.
    """
    if len(analyses) == 1:
        return AnalysisView(analysis=analyses[0], layers=sorted_layers(analyses[0], sort, top))
    from onnxslim1x1.report.comparison import sorted_matches
    from onnxslim1x1.search.comparison import compare

    found = compare(*analyses)
    return ComparisonView(comparison=found, matches=sorted_matches(found, sort, top))
