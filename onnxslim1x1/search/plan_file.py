"""Plan files: readable and editable JSON, derived from the fields of `RewritePlan`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxslim1x1 import __version__
from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.save import write_text
from onnxslim1x1.search.plan import PLAN_SCHEMA_VERSION, RewritePlan
from onnxslim1x1.search.plan_schema import adapter, explain

_WIDTH = 120  # what fits stands on one line
_STEP = "  "


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
    text = _read(Path(path))
    document = _parsed(text, f"{path}")
    _require_version(document, f"{path}")
    from pydantic import ValidationError

    try:
        return adapter().validate_json(text)
    except ValidationError as error:
        raise PlanMismatchError(f"{path}: {explain(error, document)}") from error


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


def _read(path: Path) -> str:
    try:
        if not path.exists():
            raise PlanMismatchError(f"{path}: no such file; onnxslim1x1 plan writes one")
        if path.is_dir():
            raise PlanMismatchError(f"{path}: is a directory, not a plan; name the .json file in it")
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
    except OSError as error:
        raise PlanMismatchError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise PlanMismatchError(f"{path}: is no text, but a plan is a JSON file; give the file that onnxslim1x1 plan "
                                "wrote") from error
    if not text.strip():
        raise PlanMismatchError(f"{path}: the file is empty; make the plan again with onnxslim1x1 plan")
    return text


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise PlanMismatchError(f"{where}: line {error.lineno}, column {error.colno}: is not valid JSON "
                                f"({error.msg})") from error
    except ValueError as error:  # twins, or a number of thousands of digits, about which Python says more than we need
        raise PlanMismatchError(f"{where}: is no plan ({str(error).partition(';')[0]})") from error
    except RecursionError as error:
        raise PlanMismatchError(f"{where}: is no plan (thousands of brackets in one another)") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ; the later of two would win silently.

    Raises:
        ValueError: two are the same.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin} stands twice in one object")
    return found


def _require_version(document: Any, where: str) -> None:
    """A plan of another version is not read at all: its keys may mean something else."""
    if not isinstance(document, dict):
        return
    if "schema_version" not in document:
        raise PlanMismatchError(f"{where}: schema_version: is missing; give a file that onnxslim1x1 plan wrote")
    version = document["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version == PLAN_SCHEMA_VERSION:
        return
    newer = version > PLAN_SCHEMA_VERSION
    raise PlanMismatchError(
        f"{where}: schema_version: {version} is {'newer than' if newer else 'not'} {PLAN_SCHEMA_VERSION}, which "
        f"onnxslim1x1 {__version__} reads; {'upgrade onnxslim1x1' if newer else 'make the plan again'}")
