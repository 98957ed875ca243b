"""Documents of ``--json``: their published JSON Schemas, and how they become records again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim1x1 import spec
from onnxslim1x1.errors import DataError
from onnxslim1x1.report import records, validation_records
from onnxslim1x1.report.document import SCHEMA_VERSION
from onnxslim1x1.report.records import Record
from onnxslim1x1.report.validation_records import Validated
from onnxslim1x1.runtime import benchmark
from onnxslim1x1.search import comparison, plan
from onnxslim1x1.search.json_file import FileKind
from onnxslim1x1.search.json_schema import explain, published

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_MAKER = "onnxslim1x1 analyze, slim or validate --json"
_FILES = FileKind(noun="report", maker=_MAKER, again="make it again", version=SCHEMA_VERSION, error=DataError)
_ANALYSES, _VALIDATIONS = ("analyze", "compare"), ("validate", "slim")
_MODULES = (records, validation_records, comparison, plan, benchmark, spec)  # know the classes of all annotations


@cache
def _analyses() -> TypeAdapter[Record]:
    """Parser of both kinds of documents; keys that no field has, numbers in quotes, NaN and the like are errors."""
    from typing import Annotated

    from pydantic import Discriminator, TypeAdapter  # 60 ms that only files and pages need

    return TypeAdapter(Annotated[Record, Discriminator("command")])


@cache
def _validations() -> TypeAdapter[Validated]:
    """The same for documents of validations."""
    from typing import Annotated

    from pydantic import Discriminator, TypeAdapter

    return TypeAdapter(Annotated[Validated, Discriminator("command")])


def analysis_schema() -> dict[str, Any]:
    """JSON Schema of what ``analyze --json`` writes, with the descriptions from the docstrings."""
    return _schema(_analyses(), "Analysis of onnxslim1x1")


def validation_schema() -> dict[str, Any]:
    """JSON Schema of what ``validate --json`` and ``slim --json`` write."""
    return _schema(_validations(), "Validation of onnxslim1x1")


def _schema(adapter: TypeAdapter[Any], title: str) -> dict[str, Any]:
    schema = adapter.json_schema()
    return published(schema, title, map(_class, schema["$defs"]))


def _class(name: str) -> type:
    found: type = next(getattr(module, name) for module in _MODULES if hasattr(module, name))
    return found


def record(document: Mapping[str, Any], where: str = "report") -> Record | Validated:
    """A document as a record.

    Raises:
        DataError: it is none.
    """
    from pydantic import ValidationError

    adapter: TypeAdapter[Any] = _validations() if document.get("command") in _VALIDATIONS else _analyses()
    try:
        found: Record | Validated = adapter.validate_json(json.dumps(document))  # strict only about JSON: lists do
    except ValidationError as error:
        reason = explain(error, document, adapter.json_schema())
        raise DataError(f"{where}: {reason}; give a file that {_MAKER} wrote") from error
    return found


def load_document(path: Path) -> dict[str, Any]:
    """Read what ``analyze``, ``slim`` or ``validate`` wrote with ``--json``.

    Raises:
        DataError: it is missing, no JSON, of a newer version, or of another command.
    """
    document = _FILES.parse(_FILES.read(path), f"{path}")
    command = document.get("command") if isinstance(document, dict) else None
    if command not in _ANALYSES + _VALIDATIONS:
        raise DataError(f"{path}: is no report of a model (its command is {json.dumps(command)}); give a file that "
                        f"{_MAKER} wrote")
    found: dict[str, Any] = document
    return found
