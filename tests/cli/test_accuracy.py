"""Planted faults, each with its own message and exit code, and the options about accuracy, through the command."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.cli import main

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 12, 10] image) => (float[N, 6] scores, float[N, 40, 12, 10] features) {
  stem = Conv <pads = [1, 1, 1, 1]> (image, stem_w, stem_b)
  r = Relu(stem)
  features = Conv <pads = [1, 1, 1, 1]> (r, mid_w, mid_b)
  g = GlobalAveragePool(features)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w, head_b)
}"""
SHAPES = {"stem_w": (32, 3, 3, 3), "stem_b": (32,), "mid_w": (40, 32, 3, 3), "mid_b": (40,), "head_w": (6, 40),
          "head_b": (6,)}
IMAGES = 24


def weights():
    rng = np.random.default_rng(31)
    return {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in SHAPES.items()}


def network(text=TEXT, **changes):
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, n) for n, w in (weights() | changes).items())
    return model


def wrong_bias():
    bias = weights()["mid_b"].copy()
    bias[3] += 2.0
    return network(mid_b=bias)


def not_a_number():
    bias = weights()["mid_b"].copy()
    bias[3] = np.nan
    return network(mid_b=bias)


def renamed():
    return network(TEXT.replace("] features)", "] maps)").replace("  features = ", "  maps = ").replace(
        "(features)", "(maps)"))


def missing():
    return network(TEXT.replace(", float[N, 40, 12, 10] features)", ")"))


def retyped():
    return network(TEXT.replace("float[N, 40, 12, 10] features", "double[N, 40, 12, 10] features").replace(
        "features = Conv <pads = [1, 1, 1, 1]> (r, mid_w, mid_b)",
        "maps = Conv <pads = [1, 1, 1, 1]> (r, mid_w, mid_b)\n  features = Cast <to = 11> (maps)").replace(
        "(features)", "(maps)"))


def damaged():
    model = network()
    del model.graph.initializer[2]  # mid_w
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    for name, made in {"model": network, "wrong_bias": wrong_bias, "nan": not_a_number, "renamed": renamed,
                       "missing": missing, "retyped": retyped, "damaged": damaged}.items():
        onnx.save(made(), folder / f"{name}.onnx")
    images = np.random.default_rng(5).integers(0, 256, (IMAGES, 12, 10, 3), np.uint8)
    np.savez(folder / "d.npz", images=images, labels=np.arange(IMAGES) % 6)
    (folder / "cli_metrics.py").write_text(
        "import numpy as np\n"
        "def good(a, b, labels):\n    return a['scores'].argmax(1) == labels, b['scores'].argmax(1) == labels\n"
        "def bad(a, b, labels):\n    return 1.0\n")
    return folder


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def command(place, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main.main()
        out, err = capsys.readouterr()
        return Outcome(left.value.code, out, err)
    return call


def validate(command, rewritten, *arguments):
    return command("validate", "model.onnx", rewritten, "--data", "d.npz", "--time", "0.1", *arguments)


FAULTS = [
    ("wrong_bias.onnx", ("--min-snr", "40"), 4, "gate min_snr_db: FAILED"),
    ("wrong_bias.onnx", ("--min-snr", "40", "--confidence", "0.95"), 4, "at 95 % confidence, bound 40)"),
    ("wrong_bias.onnx", ("--gate", "snr_db>=40"), 4, "gate min_snr_db: FAILED"),
    ("nan.onnx", (), 4, "gate no new NaN or infinity: FAILED"),
    ("renamed.onnx", (), 4, "features: it is called maps now (renamed_output)"),
    ("missing.onnx", (), 4, "features: the rewritten model has no such output (missing_output)"),
    ("retyped.onnx", (), 4, "features: float32 became float64 (changed_dtype)"),
    ("damaged.onnx", (), 3, "error: damaged.onnx: "),
    ("nothing.onnx", (), 3, "error: nothing.onnx: "),
]


@pytest.mark.parametrize(("rewritten", "options", "code", "message"), FAULTS,
                         ids=[f"{f[0]}{' '.join(('', *f[1]))}" for f in FAULTS])
def test_every_planted_fault_has_its_code_and_its_message(rewritten, options, code, message, command):
    found = validate(command, rewritten, *options)
    assert found.code == code
    assert message in found.out + found.err
    others = {text for name, _, _, text in FAULTS if name != rewritten}
    assert not any(text in found.out + found.err for text in others)


def test_a_sound_copy_passes(command):
    found = validate(command, "model.onnx", "--min-snr", "100", "--max-drop", "0", "--confidence", "0.6")
    assert found.code == 4  # 24 images cannot promise a drop of 0
    assert "gate max_drop: FAILED" in found.out
    assert "gate min_snr_db: passed (inf at 60 % confidence, bound 100)" in found.out
    assert validate(command, "model.onnx", "--min-snr", "100", "--max-drop", "0").code == 0


@pytest.mark.parametrize("rewritten", ["wrong_bias.onnx", "missing.onnx"])
def test_the_installed_command_says_the_same(rewritten, place):
    script = Path(sys.executable).with_name("onnxslim1x1")
    if not script.exists():
        pytest.skip("the command is not installed beside this Python")
    done = subprocess.run([script, "validate", "model.onnx", rewritten, "--data", "d.npz", "--time", "0.1",
                           "--min-snr", "40"], cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4
    assert ("gate min_snr_db: FAILED" if rewritten == "wrong_bias.onnx" else "(missing_output)") in done.stdout


def test_a_wrong_bias_is_found_where_it_is(command, place):
    found = validate(command, "wrong_bias.onnx", "--per-layer", "--json")
    document = json.loads(found.out)
    entered = [one["tensor"] for one in document["validation"]["layers"] if one["rel_error"] > 1e-5]
    assert entered[0] == "features"
    shown = validate(command, "wrong_bias.onnx", "--per-layer")
    row = next(line for line in shown.out.splitlines() if line.startswith("features") and "enters" in line)
    assert "Conv" in row
    assert "per layer: 6 of 6 intermediate tensors were compared (6 matched by name" in shown.out
    pytest.importorskip("matplotlib")
    drawn = validate(command, "wrong_bias.onnx", "--per-layer", "--plot", "errors.svg")
    assert drawn.code == 0
    assert (place / "errors.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("options", "message"), [
    (("--task", "classify"), "--task classify: unknown"),
    (("--task", "detection"), "--task detection: no output has a shape for it"),
    (("--metric", "cli_metrics"), "--metric cli_metrics: must read module:function"),
    (("--metric", "nowhere:good"), "--metric nowhere:good: nowhere cannot be imported"),
    (("--plot", "e.svg"), "--plot e.svg: draws what --per-layer finds"),
    (("--per-layer", "--plot", "e.txt"), "--plot e.txt: unknown kind of picture"),
    (("--confidence", "95"), "--confidence 95.0: must lie between 0.5 and 1"),
    (("--worst", "-2"), "--worst -2: must lie in 0..1000"),
    (("--gate", "kl"), "--gate 'kl': expected the name of a figure"),
    (("--gate", "kll<=1"), "--gate 'kll<=1': this comparison has no figure kll; did you mean kl?"),
])
def test_wrong_options_are_one_line(options, message, command):
    found = validate(command, "model.onnx", *options)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"error: {message}")
    assert found.err.count("\n") == 1


def test_a_figure_of_ones_own_can_be_a_gate(command):
    options = ("--metric", "cli_metrics:good", "--gate", "good>=-0.5", "--gate", "kl<=50")
    found = validate(command, "wrong_bias.onnx", *options, "--json")
    assert found.code == 0, found.err
    gates = {gate["name"]: gate for gate in json.loads(found.out)["validation"]["gates"]}
    assert (gates["min_good"]["passed"], gates["min_good"]["bound"]) == (True, -0.5)
    assert (gates["max_kl"]["passed"], gates["max_kl"]["bound"]) == (True, 50.0)
    assert validate(command, "wrong_bias.onnx", *options[:2], "--gate", "good>=1.5").code == 4


def test_a_metric_that_returns_nonsense_cannot_be_used(command):
    found = validate(command, "model.onnx", "--metric", "cli_metrics:bad")
    assert found.code == 3
    assert found.err.startswith("error: --metric cli_metrics:bad: returned an array of shape ()")


def test_everything_that_is_found_is_in_the_document(command):
    found = validate(command, "wrong_bias.onnx", "--metric", "cli_metrics:good", "--shift", "--worst", "3",
                     "--confidence", "0.9")
    assert found.code == 0, found.err
    for text in ("judged as classification: output scores has one score for each class", "90 % interval", "top-1: drop",
                 "shift ", "brightness", "furthest apart on: image ", "good"):
        assert text in found.out
    assert max(map(len, found.out.splitlines())) <= 80
    again = validate(command, "wrong_bias.onnx", "--metric", "cli_metrics:good", "--shift", "--worst", "3", "--json")
    document = json.loads(again.out)["validation"]
    figures = {(f["name"], f["output"]): f for f in document["figures"]}
    assert figures["top1", "scores"]["value"] == figures["good", ""]["value"]
    assert len(document["worst"]) == 3
    assert document["worst"][0]["picture"].startswith("data:image/png;base64,")
    assert [s["shift"] for s in document["shifts"]] == ["brightness", "brightness", "noise", "blur", "crop"]
    assert document["task"] == "classification"


# bisect


@pytest.fixture(scope="module")
def plan(place):
    from onnxslim1x1 import api

    api.plan(place / "model.onnx", api.Budget(ranks={"node_features": 8, "node_stem": 2}), output=place / "plan.json",
             run=api.RunOptions(threads=1))
    return "plan.json"


def test_bisect_finds_the_layer(command, plan):
    found = command("bisect", "model.onnx", plan, "--data", "d.npz", "--min-snr", "60")
    assert found.code == 0, found.err
    assert "1 of 2 layers breaks a gate" in found.out
    assert "FAILED" in found.out
    document = json.loads(command("bisect", "model.onnx", plan, "--data", "d.npz", "--min-snr", "60", "--json").out)
    assert document["breaks"] is True
    assert len(document["breaking"]) == 1
    assert document["whole"]["layers"] == ["node_stem", "node_features"]
    assert len(document["trials"]) >= 2


def test_bisect_says_that_nothing_breaks(command, plan):
    found = command("bisect", "model.onnx", plan, "--data", "d.npz", "--min-snr", "-60")
    assert found.code == 0
    assert found.out.startswith("nothing breaks: all 2 layers of the plan together keep every gate")


def test_bisect_warns_of_random_inputs(command, plan):
    found = command("bisect", "model.onnx", plan, "--min-snr", "-60")
    assert "warning: accuracy is judged on random inputs" in found.err


def test_bisect_needs_a_gate(command, plan):
    found = command("bisect", "model.onnx", plan, "--data", "d.npz")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: bisect: no gate that layers could break; give --max-drop")
