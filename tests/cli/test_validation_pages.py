"""`validate --html`, `slim --html`, and `report` of what both print with --json: real runs of a small model."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxslim1x1.cli.main import app
from onnxslim1x1.errors import SlimError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7] scores) {
  stem = Conv <strides = [1, 2], pads = [2, 1, 2, 1]> (image, stem_w)
  r = Relu(stem)
  wide = Conv <pads = [1, 1, 1, 1]> (r, wide_w)
  g = GlobalAveragePool(wide)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (48, 3, 5, 3), "wide_w": (40, 48, 3, 3), "head_w": (7, 40)}
SHORT = ("--time", "0.1", "--threads", "1", "--no-cache")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a model, the same model with other weights in its last layer, and labelled images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for path, seed in (("net.onnx", 0), ("other.onnx", 1)):
        rng = np.random.default_rng(7)
        model = onnx.parser.parse_model(TEXT)
        for node in model.graph.node:
            node.name = node.output[0]
        weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        weights["head_w"] += seed * 0.02 * rng.standard_normal(SHAPES["head_w"]).astype(np.float32)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
        onnx.save(model, path)
    rng = np.random.default_rng(3)
    np.savez("images.npz", images=rng.integers(0, 256, (24, 24, 20, 3), dtype=np.uint8), labels=np.arange(24) % 7)
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    with pytest.raises(SlimError) as caught:
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False, standalone_mode=False)
    assert not list(Path().glob("*.html"))
    assert not Path("out.onnx").exists()
    return str(caught.value)


def test_validate_writes_a_page_beside_the_text():
    result = run("validate", "net.onnx", "other.onnx", "--data", "images.npz", "--html", "report.html", *SHORT)
    assert "note: wrote report.html" in result.stderr
    assert "on images.npz" in result.stdout
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "net.onnx → other.onnx" in page
    assert "24 images of images.npz" in page
    assert 'id="plot-times_0"' in page


def test_the_document_is_complete_and_makes_the_same_page():
    printed = run("validate", "net.onnx", "other.onnx", "--html", "a.html", "--json", *SHORT).stdout
    Path("validation.json").write_text(printed, encoding="utf-8")
    found = json.loads(printed)
    (latency,) = found["validation"]["latencies"]
    assert latency["original"]["runs"] == len(latency["samples"]["original"]) >= 15
    assert min(latency["samples"]["rewritten"]) <= latency["rewritten"]["median_s"]
    result = run("report", "validation.json")
    assert (result.stdout, result.stderr) == ("", "note: wrote validation.html\n")
    pages = [Path(name).read_text(encoding="utf-8").partition("<script type=")[0] for name in (
        "a.html", "validation.html")]
    assert hash(pages[0]) == hash(pages[1])  # bokeh numbers the parts of plots anew in every process


def test_a_broken_gate_has_a_page_and_its_exit_code():
    run("validate", "net.onnx", "other.onnx", "--min-snr", 300, "--html", "report.html", *SHORT, code=4)
    assert "FAILED: 1 of 4 promises is broken" in Path("report.html").read_text(encoding="utf-8")


def test_slim_writes_a_page_with_the_plan():
    printed = run("slim", "net.onnx", "-o", "out.onnx", "--rank", "wide=16", "--html", "report.html", "--json",
                  *SHORT).stdout
    Path("slim.json").write_text(printed, encoding="utf-8")
    page = Path("report.html").read_text(encoding="utf-8")
    assert "net.onnx → out.onnx" in page
    assert "What was rewritten" in page
    assert '<td class="text">wide</td>' in page
    run("report", "slim.json", "--markdown", "slim.md")
    assert "## Rewritten layers" in Path("slim.md").read_text(encoding="utf-8")
    run("slim", "net.onnx", "-o", "out.onnx", "--rank", "wide=16", "--html", "report.html", "--no-validate", *SHORT)
    assert "Rewritten, but not compared" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("arguments", "message"), [
    (("validate", "net.onnx", "other.onnx", "--html", "-"), "--html -: a page goes into a file; name one"),
    (("validate", "net.onnx", "other.onnx", "--html", "other.onnx"), "other.onnx: output and input are the same file"),
    (("validate", "net.onnx", "other.onnx", "--data", "images.npz", "--html", "images.npz"), "images.npz: output and"),
    (("validate", "net.onnx", "other.onnx", "--html", "missing/a.html"), "missing: no such folder to write a.html"),
    (("slim", "net.onnx", "-o", "out.onnx", "--html", "net.onnx"), "net.onnx: output and input are the same file"),
    (("slim", "net.onnx", "-o", "out.onnx", "--html", "./out.onnx"), "--html and --output: both write to out.onnx"),
    (("slim", "net.onnx", "--explore", "--html", "a.html"), "--html: contradicts --explore")])
def test_what_makes_no_sense_is_refused_before_the_work(arguments, message):
    assert refused(*arguments).startswith(message)


def test_a_validation_without_layers_has_no_csv():
    Path("v.json").write_text(run("validate", "net.onnx", "other.onnx", "--json", *SHORT).stdout, encoding="utf-8")
    assert refused("report", "v.json", "--html", "v.html", "--csv", "v.csv").startswith("--csv: a table has one line")
    assert not Path("v.csv").exists()
