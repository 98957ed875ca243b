"""JSON documents of validations: complete, with a published schema, and read again as they were written."""

import copy
import json
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import jsonschema
import pytest

import onnxslim1x1
from onnxslim1x1.errors import DataError
from onnxslim1x1.report import validation_records
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.report.documents import load_document, record, validation_schema
from onnxslim1x1.runtime.benchmark import LatencyComparison
from onnxslim1x1.runtime.compare import OutputDiff
from onnxslim1x1.runtime.evidence import Figure, Footprint, LayerError, Shifted, WorstSample
from onnxslim1x1.runtime.verdict import ValidationReport

SCHEMA_FILE = Path(onnxslim1x1.__file__).parent / "schemas" / "validation.schema.json"
MIRRORS = {  # a value, its record, and what the record says besides
    ValidationReport: (validation_records.ValidationRecord, {"passed", "warnings"}),
    LatencyComparison: (validation_records.LatencyRecord, {"verdict"}),
    OutputDiff: (validation_records.OutputRecord, set()), Figure: (validation_records.FigureRecord, set()),
    LayerError: (validation_records.LayerErrorRecord, set()), Shifted: (validation_records.ShiftedRecord, set()),
    WorstSample: (validation_records.WorstRecord, set())}


@pytest.fixture(params=["everything", "failed", "slim", "unvalidated"])
def document(request, judged, failed, as_validated, as_slimmed):
    made = {"everything": lambda: as_validated(judged), "failed": lambda: as_validated(failed),
            "slim": lambda: as_slimmed(judged), "unvalidated": lambda: as_slimmed(None, output=None, environment=None)}
    return made[request.param]()


@cache
def validator():
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


# ---- completeness ----

@pytest.mark.parametrize("value", MIRRORS, ids=lambda kind: kind.__name__)
def test_records_have_every_field_of_the_values(value):
    mirror, more = MIRRORS[value]
    assert {f.name for f in fields(mirror)} == {f.name for f in fields(value)} | more, (
        f"{value.__name__} has other fields than {mirror.__name__}: change the record, run scripts/write_schema.py and "
        "show what is new")


def test_json_holds_everything_that_was_found(judged, as_validated):
    found = as_validated(judged)["validation"]
    assert set(found) == {f.name for f in fields(ValidationReport)} | {"passed", "warnings"}
    assert [set(x) for x in found["latencies"]] == [
        {f.name for f in fields(LatencyComparison)} | {"verdict"}] * len(judged.latencies)
    assert [x["verdict"] for x in found["latencies"]] == ["faster", "faster", "no difference shown"]
    for name in ("original", "rewritten", "again"):
        assert found["latencies"][1]["samples"][name] == list(getattr(judged.latencies[1].samples, name))
    for kind, key in ((Figure, "figures"), (LayerError, "layers"), (Shifted, "shifts"), (WorstSample, "worst")):
        values = getattr(judged, key)
        assert len(found[key]) == len(values) > 3
        assert set(found[key][0]) == {f.name for f in fields(kind)}
    assert found["figures"][0]["p_value"] == judged.figures[0].p_value
    assert found["shifts"][1]["figure"]["original"] == judged.shifts[1].figure.original
    assert found["footprints"][1] == {f.name: getattr(judged.footprints[1], f.name) for f in fields(Footprint)}
    assert found["worst"][0]["picture"].startswith("data:image/png;base64,")


# ---- the schema ----

def test_the_published_schema_is_what_the_code_means():
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == validation_schema(), "run: scripts/write_schema.py"


def test_documents_fit_the_schema(document):
    validator().validate(document)


def places(value, path=()):
    """Every place in a document that holds an object."""
    if isinstance(value, dict):
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


FREE = ("ranks", "dims", "input_shapes")  # objects whose keys are data


def test_the_schema_refuses_every_unknown_key_and_every_missing_one(document):
    known = [p for p in places(document) if not p or p[-1] not in FREE]
    assert len(known) > 10
    for path in known[:: max(1, len(known) // 14)]:
        changed = copy.deepcopy(document)
        here = changed
        for step in path:
            here = here[step]
        here["surprise"] = 1
        assert not validator().is_valid(changed), path
        del here["surprise"]
        here.pop(next(iter(here)))
        assert not validator().is_valid(changed) or "plan" in path, path  # people may leave out defaults of plans


def test_the_schema_explains_every_key():
    parts = validation_schema()["$defs"]
    records = [kind for name, kind in vars(validation_records).items() if name.endswith("Record")]
    assert len(records) > 8
    for kind in (*records, Footprint):
        part = parts[kind.__name__]
        assert list(part["properties"]) == [f.name for f in fields(kind)]
        assert part["description"]
        assert all(p.get("description") for p in part["properties"].values()), kind
        assert part["additionalProperties"] is False
    assert "None" not in json.dumps(validation_schema())


# ---- reading ----

def test_what_was_written_is_read(document, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    found = record(load_document(path))
    assert found.command == document["command"]
    assert jsonable(found.validation) == document["validation"]
    if document["command"] == "slim":
        assert [p.layer for p in found.plan.layers] == [p["layer"] for p in document["plan"]["layers"]]


@pytest.mark.parametrize(("edit", "message"), [
    (lambda d: d.update(schema_version=2), "schema_version: 2 is newer than 1, .*; upgrade onnxslim1x1$"),
    (lambda d: d.pop("validation"), "validation: is missing; give a file that onnxslim1x1 analyze, slim or validate"),
    (lambda d: d["validation"]["layers"][1].update(rel_error="much"),
     r'validation\.layers\[1\]\.rel_error: must be a number, not "much"'),
    (lambda d: d["validation"]["figures"][2].update(hi=3), r"validation\.figures\[2\]\.hi: unknown key; did you mean"),
    (lambda d: d["validation"]["latencies"][0].update(verdict="great"), r"validation\.latencies\[0\]\.verdict: "),
    (lambda d: d["validation"].update(footprints=[]), r"validation\.footprints"),
])
def test_what_is_wrong_is_said_with_its_place(judged, as_validated, tmp_path, edit, message):
    changed = as_validated(judged)
    edit(changed)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match=rf"result\.json: {message}") as caught:
        record(load_document(path), f"{path}")
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_what_is_infinite_is_null_and_can_be_told_apart(failed, judged, as_validated):
    broken, same = as_validated(failed)["validation"]["outputs"]
    assert (broken["snr_db"], broken["max_abs"]) == (None, None)
    assert (same["snr_db"], same["max_abs"]) == (None, 0.0)
    layers = as_validated(judged)["validation"]["layers"]
    nothing, enters = layers[0], next(x for x in layers if x["rel_error"])
    assert (nothing["growth"], nothing["rel_error"], nothing["snr_db"]) == (None, 0.0, None)
    assert (enters["growth"], enters["rel_error"]) == (None, pytest.approx(0.03))


def test_warnings_are_those_of_the_report(judged, as_validated):
    made = as_validated(replace(judged, random_inputs=True))
    assert made["warnings"] == made["validation"]["warnings"]
    assert "random inputs" in made["warnings"][0]
