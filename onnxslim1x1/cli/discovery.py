"""Finding the configuration file; imported before anything that takes time to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIG_FILE = "onnxslim1x1.toml"
PROJECT_FILE = "pyproject.toml"
_TOOL = "onnxslim1x1"


def find(start: Path) -> Path | None:
    """The nearest configuration file of a folder and those above it.

    In one folder ``onnxslim1x1.toml`` wins over ``pyproject.toml``, which counts only with a ``[tool.onnxslim1x1]``.

    Raises:
        OptionError: a ``pyproject.toml`` that speaks of this tool is no TOML.
    """
    for folder in (start, *start.parents):
        own, project = folder / CONFIG_FILE, folder / PROJECT_FILE
        if _is_file(own):
            return own
        if _is_file(project) and _mentions_us(project) and read(project) is not None:
            return project
    return None


def read(path: Path) -> dict[str, Any] | None:
    """What a configuration file says; None for a ``pyproject.toml`` without our table.

    Raises:
        OptionError: it cannot be read, or is no TOML.
    """
    import tomllib

    from onnxslim1x1.errors import OptionError

    try:
        document: Any = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror or error}); name a file with --config, or ignore "
                          "all with --no-config") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise OptionError(f"{path}: is not valid TOML ({error})") from error
    if path.name != PROJECT_FILE:
        return dict(document)
    table = document.get("tool", {})
    table = table.get(_TOOL) if isinstance(table, dict) else None
    if table is not None and not isinstance(table, dict):
        raise OptionError(f"{path}: tool.{_TOOL}: must be a table, not {table!r}")
    return table


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder above that may not be entered
        return False


def _mentions_us(path: Path) -> bool:
    try:
        return _TOOL.encode() in path.read_bytes()
    except OSError:
        return False
