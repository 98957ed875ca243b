"""Layers that were declined or regressed, and broken promises, as SARIF 2.1.0 for code scanning."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from onnxslim1x1 import __version__
from onnxslim1x1.report.outcome import Outcome, judgement

Level = Literal["note", "warning", "error"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing to say about a model.

    Attributes:
        rule: what kind of thing it is.
        about: the rule in a sentence.
        level: how bad it is.
        text: the thing itself.
        file: the model.
        layer: the place in it, or None for all of it.
    """

    rule: str
    about: str
    level: Level
    text: str
    file: str
    layer: str | None = None


def findings(outcome: Outcome) -> list[Finding]:
    """Broken promises, layers that brought them about, layers that were left alone."""
    judged = outcome.rewritten or outcome.original
    found = [Finding(rule=f"gate/{gate.name}", about=f"A promise about {gate.kind} that the rewritten model must keep.",
                     level="error", text=judgement(gate), file=judged) for gate in outcome.failed]
    found += [Finding(rule="regressed-layer", about="A layer that adds an error of its own, while a gate fails.",
                      level="error", text=f"{x.node or x.tensor} ({x.op_type}): relative error {x.rel_error:.3g}, "
                                          f"{x.snr_db:.1f} dB", file=judged, layer=x.node or x.tensor)
              for x in outcome.regressed]
    return found + [Finding(rule=f"declined/{x.code}", about="A layer that was left alone.", level="note",
                            text=f"{x.layer}: {x.reason}", file=outcome.original, layer=x.layer)
                    for x in outcome.declined]


def sarif_document(outcome: Outcome) -> dict[str, Any]:
    """One run with the findings as results."""
    found = findings(outcome)
    about = {finding.rule: finding for finding in found}
    numbers = {rule: number for number, rule in enumerate(about)}
    driver = {"name": "onnxslim1x1", "version": __version__, "rules": [
        {"id": rule, "shortDescription": {"text": finding.about}, "defaultConfiguration": {"level": finding.level}}
        for rule, finding in about.items()]}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{
        "tool": {"driver": driver}, "automationDetails": {"id": f"onnxslim1x1/{outcome.command}/"},
        "columnKind": "unicodeCodePoints", "results": [_result(f, numbers[f.rule]) for f in found]}]}


def _result(finding: Finding, number: int) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": {
        "artifactLocation": {"uri": _uri(finding.file)}, "region": {"startLine": 1}}}  # a binary file has no lines
    if finding.layer is not None:
        place["logicalLocations"] = [{"fullyQualifiedName": finding.layer, "kind": "element"}]
    same = hashlib.sha256("\0".join((finding.rule, finding.file, finding.layer or "")).encode("utf-8", "replace"))
    return {"ruleId": finding.rule, "ruleIndex": number, "level": finding.level, "message": {"text": finding.text},
            "locations": [place], "partialFingerprints": {"ruleAndLayer/v1": same.hexdigest()}}


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix(), errors="replace")
