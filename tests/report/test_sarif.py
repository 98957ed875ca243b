"""SARIF: it fits the published schema, and points at layers."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from onnxslim1x1.report.sarif import sarif_document

SCHEMA = json.loads((Path(__file__).resolve().parents[1] / "data" / "sarif-2.1.0-rtm.5.json").read_text())


def run_of(outcome):
    """The only run, after the document was found to fit the schema."""
    document = json.loads(json.dumps(sarif_document(outcome)))
    jsonschema.Draft4Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)
    run, = document["runs"]
    return run


def layer(result):
    places = result["locations"][0].get("logicalLocations")
    return places and places[0]["fullyQualifiedName"]


def test_the_schema_can_say_no(passed):
    document = sarif_document(passed)
    document["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate(document)


def test_declined_layers_are_notes(passed):
    run = run_of(passed)
    assert [(r["ruleId"], r["level"], layer(r)) for r in run["results"]] == [
        (f"declined/{x.code}", "note", x.layer) for x in passed.declined]
    assert all(r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/net.onnx"
               for r in run["results"])


def test_broken_promises_and_regressed_layers_are_errors(broken):
    run = run_of(broken)
    assert [(r["ruleId"], r["level"], layer(r)) for r in run["results"]] == [
        ("gate/max_drop", "error", None), ("gate/min_speedup", "error", None),
        ("regressed-layer", "error", "n3"), ("regressed-layer", "error", "n1")]
    assert run["results"][0]["message"]["text"] == "max_drop is 0.25, at most 0.01 was promised"
    assert run["results"][2]["message"]["text"] == "n3 (Conv): relative error 0.9, 17.0 dB"


def test_every_result_has_its_rule_once(passed, broken):
    for outcome in (passed, broken):
        run = run_of(outcome)
        rules = run["tool"]["driver"]["rules"]
        assert len({rule["id"] for rule in rules}) == len(rules)
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]


def test_results_can_be_followed_from_run_to_run(broken):
    prints = [r["partialFingerprints"]["ruleAndLayer/v1"] for r in run_of(broken)["results"]]
    assert len(set(prints)) == len(prints)
    again = dataclasses.replace(broken, report=dataclasses.replace(broken.report, size_rewritten_bytes=1))
    assert [r["partialFingerprints"]["ruleAndLayer/v1"] for r in run_of(again)["results"]] == prints


@pytest.mark.parametrize(("name", "uri"), [("slim ü.onnx", "slim%20%C3%BC.onnx"), ("/abs/a b.onnx",
                                            "file:///abs/a%20b.onnx"), ("./a/../b.onnx", "a/../b.onnx")])
def test_paths_become_uris(name, uri, broken):
    result = run_of(dataclasses.replace(broken, rewritten=name))["results"][0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_where_all_is_well_there_is_nothing_to_say(unchanged):
    assert run_of(unchanged)["results"] == []
