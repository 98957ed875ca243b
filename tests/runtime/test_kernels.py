"""Reading the profiler's events: runs, nesting, medians; and no file stays behind."""

import tempfile

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime.benchmark import timing_options
from onnxslim1x1.runtime.kernels import Kernel, KernelRun, median_kernels, recording, runs_of

MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[2,64] x, int64 n) => (float[2,64] y) {
  t = Neg(x)
  true = Constant<value = bool {1}>()
  l = Loop(n, true, t) <body = b (int64 i, bool ci, float[2,64] s) => (bool co, float[2,64] so) {
    co = Identity(ci)
    so = Exp(s)
  }>
  y = Softmax(l)
}""")
FEEDS = {"x": np.linspace(-3, 0.5, 128, dtype=np.float32).reshape(2, 64), "n": np.array(3)}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """Work in an empty folder with an empty folder for temporary files, and check that both are empty again."""
    places = [tmp_path / "cwd", tmp_path / "tmp"]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
    yield
    assert [list(place.iterdir()) for place in places] == [[], []]


def node(name, ts, dur, *, index=0, op="Op", shapes=()):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur,
            "args": {"node_index": str(index), "op_name": op, "input_type_shape": list(shapes)}}


def session(name, ts, dur):
    return {"cat": "Session", "name": name, "ts": ts, "dur": dur, "args": {}}


def execute(ts, dur):
    return session("SequentialExecutor::Execute", ts, dur)


def test_a_run_has_the_kernels_of_the_main_graph_only():
    events = [session("session_initialization", 0, 9), node("a", 20, 3),
              node("i", 26, 2), execute(25, 4), node("i", 31, 2), execute(30, 4), node("loop", 24, 12),
              node("b", 37, 5), execute(19, 25), session("model_run", 18, 27)]
    (run,) = runs_of(events)
    assert [(k.node, round(k.seconds * 1e6)) for k in run] == [("a", 3), ("loop", 12), ("b", 5)]


def test_kernels_of_bodies_in_bodies_are_left_out():
    events = [node("deep", 14, 1), execute(13, 3), node("inner if", 12, 5), execute(11, 7), node("if", 10, 9),
              execute(9, 11), session("model_run", 8, 13)]
    assert [[k.node for k in run] for run in runs_of(events)] == [["if"]]


def test_runs_are_kept_apart_and_an_unfinished_one_is_dropped():
    events = [node("a", 2, 3), execute(1, 5), session("model_run", 0, 7),
              node("a", 12, 4), execute(11, 6), session("model_run", 10, 8), node("a", 22, 9)]
    assert [[round(k.seconds * 1e6) for k in run] for run in runs_of(events)] == [[3], [4]]


def test_shapes_operator_and_index_are_read():
    shapes = [{"float": [1, 3, 5]}, {"int64": []}]
    ((kernel,),) = runs_of([node("a", 2, 3, index=7, op="Conv", shapes=shapes), execute(1, 5),
                            session("model_run", 0, 7)])
    assert kernel == KernelRun(node="a", index=7, op="Conv", seconds=pytest.approx(3e-6), input_shapes=((1, 3, 5), ()))


def test_the_provider_of_a_kernel_is_read_and_kernels_of_two_are_kept_apart():
    first, second = node("a", 2, 3), node("a", 6, 5)
    first["args"]["provider"], second["args"]["provider"] = "A", "B"
    (run,) = runs_of([first, second, execute(1, 12), session("model_run", 0, 14)])
    assert [kernel.provider for kernel in run] == ["A", "B"]
    assert [(k.provider, round(k.seconds * 1e6)) for k in median_kernels([run])] == [("A", 3), ("B", 5)]


def run_of(*pairs):
    return tuple(KernelRun(node=name, index=k, op="Op", seconds=seconds, input_shapes=())
                 for k, (name, seconds) in enumerate(pairs))


def test_each_kernel_has_its_own_median_even_if_names_are_equal():
    runs = [run_of(("", 1.0), ("", 30.0)), run_of(("", 9.0), ("", 10.0)), run_of(("", 2.0), ("", 20.0))]
    assert median_kernels(runs) == (Kernel(node="", op="Op", seconds=2.0), Kernel(node="", op="Op", seconds=20.0))


@pytest.mark.parametrize("runs", [[], [()]])
def test_a_profile_without_kernels_is_a_failure(runs):
    with pytest.raises(RuntimeFailure, match=r"^m\.onnx: .*recorded no kernel"):
        median_kernels(runs, where="m.onnx")


def test_a_real_loop_is_one_kernel_per_run():
    with recording(MODEL.SerializeToString(), options=timing_options(1)) as recorded:
        for _ in range(3):
            recorded.session.run(None, FEEDS)
        runs = recorded.runs()
    assert [[k.op for k in run] for run in runs] == [["Neg", "Loop", "Softmax"]] * 3
    assert runs[0][2].input_shapes == ((2, 64),)
    assert all(kernel.seconds >= 0 for run in runs for kernel in run)


def test_an_error_while_recording_leaves_no_file():
    def fail():
        with recording(MODEL.SerializeToString(), options=timing_options(1)) as recorded:
            recorded.session.run(None, FEEDS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_refused_model_is_reported_with_its_name():
    with (pytest.raises(RuntimeFailure, match=r"^bad\.onnx: onnxruntime cannot load"),
          recording(b"no model", options=timing_options(1), where="bad.onnx")):
        pass
