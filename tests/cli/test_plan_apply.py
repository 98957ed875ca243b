"""`plan` and `apply` as a user types them; what is wrong goes through the installed command."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxslim1x1.cli import main
from onnxslim1x1.cli.main import app
from onnxslim1x1.search import pipeline

SCRIPT = Path(sys.executable).with_name("onnxslim1x1")
SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
SAMPLE, CALIBRATION = SAMPLES / "digits_googlenet.onnx", SAMPLES / "digits_calibration.npz"
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w)
  r = Relu(stem)
  wide = Conv <pads = [2, 2, 2, 2]> (r, wide_w)
  s = Relu(wide)
  mix = Conv(s, mix_w)
  g = GlobalAveragePool(mix)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (48, 3, 5, 3), "wide_w": (56, 48, 5, 5), "mix_w": (36, 56, 1, 1), "head_w": (7, 36)}


def network(seed=29):
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array((rng.standard_normal(s) * 0.1).astype(np.float32), n) for n, s in SHAPES.items())
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in with a model and images, on a machine where every chain is twice as fast."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    onnx.save(network(), "net.onnx")
    onnx.save(network(seed=1), "other.onnx")
    pixels = np.random.default_rng(5).integers(0, 256, (16, 24, 20, 3), dtype=np.uint8)
    np.savez("images.npz", images=pixels)
    np.savez("fewer.npz", images=pixels[:9])
    np.savez("turned.npz", images=pixels[::-1])
    return tmp_path


def run(*arguments):
    """Standard output and standard error of a command that succeeds."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


PLAN = ("plan", "net.onnx", "-o", "plan.json", "--rank", "wide=8", "--threads", "1")
IMAGES = ("--calibration", "images.npz", "--preprocess", "unit", "--limit", "12")
APPLY = ("apply", "net.onnx", "plan.json", "-o", "out.onnx")


# ---- what is printed and written ----

def test_plan_then_apply(folder):
    out, err = run(*PLAN, *IMAGES)
    assert out.splitlines()[2].split()[:3] == ["wide", "reduce", "8"]
    assert out.splitlines()[-2:] == ["fitted to 12 images of images.npz",
                                     "wrote plan.json; onnxslim1x1 apply MODEL plan.json -o OUT carries it out"]
    assert err == "note: input image: free dimension N set to 1 (change it with --dim N=...)\n"
    document = json.loads((folder / "plan.json").read_text())
    assert (document["data"]["path"], document["data"]["limit"], document["data"]["images"]) == ("images.npz", 12, 12)
    out, err = run(*APPLY)
    assert out.splitlines()[-2:] == ["fitted to 12 images of images.npz",
                                     "wrote out.onnx; onnxslim1x1 validate compares it with the original"]
    assert err.startswith("note: input image: ")
    onnx.checker.check_model(folder / "out.onnx", full_check=True)
    assert {(8, 48, 1, 1), (56, 8, 5, 5)} <= {tuple(t.dims) for t in onnx.load("out.onnx").graph.initializer}


@pytest.mark.usefixtures("folder")
def test_json_is_one_document():
    out, err = run(*PLAN, "--json")
    assert (err, json.loads(out)["plan"]) == ("", json.loads(Path("plan.json").read_text()))
    out, err = run(*APPLY, "--json")
    found = json.loads(out)
    assert (err, found["command"], found["output"], found["unchanged"]) == ("", "apply", "out.onnx", None)
    assert found["plan"]["layers"][0]["speedup"] is None  # apply measures nothing


def test_the_same_plan_gives_the_same_bytes_however_it_is_run(folder):
    run(*PLAN, *IMAGES)
    for name, options in (("a", ()), ("b", ("--no-cache",)), ("c", ("--threads", "2", "--no-cache")),
                          ("d", ("--calibration", folder / "images.npz", "--no-cache"))):
        run(*APPLY[:3], "-o", f"{name}.onnx", *options)
    assert len({Path(f"{name}.onnx").read_bytes() for name in "abcd"}) == 1


def test_the_sample_model_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "compare_chain", lambda *_args, **_options: 2.0)
    plan = tmp_path / "plan.json"
    run("plan", SAMPLE, "-o", plan, "--calibration", CALIBRATION, "--limit", "30", "--threads", "1",
        "--rank", "stem/conv2=16", "--rank", "inception_a/3x3=32")
    for name in ("a.onnx", "b.onnx"):
        run("apply", SAMPLE, plan, "-o", tmp_path / name, "--no-cache")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").stat().st_size < 0.95 * SAMPLE.stat().st_size


@pytest.mark.usefixtures("folder")
def test_an_edited_plan():
    run(*PLAN, *IMAGES)
    document = json.loads(Path("plan.json").read_text())
    document["layers"][0] |= {"strategy": "spatial", "ranks": [20], "error": 0, "speedup": 99}
    Path("plan.json").write_text(json.dumps(document))
    out, _ = run(*APPLY)
    assert out.splitlines()[2].split()[:3] == ["wide", "spatial", "20"]
    assert "99" not in out
    document["skipped"].append({"layer": "wide", "code": "mine", "reason": "keep it"})
    document["layers"].clear()
    Path("plan.json").write_text(json.dumps(document))
    out, _ = run(*APPLY)
    assert "1 x mine: keep it" in out
    assert out.splitlines()[-1] == "unchanged: the plan rewrites no layer; out.onnx is a copy of the input"
    assert Path("out.onnx").read_bytes() == Path("net.onnx").read_bytes()


# ---- what is refused ----

def installed(*arguments):
    """Exit code and output of the installed command."""
    done = subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same in this process, which is faster."""
    def run_inside(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        return caught.value.code, *capsys.readouterr()

    return run_inside


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def wrong(folder):
    """Plans that something is wrong with, by what it is."""
    run(*PLAN, *IMAGES)
    run("plan", "net.onnx", "-o", "weights.json", "--rank", "wide=8")
    good = Path("plan.json").read_text()
    for name, text in {
            "empty": "", "cut": good[:700], "newer": good.replace('"schema_version": 1', '"schema_version": 7'),
            "typo": good.replace('"ranks": [8]', '"rank": [8]'), "far": good.replace('"ranks": [8]', '"ranks": [49]'),
            "name": good.replace('"layer": "wide"', '"layer": "wode"'), "gone": good.replace("images.npz", "gone.npz"),
            "nan": good.replace('"ranks": [8]', '"ranks": [NaN]')}.items():
        assert text != good
        Path(f"{name}.json").write_text(text)
    return files(folder)


def with_plan(name):
    return ("apply", "net.onnx", f"{name}.json", "-o", "out.onnx")


# Arguments, exit code, and what the message must say
INSTALLED = [
    (with_plan("missing"), 3, r"missing\.json: no such file"),
    (with_plan("typo"), 3, r"typo\.json: layers\[0\]\.rank: unknown key; did you mean ranks\? \(and 1 more\)"),
    (("apply", "other.onnx", "plan.json", "-o", "out.onnx"), 3, r"other\.onnx: its SHA-256 .* is not that of the plan"),
    ((*APPLY, "--calibration", "turned.npz"), 3, r"turned\.npz: holds other images than plan\.json"),
]
INSIDE = [
    (with_plan("empty"), 3, r"empty\.json: the file is empty"),
    (with_plan("cut"), 3, r"cut\.json: line \d+, column \d+: is not valid JSON"),
    (with_plan("newer"), 3, r"newer\.json: schema_version: 7 is newer than 1"),
    (with_plan("far"), 3, r"far\.json: layers\[0\]\.ranks: rank 49: .* allows 1\.\.48"),
    (with_plan("name"), 3, r"name\.json: layers\[0\]\.layer: the model has no layer wode; did you mean wide"),
    (with_plan("nan"), 3, r"nan\.json: layers\[0\]\.ranks\[0\]: must be an integer, not NaN"),
    (with_plan("gone"), 3, r"gone\.json: data\.path: gone\.npz is not there; say with --calibration where"),
    ((*APPLY, "--calibration", "fewer.npz"), 3, r"fewer\.npz: holds 9 images, but plan\.json was made with 12"),
    ((*with_plan("weights"), "--calibration", "images.npz"), 3, r"weights\.json: the plan was made from the weights"),
    (("apply", "plan.json", "net.onnx", "-o", "out.onnx"), 3, r"net\.onnx: is no text, but a plan is a JSON file"),
    (("apply", "missing.onnx", "plan.json", "-o", "out.onnx"), 3, r"missing\.onnx: no such file"),
    ((*APPLY[:3], "-o", "missing/out.onnx"), 3, "missing: no such folder"),
    ((*APPLY[:3], "-o", "plan.json"), 2, r"plan\.json: output and input are the same file"),
    ((*APPLY[:3], "-o", "images.npz"), 2, r"images\.npz: output and input are the same file"),
    ((*APPLY, "--cache", "here", "--no-cache"), 2, "--cache here: contradicts --no-cache"),
    ((*APPLY, "--threads", "-1"), 2, "--threads"), (APPLY[:3], 2, "--output"),
    (("apply", "net.onnx", "-o", "out.onnx"), 2, "(?i:plan)"),
    (("plan", "net.onnx", "-o", "."), 3, r"is a directory; name the file to write, such as plan\.json"),
    (("plan", "net.onnx", "-o", "net.onnx"), 2, r"net\.onnx: output and input are the same file"),
    ((*PLAN[:2], "-o", "images.npz", *IMAGES), 2, r"images\.npz: output and input are the same file"),
    ((*PLAN[:2], "-o", "new.json", "--rank", "wode=3"), 2, "--rank wode=3: no such layer"),
    ((*PLAN[:2], "-o", "new.json", "--calibration", "gone.npz"), 3, r"gone\.npz: no such file or folder"),
    (PLAN[:2], 2, "--output"),
]


def test_errors_are_one_line_and_leave_nothing(folder, wrong, inside):
    with ThreadPoolExecutor(2) as pool:
        outcomes = [*pool.map(lambda case: installed(*case[0]), INSTALLED), *(inside(*case[0]) for case in INSIDE)]
    problems = [(arguments, found)
                for (arguments, code, message), found in zip(INSTALLED + INSIDE, outcomes, strict=True)
                if found[:2] != (code, "") or not re.fullmatch(f"error: .*{message}.*\n", found[2])]
    assert not problems
    assert files(folder) == wrong
