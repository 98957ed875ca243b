"""Baselines: what was recorded, and what is slower, bigger or worse than that."""

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import pytest

import onnxslim1x1
from onnxslim1x1.errors import BaselineError
from onnxslim1x1.report.baseline import (
    Slack,
    baseline_schema,
    baseline_text,
    compared,
    load_baseline,
    recorded,
)
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.compare import Mismatch
from onnxslim1x1.runtime.hardware import Environment

SCHEMA_FILE = Path(onnxslim1x1.__file__).parent / "schemas" / "baseline.schema.json"
HERE = Environment(cpu="A", isa=("avx2",), cores=4, block=8, onnxruntime="1.30.0", onnx="1.20.0", python="3.12.1",
                   platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=1)
THERE = dataclasses.replace(HERE, cpu="B", isa=("avx512f",))


def race(speedup, half=0.02, noise=1.01):
    """A comparison with a relative half-width of its interval, and a noise floor."""
    latency = Latency(median_s=0.02, p10_s=0.02, p90_s=0.02, runs=99, provider="CPUExecutionProvider", threads=1)
    return (LatencyComparison(original=latency, rewritten=latency, speedup=speedup, speedup_low=speedup * (1 - half),
                              speedup_high=speedup * (1 + half), noise_low=1 / noise, noise_high=noise),)


def broken(report, base, environment=HERE):
    """Names of the gates of the baseline that fail; all of them must be there."""
    gates = compared(report, base, environment, "b.json").gates[len(report.gates):]
    assert len(gates) == 1 + (base.speed is not None) + len(base.figures)
    return {gate.name for gate in gates if not gate.passed}


def with_output(report, **changes):
    return dataclasses.replace(report, outputs=(dataclasses.replace(report.outputs[0], **changes),))


def with_classes(report, **changes):
    return dataclasses.replace(report, classification=dataclasses.replace(report.classification, **changes))


# ---- the same again ----

def test_a_validation_is_not_worse_than_itself(validation):
    base = recorded(validation(), HERE)
    assert broken(validation(), base) == set()
    assert [f.name for f in base.figures] == ["top1", "top5", "agreement", "kl", "snr_db[logits]"]


def test_gates_are_added_to_those_that_are_there(validation):
    report = validation()
    found = compared(report, recorded(report, HERE), HERE, "b.json")
    assert found.gates[:2] == report.gates
    assert {g.name: g.kind for g in found.gates[2:]} == {
        "max_file_bytes_of_baseline": "latency", "min_speedup_of_baseline": "latency",
        "min_top1_of_baseline": "accuracy", "min_top5_of_baseline": "accuracy", "min_agreement_of_baseline": "accuracy",
        "max_kl_of_baseline": "accuracy", "min_snr_db[logits]_of_baseline": "accuracy"}
    assert dataclasses.replace(found, gates=report.gates) == report


# ---- worse ----

@pytest.mark.parametrize(("change", "gate"), [
    (lambda r: with_classes(r, top1_rewritten=0.75), "min_top1_of_baseline"),
    (lambda r: with_classes(r, agreement=0.97), "min_agreement_of_baseline"),
    (lambda r: with_classes(r, kl=0.02), "max_kl_of_baseline"),
    (lambda r: with_output(r, snr_db=28.0), "min_snr_db[logits]_of_baseline"),
    (lambda r: with_output(r, snr_db=-math.inf), "min_snr_db[logits]_of_baseline"),
    (lambda r: dataclasses.replace(r, size_rewritten_bytes=1_050_001), "max_file_bytes_of_baseline"),
    (lambda r: dataclasses.replace(r, latencies=race(1.5)), "min_speedup_of_baseline"),
    (lambda r: dataclasses.replace(r, latencies=()), "min_speedup_of_baseline")])
def test_what_is_worse_fails_alone(change, gate, validation):
    assert broken(change(validation()), recorded(validation(), HERE)) == {gate}


@pytest.mark.parametrize("change", [
    lambda r: with_classes(r, top1_rewritten=0.7532), lambda r: with_classes(r, kl=0.011),
    lambda r: with_output(r, snr_db=28.5), lambda r: dataclasses.replace(r, size_rewritten_bytes=1_050_000),
    lambda r: with_classes(r, top1_rewritten=0.99, kl=0.0), lambda r: with_output(r, snr_db=math.inf),
    lambda r: dataclasses.replace(r, size_rewritten_bytes=10, latencies=race(9.0))])
def test_slack_and_improvements_pass(change, validation):
    assert broken(change(validation()), recorded(validation(), HERE)) == set()


def test_figures_by_task_take_the_place_of_classes(validation, figures):
    report = validation(figures=figures)
    base = recorded(report, HERE)
    assert {f.name: f.value for f in base.figures} == {
        "top1": 0.9, "kl": 0.02, "psnr[logits]": 40.0, "psnr[mask]": 30.0, "angle": 2.0, "snr_db[logits]": 31.5}
    assert broken(report, base) == set()
    worse = dataclasses.replace(report, figures=(*figures[:4], dataclasses.replace(figures[4], value=2.21)))
    assert broken(worse, base) == {"max_angle_of_baseline"}
    gone = dataclasses.replace(report, figures=figures[:4])
    assert broken(gone, base) == {"max_angle_of_baseline"}


def test_identical_outputs_are_recorded_as_a_number(validation):
    base = recorded(with_output(validation(), snr_db=math.inf), HERE)
    assert base.figures[-1].value == 60.0
    assert broken(with_output(validation(), snr_db=58.0), base) == set()
    assert broken(with_output(validation(), snr_db=56.0), base) == {"min_snr_db[logits]_of_baseline"}


# ---- latency ----

@pytest.mark.parametrize(("now", "slower"), [
    (race(1.80), False), (race(1.70), False), (race(1.63), False), (race(1.60), True), (race(1.0), True),
    (race(1.60, half=0.10), False),  # too wide an interval to say
    (race(1.60, noise=1.06), False), (race(1.52, noise=1.06), True)])  # too noisy a machine to say
def test_slower_is_said_only_beyond_intervals_noise_and_slack(now, slower, validation):
    """1.80 was recorded, not less than 1.764; less 5 % and 1 % of noise, that is 1.659."""
    base = recorded(validation(latencies=race(1.80)), HERE)
    found = broken(validation(latencies=now), base)
    assert found == ({"min_speedup_of_baseline"} if slower else set())


def test_the_noise_of_the_recording_counts_as_well(validation):
    noisy = recorded(validation(latencies=race(1.80, noise=1.06)), HERE)
    assert broken(validation(latencies=race(1.60)), noisy) == set()


def test_milliseconds_do_not_count(validation):
    """The same ratio on a machine that is ten times slower."""
    slow = dataclasses.replace(race(1.8)[0].original, median_s=0.2)
    now = (dataclasses.replace(race(1.8)[0], original=slow, rewritten=slow),)
    assert broken(validation(latencies=now), recorded(validation(latencies=race(1.8)), HERE)) == set()


def test_another_machine_is_given_more_slack(validation):
    base = recorded(validation(latencies=race(1.80)), HERE)
    assert broken(validation(latencies=race(1.5)), base) == {"min_speedup_of_baseline"}
    assert broken(validation(latencies=race(1.5)), base, THERE) == set()
    assert broken(validation(latencies=race(1.2)), base, THERE) == {"min_speedup_of_baseline"}


def test_without_a_recorded_speed_there_is_no_gate_for_it(validation):
    base = recorded(validation(latencies=()), HERE)
    assert base.speed is None
    assert broken(validation(), base) == set()


def test_slack_can_be_edited(validation):
    slack = Slack(speedup=0.2, size=0.0, fraction=0.0, nats=0.0, decibels=0.0)
    base = recorded(validation(latencies=race(1.80)), HERE, slack=slack)
    assert broken(validation(latencies=race(1.45)), base) == set()
    assert broken(validation(latencies=race(1.80), size_rewritten_bytes=1_000_001), base) == {
        "max_file_bytes_of_baseline"}
    worse = with_classes(validation(latencies=race(1.8)), top1_rewritten=0.7631)
    assert broken(worse, base) == {"min_top1_of_baseline"}


# ---- for something else ----

@pytest.mark.parametrize(("change", "word"), [
    (lambda r: with_output(r, name="scores"), "models (outputs: logits: float32 [10], not scores: float32 [10])"),
    (lambda r: with_output(r, shape=(16, 11)), "models (outputs: "),
    (lambda r: with_output(r, dtype="float16"), "models (outputs: "),
    (lambda r: dataclasses.replace(r, cost_original=dataclasses.replace(r.cost_original, macs=1)),
     "models (macs: 100000000, not 1)"),
    (lambda r: dataclasses.replace(r, cost_original=None), "models (params: 500000, not None)"),
    (lambda r: dataclasses.replace(r, data="other.npz"), "images (data: evaluation.npz, not other.npz)"),
    (lambda r: dataclasses.replace(r, images=449), "images (images: 450, not 449)")])
def test_a_baseline_of_something_else_is_refused(change, word, validation):
    with pytest.raises(BaselineError) as caught:
        compared(change(validation()), recorded(validation(), HERE), HERE, "b.json")
    assert str(caught.value).startswith(f"b.json: was recorded for other {word}")
    assert str(caught.value).endswith("record it again with --update-baseline")


def test_another_batch_is_no_other_model(validation):
    assert broken(with_output(validation(), shape=(2, 10)), recorded(validation(), HERE)) == set()


def test_outputs_that_do_not_match_fail_their_own_gate(validation):
    """A missing output is a finding about the rewritten model, not a baseline of another one."""
    report = validation(outputs=(), mismatches=(Mismatch(name="logits", code="missing_output", reason="gone"),))
    assert "min_snr_db[logits]_of_baseline" in broken(report, recorded(validation(), HERE))


# ---- files ----

@pytest.fixture
def path(tmp_path, validation):
    path = tmp_path / "baseline.json"
    path.write_text(baseline_text(recorded(validation(), HERE)), encoding="utf-8")
    return path


def test_files_come_back_as_they_went(path, validation, figures):
    assert load_baseline(path) == recorded(validation(), HERE)
    for report in (validation(figures=figures, latencies=(), cost_original=None), with_output(
            validation(classification=None), snr_db=-math.inf)):
        base = recorded(report, THERE)
        path.write_text(baseline_text(base), encoding="utf-8")
        assert load_baseline(path) == base


def test_the_published_schema_is_what_the_code_means(path):
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert schema == baseline_schema(), "run: scripts/write_schema.py"
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    for part in (schema, *schema["$defs"].values()):
        assert all("description" in value for value in part["properties"].values())


@pytest.mark.parametrize(("edit", "message"), [
    (lambda d: d.update(schema_version=2), "schema_version: 2 is newer than 1, .*; upgrade onnxslim1x1$"),
    (lambda d: d.pop("schema_version"), "schema_version: is missing"),
    (lambda d: d["slack"].update(sped=1), "slack.sped: unknown key; did you mean speedup"),
    (lambda d: d["slack"].update(speedup="5 %"), 'slack.speedup: must be a number, not "5 %"'),
    (lambda d: d.pop("speed"), "speed: is missing; record it again with --update-baseline$"),
    (lambda d: d["figures"][0].update(better="more"), r"figures\[0\].better: must be 'higher' or 'lower'")])
def test_damaged_files_are_refused(path, edit, message):
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BaselineError, match=rf"baseline\.json: {message}"):
        load_baseline(path)


@pytest.mark.parametrize(("text", "message"), [("", "the file is empty"), ("{", "is not valid JSON"),
                                               ("[]", "must be an object")])
def test_what_is_no_baseline_is_refused(path, text, message):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=message):
        load_baseline(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(BaselineError, match=r"nothing\.json: no such file; onnxslim1x1 validate --update-baseline"):
        load_baseline(tmp_path / "nothing.json")
