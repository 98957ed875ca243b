"""`--explore` as a user types it, at `slim` and at `plan`."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxslim1x1
from onnxslim1x1.cli import main
from onnxslim1x1.runtime import calibration
from onnxslim1x1.runtime.whole_model import WholeModel
from onnxslim1x1.search import front, pipeline
from onnxslim1x1.strategies.base import chain_cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w)
  r = Relu(stem)
  wide = Conv <pads = [2, 2, 2, 2]> (r, wide_w)
  s = Relu(wide)
  g = GlobalAveragePool(s)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (48, 3, 5, 3), "wide_w": (56, 48, 5, 5), "head_w": (7, 56)}
BLOCK = 16


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a model and images, on a machine where time is proportional to MACs."""
    rng = np.random.default_rng(29)
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array((rng.standard_normal(s) * 0.1).astype(np.float32), n) for n, s in SHAPES.items())
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "images.npz", images=rng.integers(0, 256, (16, 24, 20, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(pipeline, "compare_chain", lambda spec, chain, **_options: spec.macs / chain_cost(chain).macs)
    monkeypatch.setattr(pipeline, "time_chain", lambda specs, **_options: 1e-9 * specs[0].macs)
    monkeypatch.setattr(pipeline, "channel_block", lambda _provider: BLOCK)
    monkeypatch.setattr(WholeModel, "whole_s", 0.03)
    monkeypatch.setattr(WholeModel, "speedup", lambda *_args: 1.25)
    monkeypatch.setattr(calibration, "LEAST_ROWS", 900)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 2)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Exit code, standard output and standard error of a command."""
    def running(*arguments):
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.main()
        return caught.value.code, *capsys.readouterr()

    return running


IMAGES = ("--calibration", "images.npz", "--preprocess", "unit")


@pytest.mark.parametrize("command", ["slim", "plan"])
def test_a_front_is_printed_and_no_model_is_written(folder, run, command):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = run(command, "net.onnx", "--explore", *IMAGES)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["predicted", "loss", "MACs", "params", "layers", "measured", "loss", "drop"]
    rows = [line.split() for line in lines[2:lines.index("")]]
    assert len(rows) > 2
    assert [float(r[0][:-1]) for r in rows] == sorted(float(r[0][:-1]) for r in rows)
    assert {r[5] for r in rows if len(r) > 5} == {"1.25x"}
    assert max(map(len, lines)) <= 80
    assert err == ("note: input image: free dimension N set to 1 (change it with --dim N=...)\n"
                   "note: 16 images are too few to hold some out: losses are measured on those that the factors are "
                   "fitted to\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_wide_terminal_shows(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    _, out, _ = run("plan", "net.onnx", "--explore")
    assert out.splitlines()[0].startswith("predicted speed-up  predicted loss  MACs kept")
    assert "what that does to the results is unknown: give --calibration IMAGES" in out


def test_one_document_and_the_same_from_python(run):
    code, out, err = run("slim", "net.onnx", "--explore", "--json", "--threads", "1", *IMAGES)
    found = json.loads(out)
    assert (code, err, found["command"], found["plot"]) == (0, "", "explore", None)
    images = onnxslim1x1.DataOptions(path=Path("images.npz"))
    same = onnxslim1x1.explore("net.onnx", calibration=images, run=onnxslim1x1.RunOptions(threads=1))
    assert isinstance(same, onnxslim1x1.Front)
    assert [(p["speedup"], p["loss"]) for p in found["points"]] == [(p.speedup, p.loss) for p in same.points]
    assert found["points"][-1]["measured"]["loss"] == same.points[-1].measured.loss


def test_the_picture_is_written_whole_or_not_at_all(folder, run, monkeypatch):
    pytest.importorskip("matplotlib")
    code, out, _ = run("slim", "net.onnx", "--explore", "--plot", "front.svg")
    assert (code, out.splitlines()[-1]) == (0, "wrote front.svg")
    first = (folder / "front.svg").read_bytes()
    assert first.startswith(b"<?xml")
    _, out, _ = run("slim", "net.onnx", "--explore", "--plot", "front.svg", "--json")
    assert json.loads(out)["plot"] == "front.svg"
    assert (folder / "front.svg").read_bytes() == first
    _, out, _ = run("slim", "net.onnx", "--explore", "--plot", "none.svg", "--exclude", "*")
    assert out.startswith("nothing to trade: ")
    _, out, _ = run("slim", "net.onnx", "--explore", "--plot", "none.svg", "--exclude", "*", "--json")
    assert (json.loads(out)["plot"], json.loads(out)["points"]) == (None, [])
    monkeypatch.setattr("onnxslim1x1.report.plot.front_image", lambda *_args: 1 / 0)
    assert run("slim", "net.onnx", "--explore", "--plot", "front.svg")[0] == 1
    assert (folder / "front.svg").read_bytes() == first
    assert {path.name for path in folder.iterdir()} == {"net.onnx", "images.npz", "front.svg"}


def test_limits_and_patterns_hold(run):
    _, out, _ = run("plan", "net.onnx", "--explore", "--json", "--exclude", "stem", "--max-error", "0.9")
    found = json.loads(out)
    assert {name for point in found["points"] for name in point["rewrites"]} == {"wide"}
    assert {s["layer"]: s["code"] for s in found["never"]}["stem"] == "excluded"


SLIM, PLAN = ("slim", "net.onnx"), ("plan", "net.onnx")


@pytest.mark.parametrize(("arguments", "code", "message"), [
    ((*SLIM, "--explore", "-o", "out.onnx"), 2, r"--output: contradicts --explore, which decides nothing"),
    ((*PLAN, "--explore", "-o", "plan.json"), 2, r"--output: contradicts --explore"),
    ((*SLIM, "--explore", "--target-speedup", "1.5"), 2, r"--target-speedup 1\.5: contradicts --explore"),
    ((*PLAN, "--explore", "--target-macs", "0.5"), 2, r"--target-macs 0\.5: contradicts --explore"),
    ((*PLAN, "--explore", "--target-params", "0.5"), 2, r"--target-params 0\.5: contradicts --explore"),
    ((*SLIM, "--explore", "--max-drop", "0.02"), 2, r"--max-drop 0\.02: contradicts --explore"),
    ((*SLIM, "--explore", "--data", "images.npz"), 2, r"--data: contradicts --explore"),
    ((*SLIM, "--explore", "--labels", "labels.csv"), 2, r"--labels: contradicts --explore"),
    ((*SLIM, "--explore", "--min-snr", "0"), 2, r"--min-snr: contradicts --explore"),
    ((*SLIM, "--explore", "--min-agreement", "0.9"), 2, r"--min-agreement: contradicts --explore"),
    ((*SLIM, "--explore", "--no-validate"), 2, r"--no-validate: contradicts --explore"),
    ((*SLIM, "--explore", "--keep-failed"), 2, r"--keep-failed: contradicts --explore"),
    ((*SLIM, "--explore", "--fail-if-unchanged"), 2, r"--fail-if-unchanged: contradicts --explore"),
    ((*SLIM, "--plot", "front.svg"), 2, r"--plot front\.svg: draws what --explore finds; give that, too"),
    ((*PLAN, "-o", "plan.json", "--plot", "front.svg"), 2, r"--plot front\.svg: draws what --explore finds"),
    (SLIM, 2, r"--output: missing; name the file to write with -o, or look .* with --explore"),
    (PLAN, 2, r"--output: missing; name the file to write"),
    ((*SLIM, "--explore", "--plot", "front.gif"), 2, r"--plot front\.gif: unknown kind of picture"),
    ((*SLIM, "--explore", "--plot", "no/front.svg"), 3, r"no: no such folder to write front\.svg into"),
    ((*SLIM, "--explore", "--plot", "folder.svg"), 3, r"folder\.svg: is a directory; name the file to write, such as "
                                                      r"folder\.svg/front\.svg"),
    ((*SLIM, "--explore", "--plot", "image.png", "--calibration", "image.png"), 2,
     r"image\.png: output and input are the same file; choose another name with --plot"),
    (("slim", "gone.onnx", "--explore"), 3, r"gone\.onnx: no such file"),
    ((*SLIM, "--explore", "--rank", "wode=3"), 2, r"--rank wode=3: no such layer")])
def test_what_makes_no_sense_is_refused_before_the_work(folder, run, monkeypatch, arguments, code, message):
    pytest.importorskip("matplotlib")
    (folder / "folder.svg").mkdir()
    (folder / "image.png").write_bytes(b"a picture")
    monkeypatch.setattr(pipeline, "time_chain", lambda *_args, **_options: pytest.fail("measured"))
    monkeypatch.setattr(front, "choices", lambda *_args: pytest.fail("chosen"))
    before = sorted(path.name for path in folder.iterdir())
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert re.fullmatch(f"error: {message}.*\n", err)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "image.png").read_bytes() == b"a picture"


def test_a_folder_that_cannot_be_written_is_named_with_its_option(folder, run, monkeypatch):
    pytest.importorskip("matplotlib")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, *modes, **options: (
        Path(path) != folder and real(path, *modes, **options)))
    code, _, err = run(*SLIM, "--explore", "--plot", folder / "front.svg")
    assert (code, err) == (3, f"error: {folder}: the folder is not writable; choose another place with --plot\n")


def test_without_matplotlib_the_front_is_there_but_no_picture(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*PLAN, "--explore")[0] == 0
    code, out, err = run(*PLAN, "--explore", "--plot", "front.svg")
    assert (code, out) == (2, "")
    assert "pip install 'onnxslim1x1[plot]'" in err
