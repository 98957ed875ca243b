"""What a plan file may hold: its JSON Schema, and its parser."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from onnxslim1x1.search import plan
from onnxslim1x1.search.json_schema import published
from onnxslim1x1.search.plan import RewritePlan

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@cache
def adapter() -> TypeAdapter[RewritePlan]:
    """Parser of plans; keys that no field has, numbers in quotes, NaN and the like are errors."""
    from pydantic import TypeAdapter  # 60 ms that only plan files need

    return TypeAdapter(RewritePlan)


def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, with the descriptions from the docstrings."""
    schema = adapter().json_schema()
    names = (RewritePlan.__name__, *schema["$defs"])
    schema["properties"]["schema_version"]["const"] = schema["properties"]["schema_version"].pop("default")
    schema["required"].insert(0, "schema_version")  # `load_plan` wants it, too
    # the module of plans knows the classes of all annotations
    return published(schema, "Plan of onnxslim1x1", [getattr(plan, name) for name in names])
