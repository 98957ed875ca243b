"""What there is to say about a validation as a whole: the verdict, what it rests on, and the figures to see first."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnxslim1x1.report.facts import Fact
from onnxslim1x1.report.format import count, ms, size_bytes
from onnxslim1x1.report.validation_records import SlimRecord, Validated, ValidateRecord, ValidationRecord
from onnxslim1x1.report.validation_sheets import times_less
from onnxslim1x1.report.words import (
    exact_outputs,
    figure_words,
    gate_words,
    interval_words,
    is_change,
    label,
    latency_words,
    scale,
    setting,
    snr,
)

Tone = Literal["good", "bad", "open"]
Line = tuple[Tone, str]

_TONES: dict[str, Tone] = {"faster": "good", "slower": "bad"}


def title(record: Validated) -> str:
    """What became what."""
    if isinstance(record, ValidateRecord):
        return f"{Path(record.original).name} → {Path(record.rewritten).name}"
    name = Path(record.model.path or "model").name
    return f"{name} → {Path(record.output).name}" if record.output else name


def subtitle(record: Validated) -> str:
    """On what, and where."""
    found = record.validation
    digest = f"sha256 {record.model.sha256[:12]}" if isinstance(record, SlimRecord) else ""
    return ", ".join(filter(None, (digest, _inputs(found) if found else "",
                                   record.environment.cpu if record.environment else "")))


def _inputs(found: ValidationRecord) -> str:
    if found.random_inputs:
        return found.data
    return f"{found.images:,} image{'' if found.images == 1 else 's'} of {found.data}"


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
        exact = exact_outputs(found)
        return [f"{f'{f.output}, ' if several else ''}{label(f.name)}: {figure_words(f, exact=f.output in exact)}"
                for f in found.figures[:4]]
    classes = found.classification
    if classes is not None:
        drop = "" if classes.top1_drop is None else f"top-1 {_drop(classes.top1_drop)}, "
        return [f"{drop}same class for {100 * classes.agreement:.2f}% of {classes.images:,} images"]
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
                         value=value, note=interval_words(figure))]
    classes = found.classification
    if classes is not None and classes.top1_drop is not None:
        return [Fact(label="top-1, points", value=f"{-100 * classes.top1_drop:+.2f}",
                     note=f"same class: {100 * classes.agreement:.1f}%")]
    if classes is not None:
        return [Fact(label="same class", value=f"{100 * classes.agreement:.2f}%")]
    return [Fact(label="worst output", value=snr(worst), note=worst.name)
            for worst in sorted(found.outputs, key=lambda o: (o.snr_db is None and o.max_abs == 0,
                                                              o.snr_db if o.snr_db is not None else 0.0))[:1]]
