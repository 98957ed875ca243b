"""What pipelines are told by the commands: files, annotations, summaries, baselines and exit codes."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from junitparser import JUnitXml

from onnxslim1x1.cli import main as cli_main
from onnxslim1x1.runtime import validate as runtime_validate
from onnxslim1x1.runtime.benchmark import Latency, LatencyComparison
from onnxslim1x1.runtime.evidence import Footprint
from onnxslim1x1.search import pipeline

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w, stem_b)
  r = Relu(stem)
  wide = Conv <pads = [1, 0, 1, 2]> (r, wide_w)
  s = Relu(wide)
  mix = Conv(s, mix_w)
  g = GlobalAveragePool(mix)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (48, 3, 5, 3), "stem_b": (48,), "wide_w": (40, 48, 3, 3), "mix_w": (36, 40, 1, 1),
          "head_w": (7, 36)}


def network(wrong_bias=0.0):
    rng = np.random.default_rng(17)
    weights = {name: rng.standard_normal(shape).astype(np.float32) * 0.2 for name, shape in SHAPES.items()}
    basis = np.linalg.qr(rng.standard_normal((48, 14)))[0]
    weights["wide_w"] = np.einsum("ocij,cd->odij", weights["wide_w"], basis @ basis.T)  # rank 14 of 48
    weights["stem_b"][:5] += wrong_bias
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items())
    return model


def measured(speedup):
    """A measurement that shows this speed-up beyond doubt."""
    def latency(seconds):
        return Latency(median_s=seconds, p10_s=seconds, p90_s=seconds, runs=9, provider="CPUExecutionProvider",
                       threads=1)

    return LatencyComparison(original=latency(0.01), rewritten=latency(0.01 / speedup), speedup=speedup,
                             speedup_low=0.99 * speedup, speedup_high=1.01 * speedup, noise_low=0.999, noise_high=1.001)


@pytest.fixture
def speed(monkeypatch):
    """Sets how fast every rewritten model is."""
    def set_speed(speedup):
        monkeypatch.setattr(runtime_validate, "compare_models", lambda *_args, **_options: measured(speedup))

    set_speed(2.0)
    monkeypatch.setattr(runtime_validate, "measure_footprint", lambda *_args, file_bytes: Footprint(
        load_s=0.02, arena_bytes=3_000_000, resident_bytes=9_000_000, file_bytes=file_bytes, denormal_slowdown=1.0))
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    return set_speed


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, speed):
    """A folder with a model, one with a wrong bias, and images with the labels that the model gives them."""
    del speed
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    onnx.save(network(), "good.onnx")
    onnx.save(network(wrong_bias=9.0), "bad.onnx")
    rng = np.random.default_rng(3)
    np.savez("images.npz", images=rng.integers(0, 256, (24, 24, 20, 3), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line: exit code, standard output, lines of standard error."""
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli_main.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err.splitlines()

    return command


VALIDATE = ("validate", "net.onnx", "good.onnx", "--data", "images.npz")
BAD = ("validate", "net.onnx", "bad.onnx", "--data", "images.npz")


# ---- files ----

@pytest.mark.parametrize(("arguments", "code", "failures"), [
    ((*VALIDATE, "--max-drop", 0.01), 0, []), ((*BAD, "--max-drop", 0.01), 4, ["max_drop"]),
    ((*VALIDATE, "--min-speedup", 3), 5, ["min_speedup"]),
    ((*BAD, "--max-drop", 0.01, "--min-speedup", 3), 4, ["max_drop", "min_speedup"])])
def test_validate_writes_all_that_was_asked_for(arguments, code, failures, run):
    found, out, err = run(*arguments, "--junit", "j.xml", "--summary", "s.md", "--sarif", "s.sarif")
    assert found == code
    assert [line for line in err if line.startswith("note: wrote")] == [
        "note: wrote j.xml", "note: wrote s.md", "note: wrote s.sarif"]
    suite, = JUnitXml.fromfile("j.xml")
    assert [case.name for case in suite if case.result] == failures
    results = json.loads(Path("s.sarif").read_text())["runs"][0]["results"]
    assert [r["ruleId"] for r in results] == [f"gate/{name}" for name in failures]
    assert Path("s.md").read_text(encoding="utf-8").startswith("## ❌" if failures else "## ✅")
    assert "faster: 2.00x" in out


def test_slim_writes_them_too(run):
    code, _, _ = run("slim", "net.onnx", "-o", "slim.onnx", "--rank", "wide=16", "--junit", "j.xml",
                     "--summary", "s.md", "--sarif", "s.sarif")
    assert code == 0
    suite, = JUnitXml.fromfile("j.xml")
    assert [case.name for case in suite] == ["checker", "interface", "finite", "rewritten"]
    assert "wide: reduce 16" in list(suite)[-1].system_out
    results = json.loads(Path("s.sarif").read_text())["runs"][0]["results"]
    assert {(r["level"], r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]) for r in results} == {
        ("note", "stem"), ("note", "mix"), ("note", "scores")}
    assert "1 layers were rewritten" in Path("s.md").read_text(encoding="utf-8")


def test_slim_tells_of_a_gate_that_failed(run):
    code, _, _ = run("slim", "net.onnx", "-o", "slim.onnx", "--rank", "wide=8", "--min-snr", 90, "--junit", "j.xml")
    assert code == 4
    suite, = JUnitXml.fromfile("j.xml")
    assert [case.name for case in suite if case.result] == ["min_snr_db"]
    assert not Path("slim.onnx").exists()


def test_standard_output_stays_one_document(run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, _ = run(*BAD, "--max-drop", 0.01, "--json", "--junit", "j.xml")
    assert code == 4
    assert json.loads(out)["validation"]["passed"] is False


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["--junit", "a", "--sarif", "./a"], 2, "--junit and --sarif: both write to"),
    (["--junit", "good.onnx"], 2, "same file"), (["--sarif", "no/such.sarif"], 3, "no such folder"),
    (["--summary", "."], 3, "is a directory"), (["--baseline", "net.onnx", "--update-baseline"], 2, "same file"),
    (["--update-baseline"], 2, "--update-baseline: which file?"), (["--baseline", "b.json"], 3, "b.json: no such file"),
    (["--junit", "b.json", "--baseline", "b.json", "--update-baseline"], 2, "both write to")])
def test_what_cannot_be_written_is_said_before_the_work(arguments, code, message, run, monkeypatch):
    monkeypatch.setattr(runtime_validate, "check_models", None)  # the work would fail
    found, out, err = run(*VALIDATE, *arguments)
    assert (found, out) == (code, "")
    assert message in err[-1]


# ---- GitHub ----

def test_github_is_told_without_being_asked(run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "step.md")
    Path("step.md").write_text("# before\n")
    code, _, err = run(*BAD, "--max-drop", 0.01)
    assert code == 4
    errors = [line for line in err if line.startswith("::error ")]
    assert len(errors) == 1
    assert errors[0].startswith("::error title=onnxslim1x1 validate%3A accuracy::max_drop is ")
    text = Path("step.md").read_text(encoding="utf-8")
    assert text.startswith("# before\n## ❌ onnxslim1x1 validate: accuracy FAILED")


def test_other_machines_are_not(run, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "false")
    _, _, err = run(*BAD, "--max-drop", 0.01)
    assert not [line for line in err if line.startswith("::")]


def test_the_summary_is_not_written_twice(run, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "step.md")
    run(*VALIDATE, "--summary", "step.md")
    run(*VALIDATE, "--summary", "other.md")
    assert Path("step.md").read_text(encoding="utf-8") == 2 * Path("other.md").read_text(encoding="utf-8")


def test_a_summary_that_cannot_be_appended_is_a_warning(run, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/step.md")
    code, _, err = run(*VALIDATE)
    assert code == 0
    assert any(line.startswith("warning: $GITHUB_STEP_SUMMARY: ") for line in err)


# ---- baselines ----

def test_a_later_export_is_compared_with_the_recorded_one(run, speed):
    code, _, err = run(*VALIDATE, "--baseline", "b.json", "--update-baseline")
    assert (code, "note: wrote b.json" in err) == (0, True)
    assert run(*VALIDATE, "--baseline", "b.json")[0] == 0
    code, out, _ = run(*BAD, "--baseline", "b.json")
    assert code == 4
    assert "gate min_agreement_of_baseline: FAILED" in out
    speed(1.5)
    code, out, _ = run(*VALIDATE, "--baseline", "b.json")
    assert code == 5
    assert [line.split(":")[0] for line in out.splitlines() if "FAILED" in line] == [
        "gate min_speedup_of_baseline"]


def test_gates_of_the_baseline_are_in_every_report(run):
    run(*VALIDATE, "--baseline", "b.json", "--update-baseline")
    _, out, _ = run(*BAD, "--baseline", "b.json", "--json", "--junit", "j.xml")
    gates = {g["name"]: g["passed"] for g in json.loads(out)["validation"]["gates"]}
    assert gates["min_agreement_of_baseline"] is False
    suite, = JUnitXml.fromfile("j.xml")
    assert {case.name for case in suite if case.result} == {name for name, passed in gates.items() if not passed}


def test_what_fails_its_gates_is_not_recorded(run):
    code, _, err = run(*BAD, "--max-drop", 0.01, "--baseline", "b.json", "--update-baseline")
    assert code == 4
    assert "warning: b.json is left as it was: a gate failed" in err
    assert not Path("b.json").exists()


def test_an_update_keeps_edited_slack_and_replaces_everything_else(run, speed):
    run(*VALIDATE, "--baseline", "b.json", "--update-baseline")
    document = json.loads(Path("b.json").read_text())
    document["slack"]["speedup"] = 0.33
    Path("b.json").write_text(json.dumps(document))
    speed(3.0)
    run(*VALIDATE, "--baseline", "b.json", "--update-baseline")
    document = json.loads(Path("b.json").read_text())
    assert (document["slack"]["speedup"], document["speed"]["speedup"]) == (0.33, 3.0)


def test_damaged_and_foreign_baselines_are_refused_and_replaced(run):
    Path("b.json").write_text("{")
    code, out, err = run(*VALIDATE, "--baseline", "b.json")
    assert (code, out) == (3, "")
    assert err[-1].startswith("error: b.json: line 1, column 2: is not valid JSON")
    assert run(*VALIDATE, "--baseline", "b.json", "--update-baseline")[0] == 0
    code, out, err = run(*VALIDATE, "--baseline", "b.json", "--limit", 7)
    assert code == 3
    assert "b.json: was recorded for other images (images: 24, not 7)" in err[-1]


def test_the_file_can_stand_in_the_configuration(run):
    Path("onnxslim1x1.toml").write_text('model = "net.onnx"\nrewritten = "good.onnx"\ndata = "images.npz"\n'
                                        '[validate]\nbaseline = "b.json"\njunit = "j.xml"\n')
    assert run("validate")[0] == 3
    assert run("validate", "--update-baseline")[0] == 0
    assert run("validate")[0] == 0
    assert Path("j.xml").exists()
