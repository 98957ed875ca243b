"""Weights beside the model: only layers that change are read, and files beyond 2 GiB are no obstacle."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

from onnxslim1x1 import api
from onnxslim1x1.graph import save as saving
from onnxslim1x1.graph.stored import Place
from onnxslim1x1.search.plan import Budget

LAYERS, WIDTH = 9, 8192  # 9 dense layers of 268 MB: 2.4 GB


@pytest.fixture
def small(tmp_path):
    """Three convolutions with their weights in a file beside the model."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        net (float[1, 32, 24, 20] x) => (float[1, 48, 24, 20] y) {
          a = Conv <pads = [1, 1, 1, 1]> (x, a_w)
          b = Conv <pads = [1, 1, 1, 1]> (a, b_w)
          y = Conv <pads = [1, 1, 1, 1]> (b, y_w) }""")
    rng = np.random.default_rng(0)
    for node, (outputs, inputs) in zip(proto.graph.node, ((64, 32), (64, 64), (48, 64)), strict=True):
        node.name = node.output[0]
        weight = rng.standard_normal((outputs, inputs, 3, 3)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, node.input[1]))
    path = tmp_path / "source" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(proto, path, save_as_external_data=True, location="m.bin", size_threshold=16)
    return path


@pytest.fixture
def read(monkeypatch):
    """Bytes that were read from files of weights, one number for each time."""
    lengths = []
    for name in ("read", "array"):
        original = getattr(Place, name)
        monkeypatch.setattr(Place, name, lambda place, *rest, original=original: (
            lengths.append(place.length), original(place, *rest))[1])
    return lengths


def weights(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("command", ["slim", "apply"])
def test_only_the_layers_that_change_are_read(command, small, tmp_path, read):
    budget, out = Budget(ranks={"b": 8}), tmp_path / "out.onnx"
    if command == "slim":
        api.slim(small, out, budget=budget, check=None)
    else:
        plan = api.plan(small, budget)
        read.clear()
        api.apply(small, plan, out)
    assert set(read) == {64 * 64 * 9 * 4}
    before, after = weights(small), weights(out)
    for name in ("a_w", "y_w"):
        np.testing.assert_array_equal(after[name], before[name])
    assert "b_w" not in after
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["out.onnx", "out.onnx.data"]
    onnx.checker.check_model(str(out), full_check=True)


def test_nothing_is_read_for_costs(small, read):
    assert api.analyze(small, measure=False).macs > 0
    assert read == []


def test_files_of_the_result_are_the_same_every_time(small, tmp_path):
    found = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        out = tmp_path / str(number) / "out.onnx"
        api.slim(small, out, budget=Budget(ranks={"b": 8}), check=None)
        found.append([path.read_bytes() for path in (out, out.with_name("out.onnx.data"))])
    assert found[0] == found[1]


def test_what_is_too_large_for_one_file_goes_beside_it(small, tmp_path, monkeypatch):
    inline = tmp_path / "inline.onnx"
    onnx.save_model(onnx.load(small), inline)
    monkeypatch.setattr(saving, "_LARGEST_SINGLE_FILE", 10_000)
    api.slim(inline, tmp_path / "out.onnx", budget=Budget(ranks={"b": 8}), check=None)
    assert (tmp_path / "out.onnx.data").stat().st_size > 100_000
    assert (tmp_path / "out.onnx").stat().st_size < 10_000
    assert set(weights(tmp_path / "out.onnx")) >= {"a_w", "y_w"}


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """2.4 GB that take no room on the disk: zeros that were never written."""
    path = tmp_path_factory.mktemp("huge") / "huge.onnx"
    nodes, tensors = [], []
    for number in range(LAYERS):
        nodes.append(helper.make_node("Gemm", [f"x{number}", f"w{number}"], [f"x{number + 1}"], name=f"dense{number}"))
        tensor = onnx.TensorProto(name=f"w{number}", data_type=onnx.TensorProto.FLOAT, dims=(WIDTH, WIDTH),
                                  data_location=onnx.TensorProto.EXTERNAL)
        size = 4 * WIDTH**2
        for key, value in (("location", "huge.data"), ("offset", number * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, WIDTH]) for n in ("x0", f"x{LAYERS}")]
    graph = helper.make_graph(nodes, "huge", info[:1], info[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    with path.with_name("huge.data").open("wb") as file:
        file.truncate(LAYERS * 4 * WIDTH**2)
    return path


LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "onnxslim1x1", *sys.argv[1:]])
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
"""


def process(*arguments):
    """Exit code, standard output, seconds of processor time and peak memory in MB of a process of its own.

    It is started by a small one: a child counts the memory of what it was forked from.
    """
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *map(str, arguments)], capture_output=True, text=True,
                          check=True, timeout=300, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    code, cpu_s, peak_mb = done.stderr.splitlines()[-1].split()
    return int(code), done.stdout, float(cpu_s), float(peak_mb)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_costs_of_more_than_two_gigabytes(more, huge):
    code, output, cpu_s, peak_mb = process("analyze", "--no-measure", huge, *more)
    assert code == 0
    assert peak_mb < 300
    assert cpu_s < 4  # 0.4 where nothing else runs
    if more:
        assert json.loads(output)["totals"]["params"] == LAYERS * WIDTH**2


@pytest.mark.slow
def test_more_than_two_gigabytes_are_copied_without_being_held(huge, tmp_path):
    code, _, _, peak_mb = process("slim", "--no-validate", huge, "-o", tmp_path / "out.onnx", "--exclude", "dense*")
    assert code == 0
    assert peak_mb < 300  # one layer alone has 268
    assert (tmp_path / "out.onnx.data").stat().st_size == huge.with_name("huge.data").stat().st_size
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
