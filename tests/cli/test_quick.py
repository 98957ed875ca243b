"""The quick way says what the usual one says, and loads nothing that the answer does not need."""

import subprocess
import sys

import onnx
import onnx.parser
import pytest

from onnxslim1x1.cli import quick

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7, 23, 19] y) <float[7, 3, 2, 2] w = {%s}> { y = Conv(image, w) }"""
USUAL = ("--seed", "0")  # an option that changes nothing here, but has to be parsed


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.parser.parse_model(TEXT % ", ".join(map(str, range(84)))), path)
    return path


def ran(*arguments):
    return subprocess.run([sys.executable, "-m", "onnxslim1x1", *map(str, arguments)], capture_output=True, text=True,
                          check=False, timeout=120)


@pytest.mark.parametrize("model", ["good", "missing", "empty"])
def test_it_says_what_the_usual_way_says(model, path):
    if model == "missing":
        path.unlink()
    elif model == "empty":
        path.write_bytes(b"")
    expected = ran("analyze", "--no-measure", path, *USUAL)
    for arguments in (("--no-measure", path), (path, "--no-measure")):
        found = ran("analyze", *arguments)
        assert (found.returncode, found.stdout, found.stderr) == (
            expected.returncode, expected.stdout, expected.stderr)
    assert expected.returncode == (0 if model == "good" else 3)
    assert (expected.stdout != "") == (model == "good")


@pytest.mark.parametrize("arguments", [
    [], ["analyze"], ["analyze", "m.onnx"], ["analyze", "--no-measure"], ["analyze", "--no-measure", "--no-measure"],
    ["analyze", "--no-measure", "-x"], ["analyze", "--no-measure", "m.onnx", "--json"], ["slim", "--no-measure", "m"],
    ["analyze", "m.onnx", "n.onnx"]])
def test_everything_else_is_left_to_the_parser(arguments, monkeypatch):
    monkeypatch.setattr(quick, "_print_costs", lambda _: pytest.fail("answered"))
    assert not quick._answered(arguments)


def test_an_interrupt_is_left_to_the_usual_way(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quick, "_print_costs", interrupted)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert not quick._answered(["analyze", "--no-measure", "m.onnx"])


def test_costs_load_nothing_that_runs_factorises_or_parses(path):
    result = subprocess.run([sys.executable, "-X", "importtime", "-m", "onnxslim1x1", "analyze", "--no-measure",
                             str(path)], check=True, capture_output=True, text=True)
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {"onnx", "onnxslim1x1.search.inspection"} <= names  # the list is what it should be
    heavy = {"onnxruntime", "onnx_graphsurgeon", "scipy", "PIL", "pydantic", "typer", "rich", "matplotlib", "asyncio"}
    assert heavy.isdisjoint(name.split(".")[0] for name in names)
    ours = {f"onnxslim1x1.{name}" for name in (
        "api", "cli.main", "search.workbench", "search.planner", "runtime.profile", "runtime.session", "graph.edit")}
    assert ours.isdisjoint(names)


def test_rows_and_bytes_are_the_same_from_run_to_run(path, monkeypatch):
    found = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.append([ran("analyze", "--no-measure", *more, path).stdout for more in ((), ("--json",))])
    assert found[0] == found[1]
    assert found[0][0].startswith("layer")
