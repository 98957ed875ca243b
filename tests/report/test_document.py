"""Documents are strict JSON: plain types, finite numbers, string keys."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxslim1x1
from onnxslim1x1.report.document import SCHEMA_VERSION, document, jsonable
from onnxslim1x1.search.plan import Budget, PlannedLayer
from onnxslim1x1.spec import ConvSpec, Cost, Ineligible

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=200)


@dataclass(frozen=True, slots=True)
class Box:
    content: Any


def strict(value):
    """Parse what a strict writer makes of it; NaN and infinities raise when writing."""
    return json.loads(json.dumps(value, allow_nan=False))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.builds(Path, st.just("folder/net.onnx"))
    | st.builds(np.float32, st.floats(width=32)) | st.builds(np.int64, st.integers(-2**63, 2**63 - 1))
    | st.builds(np.bool_, st.booleans()),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.builds(Box, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4), max_leaves=12)


@DRAWN
@given(VALUES)
def test_everything_becomes_strict_json(value):
    plain = jsonable(value)
    assert strict(plain) == plain


@pytest.mark.parametrize("value", [
    math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("-inf"), np.float16("inf"), np.array(np.nan)])
def test_what_json_lacks_becomes_null(value):
    assert jsonable(value) is None
    assert jsonable({"a": [1.5, (value, Box(value))]}) == {"a": [1.5, [None, {"content": None}]]}


@pytest.mark.parametrize(("value", "plain"), [
    (np.int64(7), 7), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.float64(1e300), 1e300), (3, 3), (0.1, 0.1),
    (True, True), (None, None), ("text", "text"), (np.uint8(255), 255)])
def test_numbers_stay_numbers(value, plain):
    found = jsonable(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize(("value", "plain"), [
    (Cost(params=3, macs=5), {"params": 3, "macs": 5}),
    ({"b": (1, 2), "a": Path("x/y.onnx")}, {"b": [1, 2], "a": "x/y.onnx"}),
    ({3: "three"}, {"3": "three"}), (frozenset({4}), [4]), ({4}, [4]), ((), []), ({}, {}),
    (Ineligible(code="dense", reason="why"), {"code": "dense", "reason": "why"}),
    ((Cost(params=1, macs=2), None), [{"params": 1, "macs": 2}, None])])
def test_values_become_objects_and_lists(value, plain):
    assert jsonable(value) == plain


def test_nested_values_keep_the_order_of_their_fields():
    layer = PlannedLayer(layer="conv", strategy="reduce", ranks=(8,), error=math.inf, before=Cost(params=9, macs=8),
                         after=Cost(params=7, macs=6))
    assert json.dumps(jsonable(layer), allow_nan=False).startswith(
        '{"layer": "conv", "strategy": "reduce", "ranks": [8], "error": null, "before": {"params": 9, "macs": 8}, '
        '"after": {"params": 7, "macs": 6}, "speedup": null, "weighted": false')
    assert jsonable(Budget(ranks={"a": 3}))["ranks"] == {"a": 3}
    spec = ConvSpec.make(3, 5, kernel=(3, 2), in_size=(9, 7))
    assert jsonable(spec)["pads"] == [0, 0, 0, 0]
    assert jsonable(spec)["in_size"] == [9, 7]


def test_a_document_says_what_made_it_first():
    made = document("cost", {"totals": Cost(params=1, macs=2), "path": Path("a")})
    assert list(made) == ["schema_version", "tool", "command", "totals", "path"]
    assert made["schema_version"] == SCHEMA_VERSION == 1
    assert type(made["schema_version"]) is int
    assert made["tool"] == f"onnxslim1x1 {onnxslim1x1.__version__}"
    assert made["command"] == "cost"
    assert strict(made) == made


def test_a_class_is_no_value():
    with pytest.raises(TypeError):
        json.dumps(jsonable(Cost))
