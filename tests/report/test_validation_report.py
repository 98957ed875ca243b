"""A validation as tables, lines and JSON: nothing cut off at 80 columns, every number a number."""

import dataclasses
import json
import math

import pytest

from onnxslim1x1.report.style import Table, lines_of
from onnxslim1x1.report.validation import (
    before_and_after,
    gate_lines,
    validation_json,
    validation_report,
    verdict_line,
)
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.compare import Classification, Mismatch, OutputDiff
from onnxslim1x1.runtime.verdict import CheckResult, Gate, ValidationReport
from onnxslim1x1.spec import Cost


def latency(median):
    return Latency(median_s=median, p10_s=0.93 * median, p90_s=1.37 * median, runs=143,
                   provider="CPUExecutionProvider", threads=1)


def comparison(speedup=1.87, low=1.83, high=1.95, noise=(0.97, 1.04)):
    return LatencyComparison(original=latency(0.0234), rewritten=latency(0.0234 / speedup), speedup=speedup,
                             speedup_low=low, speedup_high=high, noise_low=noise[0], noise_high=noise[1])


def output(name="logits", **changes):
    figures = {"max_abs": 0.272, "mean_abs": 3.25e-2, "max_rel": 0.257, "mean_rel": 3.08e-2, "cosine": 0.999778,
               "snr_db": 31.14, "nan_count_original": 0, "nan_count_rewritten": 0, "nan_count_new": 0}
    return OutputDiff(name=name, shape=(16, 10), dtype="float32", **(figures | changes))


CLASSES = Classification(output="logits", images=450, classes=1000, agreement=0.9876, kl=0.00123, top1_original=0.7654,
                         top1_rewritten=0.7632, top1_drop=0.0022, top5_original=0.9321, top5_rewritten=0.9333,
                         nonfinite_original=0, nonfinite_rewritten=0)


def report(**changes):
    values = {"checker": CheckResult(original_ok=True, rewritten_ok=True, message=""), "mismatches": (),
              "outputs": (output(),), "classification": CLASSES, "latencies": (comparison(),),
              "size_original_bytes": 102_450_123, "size_rewritten_bytes": 46_712_000, "images": 450,
              "data": "digits_evaluation.npz", "cost_original": Cost(params=25_557_032, macs=4_089_184_256),
              "cost_rewritten": Cost(params=11_633_000, macs=1_999_000_000),
              "gates": (Gate(name="checker", bound=0.0, value=0.0, passed=True, kind="accuracy"),
                        Gate(name="max_drop", bound=0.01, value=0.0022, passed=True, kind="accuracy"))}
    return ValidationReport(**(values | changes))


def rendered(parts, width):
    return [line for part in parts for line in lines_of(part, width)]


def assert_numbers_are_whole(table, width):
    """Every header and cell but those of the first column is shown in full."""
    lines = rendered([table], width)
    assert max(map(len, lines)) <= width
    headers = [str(column.header) for column in table.columns]
    rows = [headers, *zip(*(map(str, column.cells) for column in table.columns), strict=True)]
    for row, line in zip(rows, [lines[0], *lines[2:]], strict=True):
        expected = [word for cell in row[1:] for word in cell.split()]
        assert line.split()[len(line.split()) - len(expected):] == expected, line


NAMES = ["logits", "InceptionV4/Logits/Predictions", "/head/classifier/classifier.6/Gemm_output_0", "y"]


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("data", [
    "digits_evaluation.npz", "random inputs, seed 0", "random inputs, seed 4294967295",
    "ILSVRC2012_img_val_subset_50k_resized_to_256_without_duplicates.npz"])
@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_tables_fit(width, data, names):
    extreme = {"max_abs": 1.23e-38, "mean_abs": math.inf, "max_rel": 9.99e+30, "snr_db": -math.inf, "cosine": -0.5,
               "nan_count_rewritten": 160}
    found = report(data=data, outputs=tuple(output(n, **(extreme if i else {})) for i, n in enumerate(names)))
    parts = validation_report(found)
    assert max(map(len, rendered(parts, width))) <= width
    tables = [part for part in parts if isinstance(part, Table)]
    assert len(tables) == 2
    for table in tables:
        assert_numbers_are_whole(table, width)


def test_outputs_with_long_names_can_be_told_apart():
    names = [f"/backbone/features/stage{i}/last_hidden_state_output_0" for i in range(3)]
    text = rendered(validation_report(report(outputs=tuple(map(output, names)))), 80)
    shown = [line.split()[0] for line in text if line.startswith("…")]
    assert len(set(shown)) == 3


def rows(found):
    table = before_and_after(found)
    return {cells[0]: list(cells[1:]) for cells in zip(*(column.cells for column in table.columns), strict=True)}


def test_before_and_after():
    assert rows(report()) == {
        "MACs": ["4.09G", "2G", "2.05x less"], "parameters": ["25.6M", "11.6M", "2.20x less"],
        "file size": ["102 MB", "46.7 MB", "2.19x less"],
        "latency, median": ["23.4 ms", "12.5 ms", "1.87x less"], "latency, p10": ["21.8 ms", "11.6 ms", "1.87x less"],
        "latency, p90": ["32.1 ms", "17.1 ms", "1.87x less"],
        "top-1": ["76.54%", "76.32%", "-0.22 points"], "top-5": ["93.21%", "93.33%", "+0.12 points"],
        "same class": ["", "98.76%", ""], "KL divergence": ["", "0.0012 nats", ""]}


def test_what_became_larger_is_more():
    found = rows(report(size_rewritten_bytes=204_900_246, latencies=(comparison(0.8, 0.7, 0.9),)))
    assert found["file size"][2] == "2.00x more"
    assert found["latency, median"][2] == "1.25x more"


@pytest.mark.parametrize(("changes", "gone"), [
    ({"cost_original": None}, {"MACs", "parameters"}), ({"cost_rewritten": None}, {"MACs", "parameters"}),
    ({"latencies": ()}, {"latency, median", "latency, p10", "latency, p90"}),
    ({"classification": None}, {"top-1", "top-5", "same class", "KL divergence"}),
    ({"classification": dataclasses.replace(CLASSES, top1_original=None, top1_rewritten=None)}, {"top-1"}),
    ({"classification": dataclasses.replace(CLASSES, top5_original=None, top5_rewritten=None)}, {"top-5"})])
def test_what_is_not_known_is_not_shown(changes, gone):
    assert set(rows(report())) - set(rows(report(**changes))) == gone


def test_classes_without_probabilities():
    found = rows(report(classification=dataclasses.replace(CLASSES, kl=None)))
    assert found["KL divergence"] == ["", "-", ""]


# ---- lines ----

@pytest.mark.parametrize(("gate", "line"), [
    (Gate(name="checker", bound=0.0, value=0.0, passed=True, kind="accuracy"), None),
    (Gate(name="interface", bound=0.0, value=0.0, passed=True, kind="accuracy"), None),
    (Gate(name="finite", bound=0.0, value=0.0, passed=True, kind="accuracy"), None),
    (Gate(name="checker", bound=0.0, value=1.0, passed=False, kind="accuracy"),
     "gate ONNX checker: FAILED (1, bound 0)"),
    (Gate(name="interface", bound=0.0, value=2.0, passed=False, kind="accuracy"),
     "gate inputs and outputs match: FAILED (2, bound 0)"),
    (Gate(name="finite", bound=0.0, value=17.0, passed=False, kind="accuracy"),
     "gate no new NaN or infinity: FAILED (17, bound 0)"),
    (Gate(name="max_drop", bound=0.01, value=0.0022, passed=True, kind="accuracy"),
     "gate max_drop: passed (0.0022, bound 0.01)"),
    (Gate(name="min_snr_db", bound=30, value=29.96, passed=False, kind="accuracy"),
     "gate min_snr_db: FAILED (29.96, bound 30)"),
    (Gate(name="min_agreement", bound=0.99, value=None, passed=False, kind="accuracy"),
     "gate min_agreement: FAILED (-, bound 0.99)"),
    (Gate(name="min_speedup", bound=1000, value=1.874, passed=False, kind="latency"),
     "gate min_speedup: FAILED (1.874, bound 1000)")])
def test_gates(gate, line):
    assert gate_lines((gate,)) == ([] if line is None else [line])


@pytest.mark.parametrize(("latency", "start"), [
    (comparison(), "faster: 1.87x, 95 % interval 1.83 to 1.95; noise floor"),
    (comparison(1.02, 0.98, 1.06), "no difference shown: 1.02x, 95 % interval 0.98 to 1.06"),
    (comparison(1.02, 1.01, 1.03), "no difference shown: 1.02x"),  # within the noise floor of 1.04
    (comparison(0.8, 0.75, 0.85), "slower: 0.80x, 95 % interval 0.75 to 0.85"),
    (None, "latency was not measured")])
def test_the_verdict(latency, start):
    line = verdict_line(report(latencies=(latency,) if latency else ()))
    assert line.startswith(start)
    if latency:
        assert line.endswith("0.97 to 1.04; 143 runs each")


def test_mismatches_and_the_checker_are_told():
    found = report(mismatches=(Mismatch(name="aux", code="missing_output", reason="the rewritten model has none"),),
                   checker=CheckResult(original_ok=True, rewritten_ok=False, message="rewritten: bad node"))
    lines = rendered(validation_report(found), 80)
    assert "aux: the rewritten model has none (missing_output)" in lines
    assert "ONNX checker: rewritten: bad node" in lines
    assert not any(line.startswith("ONNX checker") for line in rendered(validation_report(report()), 80))


def test_without_outputs_in_common():
    found = report(outputs=(), classification=None, latencies=())
    assert "SNR" not in "".join(rendered(validation_report(found), 80))


# ---- JSON ----

def strict_json(found):
    return json.loads(json.dumps(validation_json(found), allow_nan=False))


def test_json_numbers_are_numbers():
    found = strict_json(report())
    assert found["passed"] is True
    assert found["images"] == 450
    assert found["data"] == "digits_evaluation.npz"
    assert found["latencies"][0]["verdict"] == "faster"
    assert (found["latencies"][0]["speedup"], found["latencies"][0]["original"]["runs"]) == (1.87, 143)
    assert found["classification"]["top1_original"] == 0.7654
    assert found["outputs"][0]["cosine"] == 0.999778
    assert found["outputs"][0]["shape"] == [16, 10]
    assert found["gates"][1] == {"name": "max_drop", "bound": 0.01, "value": 0.0022, "passed": True,
                                 "kind": "accuracy", "confidence": None}
    assert (found["size_original_bytes"], found["size_rewritten_bytes"]) == (102_450_123, 46_712_000)
    assert found["cost_original"] == {"params": 25_557_032, "macs": 4_089_184_256}
    assert found["checker"] == {"original_ok": True, "rewritten_ok": True, "message": ""}


def test_json_of_identical_and_of_broken_outputs_is_strict():
    found = strict_json(report(outputs=(output("same", snr_db=math.inf), output("lost", snr_db=-math.inf,
                                                                               max_rel=math.nan))))
    assert [o["snr_db"] for o in found["outputs"]] == [None, None]
    assert found["outputs"][1]["max_rel"] is None


@pytest.mark.parametrize(("kind", "passed"), [("accuracy", False), ("latency", False), ("accuracy", True)])
def test_json_says_whether_every_promise_holds(kind, passed):
    gate = Gate(name="some", bound=1.0, value=0.5, passed=passed, kind=kind)
    assert strict_json(report(gates=(*report().gates, gate)))["passed"] is passed


def test_json_without_a_latency():
    found = strict_json(report(latencies=(), classification=None, cost_original=None))
    assert (found["latencies"], found["classification"], found["cost_original"]) == ([], None, None)
