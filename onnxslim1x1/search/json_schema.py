"""JSON Schemas made from dataclasses, and messages about what does not fit one, with the place in the document."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxslim1x1.search.hints import did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError

Loc = Sequence[int | str]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LONGEST_VALUE = 40
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # of a dataclass, of a model
_CONTAINERS = {"dataclass_type": "must be an object", "model_type": "must be a table"}
_WORDS = (("Input should be", "must be"), ("a valid array", "a list"), ("a valid integer", "an integer"),
          ("a valid ", "a "))


def published(schema: dict[str, Any], title: str, classes: Iterable[type]) -> dict[str, Any]:
    """A schema of pydantic as it is published: with the descriptions that stand in the docstrings of `classes`.

    Args:
        schema: of a class, or of a choice of classes; changed in place.
        title: what the documents are.
        classes: those that it is made of, by the names that its parts have.
    """
    parts = {schema.get("title"): schema, **schema.get("$defs", {})}
    for kind in classes:
        _describe(parts[kind.__name__], str(kind.__doc__))
    return {"$schema": DIALECT, "title": title, **_without_titles(schema)}


def explain(error: ValidationError, document: Any, schema: dict[str, Any]) -> str:
    """The first thing that is wrong with a document, as ``place: what``, and at how many places more there is."""
    found = error.errors(include_url=False)
    found.sort(key=lambda e: e["type"] not in _UNKNOWN)  # a misspelt key is missing, too: its own message says more
    first, places = found[0], {tuple(_real(e["loc"], document)) for e in found}
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    where, what = place(_real(first["loc"], document)), _what(first, document, schema)
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def place(loc: Loc) -> str:
    """A path in a JSON document: ``layers[2].ranks[0]``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).removeprefix(".")


def _what(error: Mapping[str, Any], document: Any, schema: dict[str, Any]) -> str:
    kind, loc, text = error["type"], _real(error["loc"], document), str(error["msg"])
    if kind == "missing":
        return "is missing"
    if kind == "json_invalid":
        return f"is not valid JSON ({text.removeprefix('Invalid JSON: ')})"
    if kind in _UNKNOWN:
        return f"unknown key{did_you_mean(str(loc[-1]), _known_keys(loc[:-1], document, schema))}"
    if kind == "value_error":  # a class refuses the value in its own words
        return text.removeprefix("Value error, ")
    shown = json.dumps(error["input"], ensure_ascii=False, default=str)  # TOML has dates
    if len(shown) > _LONGEST_VALUE:
        shown = f"{shown[:_LONGEST_VALUE - 3]}..."
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return f"{_CONTAINERS.get(kind, text)}, not {shown}"


def _real(loc: Loc, document: Any) -> list[int | str]:
    """The steps of a path that lead into the document; others name branches of a choice of types."""
    steps: list[int | str] = []
    here = document
    for number, step in enumerate(loc):
        inside = step in here if isinstance(here, dict) else (
            isinstance(here, list) and isinstance(step, int) and step < len(here))  # a pair may lack an item
        if inside:
            here = here[step]
        if inside or (number == len(loc) - 1 and isinstance(here, dict)):  # the last one may be missing
            steps.append(step)
    return steps


def _known_keys(loc: Loc, document: Any, schema: dict[str, Any]) -> list[str]:
    """Keys that the object at a place may have."""
    here: dict[str, Any] = _chosen(schema, document)
    for step in loc:
        here = _opened(here, schema)
        here = here.get("items", {}) if isinstance(step, int) else here.get("properties", {}).get(step, {})
    return list(_opened(here, schema).get("properties", ()))


def _chosen(schema: dict[str, Any], document: Any) -> dict[str, Any]:
    """Of a choice of documents, the one that its discriminator names."""
    if "discriminator" not in schema:
        return schema
    choice = schema["discriminator"]
    return {"$ref": choice["mapping"][document[choice["propertyName"]]]}


def _opened(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference; of a choice, its object or array."""
    choices = [_opened(choice, schema) for choice in part.get("anyOf", ())]
    if choices:
        return next((c for c in choices if c.get("type") in ("object", "array")), choices[0])
    if "$ref" in part:
        return _opened(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    return part


def _describe(part: dict[str, Any], docstring: str) -> None:
    """Put what the docstring of a class says about it and its fields into its part of the schema."""
    text = re.sub(r"\bNone\b", "null", inspect.cleandoc(docstring))
    summary, *sections = re.split(r"\n\n(?=[A-Z]\w+:\n)", text)
    part |= {"description": " ".join(summary.split()), "additionalProperties": False}
    attributes = next((s for s in sections if s.startswith("Attributes:")), "")
    for name, line in re.findall(r"^    (\w+): (.+(?:\n     .+)*)", attributes, re.MULTILINE):
        part["properties"][name]["description"] = " ".join(line.split()).rstrip(".")


def _without_titles(part: Any) -> Any:
    """Without the titles that only repeat names."""
    if isinstance(part, dict):
        return {k: _without_titles(v) for k, v in part.items() if not (k == "title" and isinstance(v, str))}
    return [_without_titles(v) for v in part] if isinstance(part, list) else part
