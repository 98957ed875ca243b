"""Counting what a model costs: nothing is loaded that the answer does not need, and the answer is always the same."""

import subprocess
import sys

import onnx
import onnx.parser
import pytest

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 24, 20] image) => (float[N, 7, 23, 19] y) <float[7, 3, 2, 2] w = {%s}> { y = Conv(image, w) }"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save_model(onnx.parser.parse_model(TEXT % ", ".join(map(str, range(84)))), path)
    return path


def ran(*arguments):
    return subprocess.run([sys.executable, "-m", "onnxslim1x1", *map(str, arguments)], capture_output=True, text=True,
                          check=True, timeout=120)


def test_costs_load_nothing_that_runs_or_factorises(path):
    result = subprocess.run([sys.executable, "-X", "importtime", "-m", "onnxslim1x1", "analyze", "--no-measure",
                             str(path)], check=True, capture_output=True, text=True)
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {"onnx", "onnxslim1x1.search.inspection"} <= names  # the list is what it should be
    heavy = {"onnxruntime", "onnx_graphsurgeon", "scipy", "PIL", "pydantic", "rich", "matplotlib", "bokeh", "sympy"}
    assert heavy.isdisjoint(name.split(".")[0] for name in names)
    ours = {f"onnxslim1x1.{name}" for name in (
        "api", "search.workbench", "search.planner", "runtime.profile", "runtime.session",
        "graph.edit")}
    assert ours.isdisjoint(names)


def test_rows_and_bytes_are_the_same_from_run_to_run(path, monkeypatch):
    found = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        found.append([ran("analyze", "--no-measure", *more, path).stdout for more in ((), ("--json",))])
    assert found[0] == found[1]
    assert found[0][0].startswith("layer")
