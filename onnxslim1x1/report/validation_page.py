"""The page of a validation: verdict on top, then what it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from onnxslim1x1.report.facts import Fact, environment_facts
from onnxslim1x1.report.format import count, ms, size_bytes
from onnxslim1x1.report.template import rendered
from onnxslim1x1.report.validation_records import (
    LayerErrorRecord,
    SlimRecord,
    ValidateRecord,
    Validated,
    ValidationRecord,
    WorstRecord,
)
from onnxslim1x1.report.validation_sheets import layer_errors, layer_snr, left_alone, planned, sections, times_less
from onnxslim1x1.report.words import figure_words, gate_words, is_change, label, latency_words, scale, setting, snr

Tone = Literal["good", "bad", "open"]
Line = tuple[Tone, str]

_TONES: dict[str, Tone] = {"faster": "good", "slower": "bad"}


def validation_page(record: Validated) -> str:
    """The page of what ``validate --json`` or ``slim --json`` wrote."""
    from onnxslim1x1.report.drawing import CURVES
    from onnxslim1x1.report.validation_plots import plots

    found = record.validation
    slim = record if isinstance(record, SlimRecord) else None
    tone, title = headline(record)
    layers = found.layers if found else ()
    values = {
        "title": _title(record), "subtitle": _subtitle(record), "tone": tone, "headline": title,
        "lines": verdict_lines(record), "facts": facts(found) if found else [], "tool": record.tool,
        "warnings": [w for w in record.warnings if slim is None or w != slim.unchanged],
        "sections": {s.key: s for s in sections(found)} if found else {},
        "slim": slim, "planned": planned(slim) if slim else None, "left_alone": left_alone(slim) if slim else [],
        "settings": [setting(x) for x in found.latencies] if found else [], "errors": layer_errors(layers),
        "worst": [_worst(x) for x in found.worst] if found else [], "checker": found.checker.message if found else "",
        "environment": environment_facts(record.environment) if record.environment else [], "colors": CURVES}
    drawn = plots(found) if found else {}
    drawn = {"ratios": None, "growth": None, "excesses": None} | drawn
    return rendered("validation.html.jinja", values, plots=drawn,
                    data={"rows": [_detail(x) for x in layers], "first": _first(layers), "colors": CURVES})


def _title(record: Validated) -> str:
    if isinstance(record, ValidateRecord):
        return f"{Path(record.original).name} → {Path(record.rewritten).name}"
    name = Path(record.model.path or "model").name
    return f"{name} → {Path(record.output).name}" if record.output else name


def _subtitle(record: Validated) -> str:
    found = record.validation
    parts = [f"sha256 {record.model.sha256[:12]}" if isinstance(record, SlimRecord) else "",
             f"{found.images:,} images of {found.data}" if found and not found.random_inputs else found.data
             if found else "", record.environment.cpu if record.environment else ""]
    return ", ".join(filter(None, parts))


def headline(record: Validated) -> Line:
    """The verdict in a few words, and whether it is good, bad or neither."""
    found = record.validation
    if found is not None and not found.passed:
        broken = sum(not gate.passed for gate in found.gates)
        return "bad", f"FAILED: {broken} of {len(found.gates)} promises {'is' if broken == 1 else 'are'} broken"
    if isinstance(record, SlimRecord) and record.unchanged:
        return "open", f"Unchanged: {record.unchanged}"
    if found is None:
        return "open", "Rewritten, but not compared with the original"
    if not found.latencies:
        return "open", "Every promise holds; latency was not measured"
    first = found.latencies[0]
    said = {"faster": f"Faster: {first.speedup:.2f}x, and every promise holds",
            "slower": f"Slower: {first.speedup:.2f}x, though every promise holds"}
    return _TONES.get(first.verdict, "open"), said.get(
        first.verdict, "Every promise holds, but no difference in speed can be shown")


def verdict_lines(record: Validated) -> list[Line]:
    """What the verdict rests on: broken promises, latency, accuracy."""
    found = record.validation
    if found is None:
        return []
    lines: list[Line] = [("bad", gate_words(gate)) for gate in found.gates if not gate.passed]
    if len(lines) < len(found.gates):
        kept = [gate_words(gate).partition(":")[0] for gate in found.gates if gate.passed]
        lines.append(("good", f"kept: {', '.join(kept)}"))
    several = len(found.latencies) > 1
    lines += [(_TONES.get(x.verdict, "open"), f"{f'{setting(x)}: ' if several else ''}{latency_words(x)}")
              for x in found.latencies]
    return [*lines, *(("open", text) for text in accuracy_lines(found))]


def accuracy_lines(found: ValidationRecord) -> list[str]:
    """The first figures with their intervals, or what there is without any."""
    if found.figures:
        several = len({f.output for f in found.figures}) > 1
        return [f"{f'{f.output}, ' if several else ''}{label(f.name)}: {figure_words(f)}" for f in found.figures[:4]]
    classes = found.classification
    if classes is not None:
        drop = "" if classes.top1_drop is None else f"top-1 {_drop(classes.top1_drop)}, "
        return [f"{drop}same class for {100 * classes.agreement:.2f} % of {classes.images:,} images"]
    return [f"{o.name}: {snr(o)}" for o in found.outputs[:4]]


def _drop(value: float) -> str:
    return f"{'drop' if value >= 0 else 'gain'} {100 * abs(value):.2f} points"


def facts(found: ValidationRecord) -> list[Fact]:
    """The figures that one looks for first."""
    made = []
    if found.latencies:
        first = found.latencies[0]
        made.append(Fact(label="speed", value=f"{first.speedup:.2f}x", note=f"{ms(first.original.median_s)} → "
                                                                            f"{ms(first.rewritten.median_s)} ms"))
    made += _accuracy_fact(found)
    old, new = found.cost_original, found.cost_rewritten
    if old and new:
        made += [Fact(label="MACs", value=f"{count(old.macs)} → {count(new.macs)}",
                      note=times_less(old.macs, new.macs)),
                 Fact(label="parameters", value=f"{count(old.params)} → {count(new.params)}",
                      note=times_less(old.params, new.params))]
    sizes = found.size_original_bytes, found.size_rewritten_bytes
    return [*made, Fact(label="file", value=size_bytes(sizes[1]), note=times_less(*sizes)),
            Fact(label="compared on", value=f"{found.images:,}", note="images" if not found.random_inputs else
                 "random inputs")]


def _accuracy_fact(found: ValidationRecord) -> list[Fact]:
    for figure in found.figures[:1]:
        if figure.value is not None:
            written = scale(figure)
            value = f"{figure.value * written.factor:+{written.form}}" if is_change(figure) else written.value(
                figure.value)
            return [Fact(label=label(figure.name) + (f",{written.unit_of_change}" if is_change(figure) else ""),
                         value=value, note=figure_words(figure).partition(", ")[2])]
    classes = found.classification
    if classes is not None and classes.top1_drop is not None:
        return [Fact(label="top-1, points", value=f"{-100 * classes.top1_drop:+.2f}",
                     note=f"same class: {100 * classes.agreement:.1f} %")]
    if classes is not None:
        return [Fact(label="same class", value=f"{100 * classes.agreement:.2f} %")]
    return [Fact(label="worst output", value=snr(worst), note=worst.name)
            for worst in sorted(found.outputs, key=lambda o: (o.snr_db is None and o.max_abs == 0,
                                                              o.snr_db if o.snr_db is not None else 0.0))[:1]]


def _detail(layer: LayerErrorRecord) -> dict[str, Any]:
    """What the panel of a selected tensor shows."""
    growth = "-" if layer.rel_error == 0 else "error enters here" if layer.growth is None else f"{layer.growth:.2f}x"
    shown = [("operator", f"{layer.op_type}{', rewritten' if layer.rewritten else ''}"), ("writes", layer.tensor),
             ("compared with", layer.counterpart),
             ("relative error", "not finite" if layer.rel_error is None else f"{100 * layer.rel_error:.3g} %"),
             ("SNR", layer_snr(layer) + (" dB" if layer.snr_db is not None else "")),
             ("growth over what it reads", growth)]
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
