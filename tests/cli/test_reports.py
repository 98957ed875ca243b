"""Reports as files: `analyze --html`, `--csv`, `--markdown`, two models at once, and `report`."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from typer.testing import CliRunner

from onnxslim1x1.cli import main
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
OPTIONS = ("--no-measure", "--dim", "N=1")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a model, and the same model with every node called something else and fewer channels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(7)
    for path, prefix, shapes in (("net.onnx", "", SHAPES), ("thin.onnx", "x", SHAPES | {
            "wide_w": (24, 48, 3, 3), "head_w": (7, 24)})):
        model = onnx.parser.parse_model(TEXT)
        for node in model.graph.node:
            node.name = prefix + node.output[0]
        model.graph.initializer.extend(onnx.numpy_helper.from_array(
            rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items())
        onnx.save(model, path)
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    with pytest.raises(SlimError) as caught:
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False, standalone_mode=False)
    assert not list(Path().glob("*.html"))
    return str(caught.value)


def test_files_are_written_beside_the_table():
    result = run("analyze", "net.onnx", *OPTIONS, "--html", "r.html", "--csv", "r.csv", "--markdown", "r.md")
    assert result.stdout.splitlines()[0].startswith("layer")
    assert result.stderr.splitlines() == [f"note: wrote r.{end}" for end in ("html", "csv", "md")]
    assert Path("r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    rows = list(csv.DictReader(io.StringIO(Path("r.csv").read_text(encoding="utf-8"))))
    assert [r["layer"] for r in rows] == ["stem", "wide", "scores"]
    assert Path("r.md").read_text(encoding="utf-8").startswith("# net.onnx\n")
    assert sorted(p.name for p in Path().iterdir() if p.name.startswith(".")) == []


def test_a_dash_is_standard_output_and_takes_the_place_of_the_table():
    text = run("analyze", "net.onnx", *OPTIONS, "--csv", "-", "--sort", "macs", "--top", 2).stdout
    assert [r["layer"] for r in csv.DictReader(io.StringIO(text))] == ["wide", "stem"]
    text = run("analyze", "net.onnx", *OPTIONS, "--markdown", "-").stdout
    assert text.startswith("# net.onnx\n")
    assert text.count("| wide |") == 1


def test_json_goes_with_files():
    found = json.loads(run("analyze", "net.onnx", *OPTIONS, "--json", "--html", "r.html").stdout)
    assert found["command"] == "analyze"
    assert found["model"]["file_bytes"] == Path("net.onnx").stat().st_size
    assert Path("r.html").stat().st_size > 1_000_000  # bokeh is in it


def test_a_report_is_made_again_from_json():
    Path("a.json").write_text(run("analyze", "net.onnx", *OPTIONS, "--json", "--csv", "a.csv").stdout, encoding="utf-8")
    result = run("report", "a.json")
    assert (result.stdout, result.stderr) == ("", "note: wrote a.html\n")
    assert Path("a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run("report", "a.json", "--csv", "-").stdout == Path("a.csv").read_text(encoding="utf-8")
    run("report", "a.json", "--html", "b.html", "--markdown", "b.md")
    assert Path("b.md").exists()


def test_two_models_side_by_side():
    result = run("analyze", "net.onnx", "thin.onnx", *OPTIONS)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["layer", "became", "MACs", "after", "MACs"]
    assert lines[2][:2] == ["stem", "xstem"]
    assert lines[3][:2] == ["wide", "xwide"]
    assert lines[3][-2:] == ["1.67x", "less"]
    found = json.loads(run("analyze", "net.onnx", "thin.onnx", *OPTIONS, "--json", "--html", "c.html").stdout)
    assert found["command"] == "compare"
    assert [m["found"] for m in found["matches"]] == ["output"] * 3
    Path("c.json").write_text(json.dumps(found), encoding="utf-8")
    page = Path("c.html").read_text(encoding="utf-8")
    run("report", "c.json")
    assert "net.onnx → thin.onnx" in page
    assert Path("c.html").read_text(encoding="utf-8").count("<tr data-row") == page.count("<tr data-row") == 3


@pytest.mark.parametrize(("arguments", "message"), [
    (["--html", "-"], "--html -: a page goes into a file; name one, such as report.html"),
    (["--csv", "-", "--markdown", "-"], "--csv and --markdown: both write to standard output; give one of them"),
    (["--csv", "-", "--json"], "--csv and --json: both write to standard output"),
    (["--csv", "a", "--markdown", "./a"], "--csv and --markdown: both write to a; give one of them another file"),
    (["--csv", "net.onnx"], "net.onnx: output and input are the same file; choose another name with --csv"),
    (["--markdown", "missing/a.md"], "missing: no such folder to write a.md into; create it first"),
    (["--html", "."], ".: is a directory; name the file to write, such as report.html"),
    (["--nodes", "thin.onnx"], "--nodes"),
])
def test_what_makes_no_sense_is_refused_before_the_work(arguments, message):
    assert refused("analyze", "net.onnx", *OPTIONS, *arguments).startswith(message)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    message = refused("analyze", "net.onnx", *OPTIONS, "--html", "r.html")
    assert message.startswith("--html r.html: a page needs bokeh (")
    assert message.endswith("pip install 'onnxslim1x1[report]'")
    run("analyze", "net.onnx", *OPTIONS, "--csv", "r.csv")  # needs none


def test_files_that_are_no_reports(monkeypatch, capsys):
    Path("no.json").write_text('{"schema_version": 1, "command": "plan"}', encoding="utf-8")
    for name, message in (("no.json", "no.json: is no report of a model"), ("gone.json", "gone.json: no such file; "),
                          ("net.onnx", "net.onnx: is no text, but a report is a JSON file")):
        monkeypatch.setattr(sys, "argv", ["onnxslim1x1", "report", name])
        with pytest.raises(SystemExit) as caught:
            main.main()
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (3, "")
        assert err.startswith(f"error: {message}")
        assert err.count("\n") == 1


def test_a_report_does_not_replace_what_it_is_made_from():
    Path("a.json").write_text(run("analyze", "net.onnx", *OPTIONS, "--json").stdout, encoding="utf-8")
    assert refused("report", "a.json", "--csv", "a.json").startswith("a.json: output and input are the same file")


def test_without_a_page_nothing_of_it_is_loaded():
    code = ("import sys; from onnxslim1x1.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
            "print([n for n in ('bokeh', 'jinja2', 'playwright', 'jsonschema') if n in sys.modules], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, "analyze", "net.onnx", *OPTIONS], check=True,
                          capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
