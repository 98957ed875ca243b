"""JSON documents of analyses: their schema is published, and what was written can be read again."""

import copy
import json
from dataclasses import fields
from functools import cache
from pathlib import Path

import jsonschema
import pytest

import onnxslim1x1
from onnxslim1x1.errors import DataError
from onnxslim1x1.report import records
from onnxslim1x1.report.documents import analysis_schema, load_document, record
from onnxslim1x1.report.views import view
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.search.analysis import Proposal
from onnxslim1x1.search.comparison import ComparedTotals, Match, Pair

SCHEMA_FILE = Path(onnxslim1x1.__file__).parent / "schemas" / "analysis.schema.json"


@pytest.fixture(params=["measured", "unmeasured", "comparison"])
def document(request, analysed, unmeasured, compared):
    models = {"measured": [analysed], "unmeasured": [unmeasured], "comparison": [compared.before, compared.after]}
    return json.loads(json.dumps(view(models[request.param], "graph", None).document(), allow_nan=False))


@cache
def validator():
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


# ---- the schema ----

def test_the_published_schema_is_what_the_code_means():
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == analysis_schema(), "run: scripts/write_schema.py"


def test_documents_fit_the_schema(document):
    validator().validate(document)


def places(value, path=()):
    """Every place in a document that holds an object."""
    if isinstance(value, dict):
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


FREE = ("by_op", "directions")  # objects whose keys are data


def test_the_schema_refuses_every_unknown_key_and_every_missing_one(document):
    known = [p for p in places(document) if not p or p[-1] not in FREE]
    assert len(known) > 10
    for path in known[:: max(1, len(known) // 12)]:
        changed = copy.deepcopy(document)
        here = changed
        for step in path:
            here = here[step]
        here["surprise"] = 1
        assert not validator().is_valid(changed), path
        del here["surprise"]
        here.pop(next(iter(here)))
        assert not validator().is_valid(changed), path


def test_the_schema_explains_every_key():
    parts = analysis_schema()["$defs"]
    for kind in (*(getattr(records, n) for n in vars(records) if n.endswith("Record") and n != "Record"), Environment,
                 Proposal, ComparedTotals, Match, Pair):
        part = parts[kind.__name__]
        assert list(part["properties"]) == [f.name for f in fields(kind)]
        assert part["description"]
        assert all(p.get("description") for p in part["properties"].values()), kind
        assert part["additionalProperties"] is False
    assert parts["AnalysisRecord"]["properties"]["schema_version"]["const"] == 1
    assert "None" not in json.dumps(analysis_schema())


# ---- reading ----

def test_what_was_written_is_read(document, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    read = load_document(path)
    assert read == document
    found = record(read)
    assert found.command == document["command"]
    model = found.before if document["command"] == "compare" else found
    source = document["before"] if document["command"] == "compare" else document
    assert [p.name for p in model.layers] == [p["name"] for p in source["layers"]]
    assert [p.spec.kernel for p in model.layers] == [tuple(p["spec"]["kernel"]) for p in source["layers"]]
    assert [p.time_s for p in model.layers] == [p["time_s"] for p in source["layers"]]


@pytest.mark.parametrize(("edit", "message"), [
    (lambda d: d.update(schema_version=2), "schema_version: 2 is newer than 1, .*; upgrade onnxslim1x1$"),
    (lambda d: d.pop("schema_version"), "schema_version: is missing; give a file that onnxslim1x1 analyze, slim or"),
    (lambda d: d.update(command="plan"), r'is no report of a model \(its command is "plan"\); give a file that'),
    (lambda d: d.pop("command"), r"is no report of a model \(its command is null\)"),
    (lambda d: d.pop("layers"), "layers: is missing; give a file"),
    (lambda d: d["layers"][1].update(macs="many"), r'layers\[1\]\.macs: must be an integer, not "many"'),
    (lambda d: d["layers"][2].update(mac=3), r"layers\[2\]\.mac: unknown key; did you mean macs"),
    (lambda d: d["layers"][0]["spec"].update(kernel=[3]), r"layers\[0\]\.spec: kernel \(3,\), stride .* do not"),
    (lambda d: d["totals"]["measured"].update(kernel_s=None), r"totals\.measured\.kernel_s: must be a number"),
])
def test_what_is_wrong_is_said_with_its_place(analysed, tmp_path, edit, message):
    changed = json.loads(json.dumps(view([analysed], "graph", None).document()))
    edit(changed)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match=rf"result\.json: {message}") as caught:
        record(load_document(path), f"{path}")
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("", "the file is empty; make it again with onnxslim1x1 analyze, slim or"), ("[]", "is no report of a model"),
    ("{}", "schema_version: is missing"), ("<html>", "line 1, column 1: is not valid JSON"),
    ("[" * 100_000, r"is no report \(thousands of brackets")])
def test_files_that_are_no_reports(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"result\.json: {message}"):
        load_document(path)
    with pytest.raises(DataError, match=r"missing\.json: no such file; onnxslim1x1 analyze, slim or validate --json"):
        load_document(tmp_path / "missing.json")
