"""What a pipeline wants to know: which promises hold, and where errors come from."""

import dataclasses
import math

import pytest

from onnxslim1x1.report.outcome import judgement
from onnxslim1x1.runtime.verdict import Gate


def test_an_outcome_passes_if_all_its_gates_do(passed, broken, unchanged):
    assert (passed.passed, passed.failed, passed.title) == (True, (), "onnxslim1x1 slim: passed")
    assert [gate.name for gate in broken.failed] == ["max_drop", "min_speedup"]
    assert (broken.passed, broken.title) == (False, "onnxslim1x1 validate: accuracy and latency FAILED")
    assert unchanged.passed
    assert dataclasses.replace(broken, report=None).passed


def test_layers_are_blamed_only_for_a_broken_promise_about_accuracy(broken):
    assert [layer.node for layer in broken.regressed] == ["n3", "n1"]  # worst first; n2 only passes on what it is fed
    held = dataclasses.replace(broken.report, gates=())
    assert dataclasses.replace(broken, report=held).regressed == ()
    slow = dataclasses.replace(broken.report, gates=broken.report.gates[1:])
    assert dataclasses.replace(broken, report=slow).regressed == ()
    assert dataclasses.replace(broken, report=None).regressed == ()


@pytest.mark.parametrize(("name", "value", "text"), [
    ("max_drop", 0.25, "max_drop is 0.25, at most 0.01 was promised"),
    ("min_agreement", 0.5, "min_agreement is 0.5, at least 0.01 was promised"),
    ("min_snr_db", None, "min_snr_db could not be measured, at least 0.01 was promised"),
    ("min_snr_db", math.inf, "min_snr_db is infinite, at least 0.01 was promised")])
def test_a_gate_is_a_sentence(name, value, text):
    assert judgement(Gate(name=name, bound=0.01, value=value, passed=False, kind="accuracy")) == text
