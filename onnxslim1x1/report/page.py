"""A record as one HTML page: what stands on the page of an analysis, or of two models side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxslim1x1.report.facts import compared_facts, environment_facts, gain, headroom, model_facts
from onnxslim1x1.report.format import percent, shape
from onnxslim1x1.report.records import (
    AnalysisRecord,
    ComparisonRecord,
    CurveRecord,
    LayerRecord,
    Record,
    SpectraRecord,
)
from onnxslim1x1.report.rows import sheet
from onnxslim1x1.report.template import rendered, require_bokeh
from onnxslim1x1.report.validation_records import Validated

_SPACES = ("inputs", "outputs", "positions", "separable")


def html_page(record: Record | Validated) -> str:
    """The page of an analysis, of a comparison or of a validation.

    Raises:
        OptionError: bokeh is missing.
    """
    require_bokeh("--html")
    if not isinstance(record, AnalysisRecord | ComparisonRecord):
        from onnxslim1x1.report.validation_page import validation_page

        return validation_page(record)
    from onnxslim1x1.report.drawing import CURVES

    whole = sheet(record)
    made = _compared(record) if isinstance(record, ComparisonRecord) else _analysed(record)
    plots, rows, first = made.pop("plots"), made.pop("details"), made.pop("first")
    return rendered("analysis.html.jinja", made | {
        "tool": record.tool, "warnings": record.warnings, "colors": CURVES,
        "sheet": whole.only(lambda i: whole.columns[i].is_shown)},
        plots=plots, data={"rows": rows, "first": first, "colors": CURVES})


def _analysed(record: AnalysisRecord) -> dict[str, Any]:
    from onnxslim1x1.report import plots

    measured = record.totals.measured
    drawn = bool(record.layers)
    weights = [float((p.time_s if measured else p.macs) or 0) for p in record.layers]
    spectra = any(p.spectra.weights or p.spectra.activations for p in record.layers)
    return {
        "title": Path(record.model.path or "model").name, "subtitle": _subtitle(record), "facts": model_facts(record),
        "gain": [*filter(None, [gain(record), headroom(record)])],
        "environment": environment_facts(record.environment) if record.environment else [],
        "legend": ["MACs", "time"] if measured else ["MACs"], "roof": record.roofline,
        "details": [_detail(p) for p in record.layers], "first": weights.index(max(weights)) if weights else None,
        "plots": {"overview": plots.overview(record) if drawn else None, "roofline": plots.roofline_plot(record),
                  "spectra": plots.spectra_plot() if spectra else None,
                  "operators": plots.operator_bars(measured.by_op) if measured else None},
        "unmapped": measured.unmapped if measured else (), "compared": False, "measured": measured is not None}


def _compared(record: ComparisonRecord) -> dict[str, Any]:
    from onnxslim1x1.report import plots

    names = [Path(one.model.path or "model").name for one in (record.before, record.after)]
    environment = record.before.environment
    changes = [abs((m.macs.after or 0) - (m.macs.before or 0)) for m in record.matches]
    return {
        "title": " → ".join(names), "subtitle": _subtitle(record.before, record.after),
        "facts": compared_facts(record), "gain": [],
        "environment": environment_facts(environment) if environment else [],
        "legend": ["before", "after"], "roof": None, "details": _match_details(record),
        "first": changes.index(max(changes)) if changes else None,
        "plots": {"overview": plots.compared_bars(record) if record.matches else None, "roofline": None,
                  "spectra": None, "operators": None},
        "unmapped": (), "compared": True, "measured": environment is not None}


def _subtitle(*records: AnalysisRecord) -> str:
    digests = [f"sha256 {r.model.sha256[:12]}" for r in records if r.model.sha256]
    machine = [r.environment.cpu for r in records[:1] if r.environment]
    return ", ".join([*digests, *machine])


def _detail(layer: LayerRecord) -> dict[str, Any]:
    """What the panel of a selected layer shows."""
    spec, after, roof = layer.spec, layer.proposal, layer.roof
    facts = [
        ("operator", f"{layer.op_type}, {layer.kind}"),
        ("shapes", f"{shape(layer.in_shape)} → {shape(layer.out_shape)}"),
        ("channels", f"{spec.in_channels} → {spec.out_channels}"),
        ("writes", layer.output),
    ]
    if roof:
        facts.append(("roofline", f"{roof.bound}-bound, at {percent(roof.fraction, 1.0, 0)} of {roof.limit / 1e9:.3g} "
                                  "GMAC/s"))
    if layer.inserted_s:
        facts.append(("reorders and casts for it", f"{1e3 * layer.inserted_s:.3g} ms"))
    if after:
        of_what = "outputs on the images" if layer.spectra.activations else "weights"
        facts.append(("proposed", f"{after.strategy} at rank {shape(after.ranks)}: {after.speedup:.2f}x as fast alone, "
                                  f"measured; its {of_what} change by {after.error:.3f}"))
    if layer.declined:
        facts.append(("left alone", f"{layer.declined.code}: {layer.declined.reason}"))
    return {"name": layer.name, "facts": facts, "curves": _curves(layer), "mark": _mark(layer)}


def _match_details(record: ComparisonRecord) -> list[dict[str, Any]]:
    sides = [{p.name: p for p in one.layers} for one in (record.before, record.after)]
    found = []
    for match in record.matches:
        facts: list[tuple[str, str]] = [("matched by", match.found)]
        for side, names, layers in (("before", match.before, sides[0]), ("after", match.after, sides[1])):
            for name in names:
                layer = layers.get(name)
                facts.append((side, f"{name}: {shape(layer.in_shape)} → {shape(layer.out_shape)}, kernel "
                                    f"{shape(layer.spec.kernel)}" if layer else name))
        found.append({"name": (match.before or match.after)[-1], "facts": facts, "curves": [], "mark": None})
    return found


def _curves(layer: LayerRecord) -> list[dict[str, Any]]:
    """Relative error over the share of directions that are kept, for every space of a layer."""
    found = []
    sources: Mapping[str, SpectraRecord | None] = {"weights": layer.spectra.weights,
                                                   "activations": layer.spectra.activations}
    for source, spectra in sources.items():
        for number, space in enumerate(_SPACES):
            curve = getattr(spectra, space) if spectra else None
            if curve is not None:
                found.append({"source": source, "number": number, "name": f"{space} ({curve.size})",
                              "x": [0.0, *(100 * rank / curve.size for rank in curve.ranks)],
                              "y": [1.0, *(_error(kept) for kept in curve.kept)],
                              "directions": [[key, value] for key, value in curve.directions.items()]})
    return found


def _mark(layer: LayerRecord) -> dict[str, Any] | None:
    """Where the proposed rank lies: on the curve that has the error of the proposal there, whatever its family."""
    proposal, spectra = layer.proposal, layer.spectra.activations or layer.spectra.weights  # what its error is of
    if proposal is None or len(proposal.ranks) != 1 or spectra is None:
        return None
    rank = proposal.ranks[0]
    curves: Sequence[CurveRecord] = [c for c in (getattr(spectra, space) for space in _SPACES) if c is not None]
    near = min(((abs(_error_at(c, rank) - proposal.error), i) for i, c in enumerate(curves) if rank <= c.size),
               default=None)
    if near is None:
        return None
    x = 100 * rank / curves[near[1]].size
    text = f"{proposal.strategy} {rank}"
    return {"x": x, "y": proposal.error, "text": text, "align": "left" if x < 60 else "right",
            "shift": 9 if x < 60 else -9}


def _error(kept: float) -> float:
    """Relative error that is left where a share of the energy is kept: ``sqrt(1 - kept)``."""
    return math.sqrt(max(0.0, 1.0 - kept))


def _error_at(curve: CurveRecord, rank: int) -> float:
    """The same at any rank, between two points of the curve by way of their energies."""
    points = [(0, 0.0), *zip(curve.ranks, curve.kept, strict=True)]
    for (r0, k0), (r1, k1) in itertools.pairwise(points):
        if rank <= r1:
            return _error(k0 + (k1 - k0) * (rank - r0) / (r1 - r0))
    return 0.0
