"""Plan files: what is written can be read again, and what was edited wrongly is refused with its place."""

import copy
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxslim1x1
from onnxslim1x1.errors import OutputError, PlanMismatchError
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.preprocess import PRESETS, Preprocess, preprocess
from onnxslim1x1.search.plan import Budget, PlannedData, PlannedLayer, PlannedModel, RewritePlan, SkippedLayer
from onnxslim1x1.search.plan_file import load_plan, plan_text, save_plan
from onnxslim1x1.search.plan_schema import plan_schema
from onnxslim1x1.spec import Cost

SCHEMA_FILE = Path(onnxslim1x1.__file__).parent / "schemas" / "plan.schema.json"


def planned(name, rank, **changes):
    values = {"strategy": "reduce", "error": 0.1, "before": Cost(params=9, macs=90), "after": Cost(params=3, macs=30)}
    return PlannedLayer(layer=name, ranks=(rank,), **(values | changes))


PLAN = RewritePlan(
    tool="onnxslim1x1 0.1.0", model=PlannedModel(path="net.onnx", sha256="ab" * 32), seed=3, dims={"N": 2},
    environment=Environment(cpu="Some CPU", isa=("avx", "avx2"), cores=4, block=8, onnxruntime="1.30.0", onnx="1.20.0",
                            python="3.12.1", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=2),
    budget=Budget(target_macs=0.5, ranks={"b/5x5": 16}), before=Cost(params=300, macs=3000),
    after=Cost(params=180, macs=1800), notes=("input x: free dimension N set to 1",),
    data=PlannedData(path="größe/images.npz", preprocess=preprocess("imagenet"), limit=None, images=9, sha256="c" * 64),
    layers=(planned("a/3x3", 8, speedup=1.5), planned("b/5x5", 16, strategy="spatial", weighted=True)),
    skipped=(SkippedLayer(layer="c/1x1", code="pointwise", reason="a 1x1 kernel has no positions to divide"),
             SkippedLayer(layer="fc", code="dense", reason="a dense layer has no spatial kernel to divide")))


# ---- every plan survives ----

TEXT = st.text(max_size=12)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SPECIAL = {
    float: FINITE,
    str: TEXT,
    Budget: st.builds(Budget, max_error=st.none() | st.floats(1e-9, 1), target_macs=st.none() | st.floats(1e-9, 0.999),
                      ranks=st.dictionaries(TEXT, st.integers(), max_size=3),
                      include=st.lists(TEXT, max_size=2).map(tuple), exclude=st.lists(TEXT, max_size=2).map(tuple)),
    Preprocess: st.builds(preprocess, st.none() | st.sampled_from(sorted(PRESETS)),
                          resize=st.none() | st.integers(300, 999) | st.tuples(st.integers(300, 999), st.just(400)),
                          std=st.none() | st.floats(1e-3, 9).map(lambda value: (value,)),
                          channel_order=st.sampled_from(["rgb", "bgr"])),
}


def anything(kind):
    """Values of a type as the fields of a plan have them, so that new fields are tried without further work."""
    if kind in SPECIAL:
        return SPECIAL[kind]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: anything(hints[f.name]) for f in fields(kind) if f.name != "schema_version"})
    inner = [anything(each) for each in get_args(kind) if each is not Ellipsis]
    if get_origin(kind) is tuple:
        return st.lists(inner[0], max_size=3).map(tuple) if Ellipsis in get_args(kind) else st.tuples(*inner)
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(inner)
    if get_origin(kind) in (dict, Mapping):
        return st.dictionaries(*inner, max_size=3)
    return st.from_type(kind)


@given(plan=anything(RewritePlan))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                                 HealthCheck.too_slow])
def test_any_plan_survives(tmp_path, plan):
    save_plan(plan, tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert plan_text(again) == plan_text(plan)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_an_editor_did_to_it_there_is_one_line_about_it(tmp_path, data):
    text = plan_text(PLAN)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 60, len(text))))
    path = tmp_path / "plan.json"
    typed = data.draw(st.text(max_size=5) | st.sampled_from(["NaN", "1e999", "{", "[", "null", ""]))
    path.write_text(text[:start] + typed + text[end:], encoding="utf-8")
    try:
        assert isinstance(load_plan(path), RewritePlan)
    except PlanMismatchError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 400


# ---- what it looks like ----

def test_a_plan_is_easy_to_read():
    text = plan_text(PLAN)
    lines = text.splitlines()
    assert text.endswith("}\n")
    assert max(map(len, lines)) <= 120
    assert len(lines) < 100
    assert '  "seed": 3,' in lines
    assert '      "ranks": [8],' in lines
    assert '    {"layer": "c/1x1", "code": "pointwise", "reason": "a 1x1 kernel has no positions to divide"},' in lines
    assert '  "model": {"path": "net.onnx", "sha256": "' + "ab" * 32 + '"},' in lines
    assert '    "path": "größe/images.npz",' in lines
    assert not any(line != line.rstrip() for line in lines)


def test_keys_stand_in_the_order_of_the_fields():
    found = json.loads(plan_text(PLAN))
    assert list(found) == [f.name for f in fields(RewritePlan)]
    assert next(iter(found)) == "schema_version"
    assert list(found["layers"][0]) == [f.name for f in fields(PlannedLayer)]
    assert [x["layer"] for x in found["layers"]] == ["a/3x3", "b/5x5"]


def test_long_lists_of_values_fill_their_lines():
    isa = tuple(f"instruction_set_{i}" for i in range(30))
    text = plan_text(replace(PLAN, environment=replace(PLAN.environment, isa=isa)))
    lines = [line for line in text.splitlines() if "instruction_set" in line]
    assert 4 <= len(lines) <= 7
    assert max(map(len, text.splitlines())) <= 120
    assert tuple(json.loads(text)["environment"]["isa"]) == isa


def test_numbers_of_numpy_are_numbers(tmp_path):
    layer = planned("a", 8, error=np.float64(0.25), speedup=np.float32(0.5), weighted=np.bool_(True))
    save_plan(replace(PLAN, layers=(layer,), skipped=()), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").layers == (planned("a", 8, error=0.25, speedup=0.5, weighted=True),)


def test_a_path_that_is_no_text_does_not_keep_a_plan_from_being_written(tmp_path):
    data = replace(PLAN.data, path="images\udcff.npz")  # how Python spells a byte that is no UTF-8
    save_plan(replace(PLAN, data=data), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").data.path == "images?.npz"


def test_a_plan_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"plan\.json: cannot be written"):
        save_plan(PLAN, tmp_path / "missing" / "plan.json")


# ---- what is refused ----

def changed(edit):
    document = json.loads(plan_text(PLAN))
    edit(document)
    return json.dumps(document, indent=2)


def first(**changes):
    return lambda document: document["layers"][0].update(changes)


def without(*steps):
    def edit(document):
        *way, last = steps
        for step in way:
            document = document[step]
        del document[last]
    return edit


def renamed(old, new, *steps):
    def edit(document):
        for step in steps:
            document = document[step]
        document[new] = document.pop(old)
    return edit


EDITS = [
    (first(ranks=[8.5]), r"layers\[0\]\.ranks\[0\]: must be an integer, not 8\.5"),
    (first(ranks=[8.0]), r"layers\[0\]\.ranks\[0\]: must be an integer, not 8\.0"),
    (first(ranks=["8"]), r'layers\[0\]\.ranks\[0\]: must be an integer, not "8"'),
    (first(ranks=[True]), r"layers\[0\]\.ranks\[0\]: must be an integer, not true"),
    (first(ranks=8), r"layers\[0\]\.ranks: must be a list, not 8"),
    (first(ranks=None), r"layers\[0\]\.ranks: must be a list, not null"),
    (first(layer=3), r"layers\[0\]\.layer: must be a string, not 3"),
    (first(weighted="yes"), r'layers\[0\]\.weighted: must be a boolean, not "yes"'),
    (first(error="small"), r'layers\[0\]\.error: must be a number, not "small"'),
    (first(error=float("nan")), r"layers\[0\]\.error: must be a finite number, not NaN"),
    (first(speedup=float("inf")), r"layers\[0\]\.speedup: must be a finite number, not Infinity"),
    (first(before=[1, 2]), r"layers\[0\]\.before: must be an object, not \[1, 2\]"),
    (first(reason="because " * 30), r"layers\[0\]\.reason: unknown key; "),
    (without("layers", 1, "ranks"), r"layers\[1\]\.ranks: is missing$"),
    (without("layers"), "layers: is missing$"),
    (without("data", "preprocess"), r"data\.preprocess: is missing$"),
    (without("schema_version"), "schema_version: is missing; give a file that onnxslim1x1 plan wrote"),
    (renamed("ranks", "rank", "layers", 1), r"layers\[1\]\.rank: unknown key; did you mean ranks\? \(and 1 more\)"),
    (renamed("seed", "sead"), r"sead: unknown key; did you mean seed"),
    (renamed("threads", "thread", "environment"), r"environment\.thread: unknown key; did you mean threads\?"),
    (renamed("mean", "means", "data", "preprocess"), r"data\.preprocess\.means: unknown key; did you mean mean\?"),
    (lambda d: d.update(colour="red"), "colour: unknown key; choose from schema_version, tool, "),
    (lambda d: d.update(schema_version=2), "schema_version: 2 is newer than 1, .*; upgrade onnxslim1x1$"),
    (lambda d: d.update(schema_version=0), "schema_version: 0 is not 1, .*; make the plan again$"),
    (lambda d: d.update(schema_version="1"), 'schema_version: must be an integer, not "1"'),
    (lambda d: d.update(schema_version=True), "schema_version: must be an integer, not true"),
    (lambda d: d.update(layers={"a": 1}), r'layers: must be a list, not \{"a": 1\}'),
    (lambda d: d.update(layers=["a/3x3"]), r'layers\[0\]: must be an object, not "a/3x3"'),
    (lambda d: d.update(layers=[["x" * 500]]), r'layers\[0\]: must be an object, not \["x{35}\.\.\.$'),
    (lambda d: d["dims"].update(N="two"), r'dims\.N: must be an integer, not "two"'),
    (lambda d: d["budget"].update(max_error=2), r"budget: --max-error 2: must lie in \(0, 1\]"),
    (lambda d: d["data"]["preprocess"].update(layout="chw"), r"data\.preprocess: --layout chw: unknown; did you mean"),
    (lambda d: d["data"]["preprocess"].update(resize="a"), r'data\.preprocess\.resize: must be an integer, not "a"$'),
    (lambda d: d["data"].update(limit=1.5), r"data\.limit: must be an integer, not 1\.5"),
    (lambda d: d["model"].update(sha256=None), r"model\.sha256: must be a string, not null"),
]
TEXTS = [
    ("", "the file is empty; make the plan again"), (" \n\t\n", "the file is empty"), ("[]", "must be an object, not "),
    ("null", "must be an object, not null"), ("3", "must be an object, not 3"), ("{}", "schema_version: is missing"),
    ("no plan", r"line 1, column 1: is not valid JSON \(Expecting value\)"),
    (plan_text(PLAN)[:500], r"line \d+, column \d+: is not valid JSON"),
    (plan_text(PLAN) + "}", r"line \d+, column \d+: is not valid JSON \(Extra data\)"),
    ("// mine\n" + plan_text(PLAN), "line 1, column 1: is not valid JSON"),
    (plan_text(PLAN).replace('"ranks": [8],', '"ranks": [8]'), r"line \d+, column 7: is not valid JSON \(Expec"),
    (plan_text(PLAN).replace('"ranks": [8],', '"ranks": [8], "ranks": [4],'), r"is no plan \(the key ranks stands tw"),
    (plan_text(PLAN).replace('"ranks": [8]', '"ranks": [1e999]'), r"layers\[0\]\.ranks\[0\]: must be an integer"),
    (plan_text(PLAN).replace("[8]", f"[{'9' * 5000}]"), r"is no plan \(Exceeds the limit \(4300 digits\)"),
    (plan_text(PLAN).replace("a/3x3", r"\ud800"), "is not valid JSON"), ("[" * 100_000, r"is no plan \(thousands of"),
]


@pytest.mark.parametrize(("text", "message"), [*((changed(edit), message) for edit, message in EDITS), *TEXTS],
                         ids=lambda value: value[:40] if "{" not in value else "")
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanMismatchError, match=rf"plan\.json: {message}") as caught:
        load_plan(path)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_files_that_are_no_plans(tmp_path):
    binary = tmp_path / "net.onnx"
    binary.write_bytes(np.random.default_rng(0).bytes(300))
    cases = ((binary, "is no text, but a plan is a JSON file"), (tmp_path / "missing.json", "no such file"),
             (tmp_path, "is a directory, not a plan"), (tmp_path / ("x" * 400), "cannot be read|no such file"))
    for path, message in cases:
        with pytest.raises(PlanMismatchError, match=message) as caught:
            load_plan(path)
        assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(PlanMismatchError, match="no such file"):
        load_plan(str(tmp_path / "missing.json"))


@pytest.mark.parametrize("edit", [
    without("layers", 0, "speedup"), without("layers", 0, "weighted"), without("notes"), without("dims"),
    without("input_shapes"), first(error=1), first(speedup=None), lambda d: d.update(data=None),
    lambda d: d["model"].update(path=None)])
def test_what_may_be_left_out_and_what_may_be_null(tmp_path, edit):
    path = tmp_path / "plan.json"
    path.write_text(changed(edit), encoding="utf-8")
    assert load_plan(path).layers[1] == PLAN.layers[1]


def test_a_byte_order_mark_and_other_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xef\xbb\xbf" + plan_text(PLAN).replace("\n", "\r\n").encode())
    assert load_plan(path) == PLAN


# ---- the schema ----

def test_the_published_schema_is_what_the_code_means():
    published = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert published == plan_schema(), "run: python scripts/write_schema.py"


def test_the_schema_knows_every_key_and_explains_it():
    schema = plan_schema()
    parts = {"RewritePlan": schema, **schema["$defs"]}
    for kind in (RewritePlan, PlannedLayer, SkippedLayer, PlannedModel, PlannedData, Budget, Environment, Preprocess,
                 Cost):
        part = parts[kind.__name__]
        assert list(part["properties"]) == [f.name for f in fields(kind)]
        assert part["additionalProperties"] is False
        assert part["description"]
        if kind is not Cost:
            assert all(p.get("description") for p in part["properties"].values()), kind
    assert schema["properties"]["schema_version"]["const"] == PLAN.schema_version
    assert "schema_version" in schema["required"]
    assert "None" not in json.dumps(schema)


def test_the_schema_stays_the_same_however_often_it_is_asked_for():
    before = copy.deepcopy(plan_schema())
    assert plan_schema() == before
