"""The page of a validation: verdict on top, then what it rests on."""

from __future__ import annotations

from typing import Any

from onnxslim1x1.report.facts import environment_facts
from onnxslim1x1.report.template import rendered
from onnxslim1x1.report.validation_facts import facts, headline, subtitle, title, verdict_lines
from onnxslim1x1.report.validation_records import LayerErrorRecord, SlimRecord, Validated, WorstRecord
from onnxslim1x1.report.validation_sheets import layer_errors, layer_snr, left_alone, planned, sections
from onnxslim1x1.report.words import growth_words, label, setting


def validation_page(record: Validated) -> str:
    """The page of what ``validate --json`` or ``slim --json`` wrote."""
    from onnxslim1x1.report.drawing import CURVES
    from onnxslim1x1.report.validation_plots import plots

    found = record.validation
    slim = record if isinstance(record, SlimRecord) else None
    tone, verdict = headline(record)
    layers = found.layers if found else ()
    values = {
        "title": title(record), "subtitle": subtitle(record), "tone": tone, "headline": verdict,
        "lines": verdict_lines(record), "facts": facts(found) if found else [], "tool": record.tool,
        "warnings": [*record.warnings, *(found.notes if found else ())],
        "sections": {s.key: s for s in sections(found)} if found else {},
        "slim": slim, "planned": planned(slim) if slim else None, "left_alone": left_alone(slim) if slim else [],
        "settings": [setting(x) for x in found.latencies] if found else [], "errors": layer_errors(layers),
        "worst": [_worst(x) for x in found.worst] if found else [], "checker": found.checker.message if found else "",
        "environment": environment_facts(record.environment) if record.environment else [], "colors": CURVES}
    return rendered("validation.html.jinja", values, plots=plots(found) if found else {},
                    data={"rows": [_detail(x) for x in layers], "first": _first(layers), "colors": CURVES})


def _detail(layer: LayerErrorRecord) -> dict[str, Any]:
    """What the panel of a selected tensor shows."""
    shown = [("operator", f"{layer.op_type}{', rewritten' if layer.rewritten else ''}"), ("writes", layer.tensor),
             ("compared with", layer.counterpart),
             ("relative error", "not finite" if layer.rel_error is None else f"{100 * layer.rel_error:.3g}%"),
             ("SNR", layer_snr(layer) + (" dB" if layer.snr_db is not None else "")),
             ("growth over what it reads", growth_words(layer))]
    return {"name": layer.node, "facts": shown, "curves": [], "mark": None}


def _first(layers: tuple[LayerErrorRecord, ...]) -> int | None:
    """The tensor with the largest error."""
    if not layers:
        return None
    return max(range(len(layers)), key=lambda i: float("inf") if layers[i].rel_error is None else
               layers[i].rel_error or 0.0)


def _worst(sample: WorstRecord) -> dict[str, Any]:
    """A picture of the gallery; anything but an embedded picture is not shown."""
    loss = "infinite" if sample.loss is None else f"{sample.loss:.3g}"
    picture = sample.picture if sample.picture and sample.picture.startswith("data:image/") else None
    return {"name": sample.name, "note": sample.note, "loss": f"{label(sample.measure)} {loss}", "picture": picture}
