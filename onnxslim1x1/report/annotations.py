"""Lines that GitHub Actions turns into annotations.

The format is that of GitHub's workflow commands: ``::error title=T::message``, escaped as the runner's toolkit does.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxslim1x1.report.outcome import Outcome, judgement
from onnxslim1x1.report.validation import verdict_lines

_MOST_LAYERS = 5  # of an annotation's kind, GitHub shows ten for a step


def annotation_lines(outcome: Outcome) -> Iterator[str]:
    """An error for every broken promise and the layers behind it, warnings, and a notice with the verdict."""
    title = f"onnxslim1x1 {outcome.command}"
    for gate in outcome.failed:
        yield _command("error", f"{title}: {gate.kind}", judgement(gate))
    for layer in outcome.regressed[:_MOST_LAYERS]:
        yield _command("error", f"{title}: layer", f"{layer.node or layer.tensor} adds an error of its own: "
                                                   f"{layer.snr_db:.1f} dB")
    for text in outcome.warnings:
        yield _command("warning", title, text)
    if outcome.unchanged is not None:
        yield _command("notice", title, f"unchanged: {outcome.unchanged}")
    elif outcome.report is not None:
        yield _command("notice", title, "\n".join(verdict_lines(outcome.report)))


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
