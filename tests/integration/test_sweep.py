"""Test cases of the onnx package and damaged files go through the command line: a sample here, all with make sweep."""

import json
import random
import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_models" / "digits_googlenet.onnx"
sys.path.insert(0, str(ROOT / "scripts"))

import fuzz  # noqa: E402  (a script, found on the path that was just set)
import sweep  # noqa: E402
from trials import cases, mutate  # noqa: E402
from trials.pool import Answer, Worker  # noqa: E402


def script(name, *arguments, timeout):
    return subprocess.run([sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)], capture_output=True,
                          text=True, timeout=timeout, check=False)


def test_a_sample_of_the_shipped_cases(tmp_path):
    done = script("sweep.py", "--shipped", "--only", "pytorch", "--every", 8, "--json", tmp_path / "found.json",
                  "--workers", 1, "--hang", 60, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(found) > 10
    outcomes = {(s["step"], s["outcome"]) for case in found for s in case["steps"]}
    assert {("analyze", "ok"), ("slim", "ok"), ("outputs", "ok"), ("full rank", "ok")} <= outcomes


@pytest.mark.slow
def test_a_sample_of_all_cases():
    done = script("sweep.py", "--every", 35, "--validate", "--hang", 60, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sample_of_damaged_files(tmp_path):
    save_network(tmp_path / "models" / "net.onnx")
    done = script("fuzz.py", tmp_path / "models", SAMPLE, "--count", 60, "--workers", 1, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 files over 2 models" in done.stdout


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    save_network(tmp_path / "models" / "net.onnx")
    done = script("fuzz.py", tmp_path / "models", SAMPLE, "--count", 2000, "--seed", 1, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr


# the scripts can fail


def save_network(path):
    import numpy as np

    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,8,9,7] x) => (float[1,8,P,Q] y) {
            a = Conv<pads = [1,1,1,1]>(x, w)  r = Relu(a)  y = Conv<strides = [2,1]>(r, v) }""")
    rng = np.random.default_rng(5)
    for name, shape in (("w", (8, 8, 3, 3)), ("v", (8, 8, 3, 3))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return proto


@pytest.mark.parametrize(("answer", "outcome"), [
    (Answer(kind="done", code=0), "ok"), (Answer(kind="done", code=0, err="note: a\nwarning: b\n"), "ok"),
    (Answer(kind="done", code=0, err="note: nothing was measured: why\n"), "unmeasured"),
    (Answer(kind="done", code=3, err="note: a\nerror: b\n"), "declined"),
    (Answer(kind="done", code=2, err="error: b\n"), "declined"),
    (Answer(kind="done", code=1, err="error: b\n"), "code 1"), (Answer(kind="done", code=3, err=""), "code 3"),
    (Answer(kind="done", code=3, err="error: a\nerror: b\n"), "code 3"),
    (Answer(kind="done", code=0, err="[E:onnxruntime] something\n"), "noise"),
    (Answer(kind="traceback", err="Traceback\nValueError"), "traceback"), (Answer(kind="hang"), "hang"),
    (Answer(kind="crash", code=-11), "crash")])
def test_how_an_answer_is_judged(answer, outcome):
    assert sweep.judge("analyze", answer).outcome == outcome


def test_changed_outputs_are_noticed(tmp_path):
    proto = save_network(tmp_path / "a.onnx")
    values = numpy_helper.to_array(proto.graph.initializer[1]).copy()
    values[0, 0, 0, 0] *= 1.01
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "v"))
    (tmp_path / "b.onnx").write_bytes(proto.SerializeToString())
    first, second = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    assert cases.compare(first, first) == "equal"
    assert cases.compare(first, second).startswith("differs: output 0: by ")


def test_a_worker_that_hangs_crashes_or_raises_is_replaced():
    with Worker(hang_s=30) as worker:
        assert worker.call("os:_exit", status=7).kind == "crash"
        assert worker.call("json:loads", s="{").kind == "traceback"
        assert worker.call("json:loads", s="[1]").result == [1]
        worker.patience = 0.02
        assert worker.command("analyze", SAMPLE).kind == "hang"
        worker.patience = 1.0
        assert worker.command("--version").code == 0


def test_too_much_memory_is_noticed():
    assert fuzz._outcome(Answer(kind="done", code=0, peak_bytes=2 * 10**9), [], ".")[0] == "memory"


def test_damage_is_seeded_and_of_every_kind():
    raw = SAMPLE.read_bytes()
    assert mutate.mutated(raw, random.Random(4)) == mutate.mutated(raw, random.Random(4))
    small = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,9,7] x) => (float[1,2,P,Q] y) <float[2,2,1,1] w = {1, 2, 3, 4}> {
            a = Conv<pads = [1,1,1,1]>(x, w)  y = Relu(a) }""")
    small.graph.initializer[0].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(small.graph.initializer[0]), "w"))
    raw = small.SerializeToString()
    for name, change in mutate.MUTATIONS.items():
        assert any(change(raw, random.Random(seed)) != raw for seed in range(20)), name
