"""JUnit XML: it fits the published schema of Jenkins, and says which promise is broken."""

import dataclasses
import re
from pathlib import Path

import pytest
import xmlschema
from junitparser import JUnitXml

from onnxslim1x1.report.junit import junit_text
from onnxslim1x1.runtime.verdict import Gate

SCHEMA = xmlschema.XMLSchema(Path(__file__).resolve().parents[1] / "data" / "junit-10.xsd")


def parsed(outcome):
    """The only suite, after it was found to fit the schema."""
    text = junit_text(outcome).decode("utf-8")
    SCHEMA.validate(text)
    suites = list(JUnitXml.fromstring(text.encode()))
    assert len(suites) == 1
    return suites[0]


def test_every_gate_is_a_test(broken, passed):
    suite = parsed(broken)
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == (
        "onnxslim1x1 validate", 2, 2, 0, 0)
    assert [(c.name, c.classname, c.result[0].type, c.result[0].message) for c in suite] == [
        ("max_drop", "onnxslim1x1.validate.accuracy", "accuracy", "max_drop is 0.25, at most 0.01 was promised"),
        ("min_speedup", "onnxslim1x1.validate.latency", "latency",
         "min_speedup could not be measured, at least 1.2 was promised")]
    suite = parsed(passed)
    assert (suite.tests, suite.failures, suite.skipped) == (3, 0, 0)
    assert [c.name for c in suite] == ["checker", "max_drop", "rewritten"]
    assert all(c.is_passed for c in suite)
    assert "block/wide: reduce 16" in list(suite)[2].system_out


def test_a_model_that_is_left_alone_is_a_skipped_test(unchanged):
    suite = parsed(unchanged)
    assert (suite.tests, suite.failures, suite.skipped) == (3, 0, 1)
    assert list(suite)[2].result[0].message == "no layer is worth rewriting"


def test_models_verdict_and_warnings_are_properties(passed):
    found = {p.name: p.value for p in parsed(passed).properties()}
    assert (found["original"], found["rewritten"], found["images"]) == ("models/net.onnx", "models/slim.onnx", "450")
    assert found["latency"].startswith("faster: 1.80x")
    assert found["warning 1"].startswith("input x: 100 % of N,")


def test_without_a_comparison_there_are_no_gates(passed):
    suite = parsed(dataclasses.replace(passed, report=None))
    assert [c.name for c in suite] == ["rewritten"]


@pytest.mark.parametrize("text", ["a\x00b\x1b[31m", "\ud800", "\ufffe", "]]>&<'\"", "ä\n\t\U0001f600"])
def test_any_name_makes_good_xml(text, broken, validation):
    gate = Gate(name=text, bound=0.0, value=None, passed=False, kind="accuracy")
    outcome = dataclasses.replace(broken, original=text, report=validation(gates=(gate,), data=text))
    case, = parsed(outcome)
    assert case.name.split() == re.sub("[\x00\x1b\ud800\ufffe]", "?", text).split()
