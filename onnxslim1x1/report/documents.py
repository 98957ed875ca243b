"""Documents of ``analyze --json``: their published JSON Schema, and how they become records again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim1x1 import spec
from onnxslim1x1.errors import DataError
from onnxslim1x1.report import records
from onnxslim1x1.report.document import SCHEMA_VERSION
from onnxslim1x1.report.records import Record
from onnxslim1x1.search import comparison
from onnxslim1x1.search.json_file import FileKind
from onnxslim1x1.search.json_schema import explain, published

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_MAKER = "onnxslim1x1 analyze --json"
_FILES = FileKind(noun="report", maker=_MAKER, again="make it again", version=SCHEMA_VERSION, error=DataError)
_COMMANDS = ("analyze", "compare")


@cache
def _adapter() -> TypeAdapter[Record]:
    """Parser of both kinds of documents; keys that no field has, numbers in quotes, NaN and the like are errors."""
    from typing import Annotated

    from pydantic import Discriminator, TypeAdapter  # 60 ms that only files and pages need

    return TypeAdapter(Annotated[Record, Discriminator("command")])


def analysis_schema() -> dict[str, Any]:
    """JSON Schema of what ``analyze --json`` writes, with the descriptions from the docstrings."""
    schema = _adapter().json_schema()
    return published(schema, "Analysis of onnxslim1x1", map(_class, schema["$defs"]))


def _class(name: str) -> type:
    found: type = next(getattr(module, name) for module in (records, comparison, spec) if hasattr(module, name))
    return found


def record(document: Mapping[str, Any], where: str = "report") -> Record:
    """A document as a record.

    Raises:
        DataError: it is none.
    """
    from pydantic import ValidationError

    try:
        return _adapter().validate_json(json.dumps(document))  # strict only about JSON: a list may become a tuple
    except ValidationError as error:
        reason = explain(error, document, _adapter().json_schema())
        raise DataError(f"{where}: {reason}; give a file that {_MAKER} wrote") from error


def load_document(path: Path) -> dict[str, Any]:
    """Read what ``analyze --json`` wrote.

    Raises:
        DataError: it is missing, no JSON, of a newer version, or of another command.
    """
    document = _FILES.parse(_FILES.read(path), f"{path}")
    command = document.get("command") if isinstance(document, dict) else None
    if command not in _COMMANDS:
        raise DataError(f"{path}: is no report of a model (its command is {json.dumps(command)}); give a file that "
                        f"{_MAKER} wrote")
    found: dict[str, Any] = document
    return found
