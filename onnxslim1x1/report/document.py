"""JSON documents: one structure for every command."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxslim1x1 import __version__

SCHEMA_VERSION = 1


def document(command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap the content of a command; values become plain JSON."""
    head = {"schema_version": SCHEMA_VERSION, "tool": f"onnxslim1x1 {__version__}", "command": command}
    return head | {key: jsonable(value) for key, value in content.items()}


def jsonable(value: Any) -> Any:
    """Frozen values, tuples, paths and numpy numbers as JSON; infinities and NaN, which JSON lacks, as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
