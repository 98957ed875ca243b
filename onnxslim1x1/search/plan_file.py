"""Plan files: readable and editable JSON, derived from the fields of `RewritePlan`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.save import write_text
from onnxslim1x1.search.json_file import FileKind
from onnxslim1x1.search.json_schema import explain
from onnxslim1x1.search.plan import PLAN_SCHEMA_VERSION, RewritePlan
from onnxslim1x1.search.plan_schema import adapter

_WIDTH = 120  # what fits stands on one line
_STEP = "  "
_PLANS = FileKind(noun="plan", maker="onnxslim1x1 plan", again="make the plan again", version=PLAN_SCHEMA_VERSION,
                  error=PlanMismatchError)


def save_plan(plan: RewritePlan, path: str | Path) -> None:
    """Write a plan as JSON, so that `path` holds either all of it or what it held before.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    write_text(Path(path), plan_text(plan))


def load_plan(path: str | Path) -> RewritePlan:
    """Read a plan file, which may have been edited.

    Raises:
        PlanMismatchError: it is missing, no JSON, of a newer version, or has keys or values that a plan does not have.
    """
    text = _PLANS.read(Path(path))
    document = _PLANS.parse(text, f"{path}")
    from pydantic import ValidationError

    try:
        return adapter().validate_json(text)
    except ValidationError as error:
        raise PlanMismatchError(f"{path}: {explain(error, document, adapter().json_schema())}") from error


def plan_text(plan: RewritePlan) -> str:
    """A plan as JSON text."""
    text = _json(asdict(plan), "") + "\n"
    return text.encode("utf-8", errors="replace").decode("utf-8")  # a path may hold bytes that are no text


def _json(value: Any, indent: str) -> str:
    """Indented JSON in which what fits stands on one line, and lists of plain values fill their lines."""
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda number: number.item())
    if not isinstance(value, (Mapping, list, tuple)) or (indent and len(indent) + len(flat) < _WIDTH):
        return flat
    inner = indent + _STEP
    if isinstance(value, Mapping):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_json(item, inner)}" for key, item in value.items()]
        return f"{{\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}}}"
    parts = [_json(item, inner) for item in value]
    if not any(isinstance(item, (Mapping, list, tuple)) for item in value):
        parts = _filled(parts, _WIDTH - len(inner))
    return f"[\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}]"


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Lines of as many parts as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
