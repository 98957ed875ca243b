"""Memory and loading time, measured in a process of its own."""

import mmap
import platform
import subprocess
import sys

import numpy as np
import onnx
import pytest

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime import footprint
from onnxslim1x1.runtime.evidence import Footprint, denormal_warnings
from onnxslim1x1.runtime.footprint import Errand, measure_footprint, resident_bytes


def convolution(path, channels, side):
    """A layer whose weight takes 4 * channels^2 * 9 bytes and whose activation takes 4 * channels * side^2."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[1, {channels}, {side}, {side}] x) => (float[1, {channels}, {side}, {side}] y)
        {{
          h = Conv <pads = [1, 1, 1, 1]> (x, w)
          y = Relu(h)
        }}""")
    weight = np.random.default_rng(1).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    return Errand(path=path, feeds={"x": np.ones((1, channels, side, side), np.float32)}, threads=1)


def test_memory_grows_with_the_model(tmp_path):
    small = measure_footprint(convolution(tmp_path / "small.onnx", 16, 8), file_bytes=9_000)
    wide = measure_footprint(convolution(tmp_path / "wide.onnx", 1024, 8), file_bytes=38_000_000)
    tall = measure_footprint(convolution(tmp_path / "tall.onnx", 16, 1024), file_bytes=9_000)
    assert (small.file_bytes, wide.file_bytes) == (9_000, 38_000_000)
    assert all(0 < one.load_s < 60 for one in (small, wide, tall))
    assert wide.load_s > small.load_s
    if sys.platform == "linux":
        assert small.resident_bytes < 20e6
        assert wide.resident_bytes - small.resident_bytes > 30e6  # 38 MB of weights
        assert tall.resident_bytes - small.resident_bytes > 60e6  # 67 MB of activations
    if small.arena_bytes is not None:  # onnxruntime tells since 1.27 or so
        assert tall.arena_bytes - small.arena_bytes > 60e6


def test_denormal_numbers_are_zero_in_one_thread_only():
    """The process compares a thread that takes them for zero with one that does not."""
    code = """
import numpy as np
from onnxslim1x1.runtime.footprint import flushing_thread

def flushed():
    return float((np.array([1e-40], np.float32) * np.float32(1.0))[0]) == 0.0

print(flushing_thread().submit(flushed).result(), flushed())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    if platform.machine() in ("x86_64", "AMD64"):
        assert done.stdout == "True False\n"


def test_without_denormal_numbers_nothing_is_slower(tmp_path):
    found = measure_footprint(convolution(tmp_path / "small.onnx", 64, 28), file_bytes=1)
    assert 0.3 < found.denormal_slowdown < 1.5


@pytest.mark.parametrize(("slowdowns", "named"), [
    ((3.1, 1.02), ["original"]), ((1.0, 8.0), ["rewritten"]), ((4.0, 4.0), ["original", "rewritten"]),
    ((1.1, 0.9), []), ((None, None), [])])
def test_a_slowdown_by_denormal_numbers_is_told(slowdowns, named):
    pair = tuple(Footprint(load_s=0.1, arena_bytes=None, resident_bytes=None, file_bytes=9, denormal_slowdown=x)
                 for x in slowdowns)
    lines = denormal_warnings(pair)
    assert [name for line in lines for name in ("original", "rewritten") if f"the {name} model" in line] == named
    assert all("times slower" in line and "--data" in line for line in lines)
    assert denormal_warnings(None) == []


def test_a_process_that_fails_says_why(tmp_path):
    errand = convolution(tmp_path / "net.onnx", 4, 8)
    wrong = Errand(path=errand.path, feeds={"other": errand.feeds["x"]}, threads=1)
    with pytest.raises(RuntimeFailure, match=r"net\.onnx: its memory cannot be measured.*cannot run this model"):
        measure_footprint(wrong, file_bytes=1)


def test_resident_memory_is_that_of_now():
    before = resident_bytes()
    block = np.frombuffer(mmap.mmap(-1, 64_000_000), np.uint8)  # malloc may give memory that is resident already
    block[:] = 1
    after = resident_bytes()
    if before is None:
        assert sys.platform != "linux"
    else:
        assert 50e6 < after - before < 90e6
    assert block.sum() == 64_000_000


def test_where_the_system_does_not_tell_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "_STATUS", tmp_path / "none")
    assert resident_bytes() is None


def test_an_onnxruntime_that_does_not_tell_the_arena(tmp_path, monkeypatch):
    errand = convolution(tmp_path / "net.onnx", 4, 8)
    monkeypatch.setattr(footprint, "_HELD", "no_such_figure")
    assert footprint._arena_bytes(errand) is None
