"""Profiles of small real models through the real onnxruntime: who gets the time, and that the sums agree."""

import math
import tempfile
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxslim1x1.runtime.profile as module
from onnxslim1x1.errors import OptionError, RuntimeFailure
from onnxslim1x1.runtime.benchmark import BenchmarkSettings
from onnxslim1x1.runtime.hardware import channel_block
from onnxslim1x1.runtime.kernels import Kernel, median_kernels
from onnxslim1x1.runtime.profile import PROFILE_SETTINGS, observed_input_shapes, profile_model
from onnxslim1x1.runtime.session import create_session, input_specs, random_feeds

QUICK = BenchmarkSettings(budget_s=0.0, min_rounds=3, max_rounds=3, warmup_runs=1, warmup_s=0.0, threads=1)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """Work in an empty folder with an empty folder for temporary files, and check that both are empty again."""
    channel_block()  # outside, for it is remembered
    places = [tmp_path / "cwd", tmp_path / "tmp"]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
    yield
    assert [list(place.iterdir()) for place in places] == [[], []]


def build(text, dtype=np.float32, **weights):
    """Model from ONNX text; a weight is an array, or the shape of a seeded random one."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n{text}')
    for name, given in weights.items():
        array = rng.uniform(0.1, 1, given).astype(dtype) if isinstance(given, tuple) else given
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model


def feeds_of(model):
    return random_feeds(input_specs(create_session(model.SerializeToString())))


def profiled(model, **options):
    """Profile and check what holds for every profile."""
    profile = profile_model(model, feeds_of(model), **({"settings": QUICK} | options))
    nodes = profile.nodes
    assert [(n.index, n.op) for n in nodes] == [(k, n.op_type) for k, n in enumerate(model.graph.node)]
    assert all(n.seconds >= 0 and n.inserted_s >= 0 for n in nodes)
    for n in nodes:
        if n.absorbed_into is not None:
            assert n.seconds == 0
            assert n.kernels == ()
            assert nodes[n.absorbed_into].absorbed_into is None
            assert nodes[n.absorbed_into].kernels
    parts = math.fsum(n.seconds + n.inserted_s for n in nodes)
    unmapped = math.fsum(seconds for _, _, seconds in profile.unmapped)
    assert parts == pytest.approx(profile.mapped_s, rel=1e-9)
    assert profile.mapped_s + unmapped == pytest.approx(profile.total_kernel_s, rel=1e-9)
    assert math.fsum(seconds for _, seconds in profile.by_op) == pytest.approx(profile.total_kernel_s, rel=1e-9)
    assert [s for _, s in profile.by_op] == sorted((s for _, s in profile.by_op), reverse=True)
    assert profile.reorder_s + profile.cast_s <= profile.total_kernel_s
    assert profile.unmapped == ()
    return profile


def absorbed(profile):
    return {n.index: n.absorbed_into for n in profile.nodes if n.absorbed_into is not None}


def with_time(profile):
    return [n.index for n in profile.nodes if n.seconds > 0]


def test_batch_norm_and_activation_are_in_the_time_of_their_convolution():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,32,16,16] y) {
      a = Conv<pads=[1,1,1,1]>(x, w)
      b = BatchNormalization(a, s, s, s, s)
      y = Relu(b)
    }""", w=(32, 16, 3, 3), s=(32,)))
    assert with_time(profile) == [0]
    assert absorbed(profile) == {1: 0, 2: 0}
    assert profile.nodes[0].input_shapes == ((1, 16, 16, 16), (32, 16, 3, 3))
    assert profile.nodes[2].input_shapes == ((1, 32, 16, 16),)


RESIDUAL = build("""g (float[1,16,16,16] x) => (float[1,10] y) {
  a = Conv<pads=[1,1,1,1]>(x, w)
  r = Relu(a)
  b = Conv<pads=[1,1,1,1]>(r, w)
  c = Conv(x, v)
  s = Add(b, c)
  t = Relu(s)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm(f, g, k)
}""", w=(16, 16, 3, 3), v=(16, 16, 1, 1), g=(16, 10), k=(10,))


def test_the_add_of_a_shortcut_does_not_take_the_time_of_its_convolutions():
    profile = profiled(RESIDUAL)
    assert {0, 2, 3, 8} <= set(with_time(profile))
    if channel_block() > 1:  # elsewhere onnxruntime fuses an Add only behind a convolution with a bias
        fused = absorbed(profile)
        assert fused.keys() == {1, 4, 5}
        assert fused[1] == 0
        assert fused[4] == fused[5] in (2, 3)


def test_names_of_nodes_do_not_matter():
    misleading = onnx.ModelProto()
    misleading.CopyFrom(RESIDUAL)
    for k, node in enumerate(misleading.graph.node):
        node.name = f"@{8 - k}"
    assert {node.name for node in RESIDUAL.graph.node} == {""}
    assert absorbed(profiled(misleading)) == absorbed(profiled(RESIDUAL))


def test_tensors_that_are_called_like_ours_do_not_confuse():
    clashing = onnx.ModelProto()
    clashing.CopyFrom(RESIDUAL)
    names = {"a": "@3.0", "r": "@0", "b": "@8.0_nchwc", "c": "@7"}
    for node in clashing.graph.node:
        for fields in (node.input, node.output):
            for k, name in enumerate(fields):
                fields[k] = names.get(name, name)
    assert absorbed(profiled(clashing)) == absorbed(profiled(RESIDUAL))


def test_identity_dropout_and_pad_stand_in_nobodys_way():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,16,16,16] y) {
      p = Pad(x, pads)
      a = Conv(p, w)
      i = Identity(a)
      r = Relu(i)
      d = Dropout(r)
      y = Conv(d, v)
    }""", pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), w=(16, 16, 3, 3), v=(16, 16, 1, 1)))
    assert with_time(profile) == [1, 5]
    assert absorbed(profile) == {0: 1, 2: 1, 3: 1, 4: 1}
    assert profile.nodes[1].input_shapes[0] == (1, 16, 18, 18)  # what the convolution sees, though its Pad is gone


def test_matmul_and_add_become_one_gemm_that_belongs_to_the_matmul():
    profile = profiled(build("""g (float[5,64] x) => (float[5,32] y) {
      m = MatMul(x, w)
      a = Add(m, b)
      y = Relu(a)
    }""", w=(64, 32), b=(32,)))
    assert with_time(profile) == [0]
    assert absorbed(profile) == {1: 0, 2: 0}
    assert "Gemm" in profile.nodes[0].kernels[0]


def test_half_precision_casts_are_counted_apart_from_the_convolutions():
    profile = profiled(build("""g (float16[1,16,32,32] x) => (float16[1,16,32,32] y) {
      a = Conv(x, w)
      r = Relu(a)
      y = Conv(r, v)
    }""", dtype=np.float16, w=(16, 16, 1, 1), v=(16, 16, 1, 1)))
    assert {0, 2} <= set(with_time(profile))
    assert absorbed(profile) in ({1: 0}, {})  # before 1.23, onnxruntime runs a half-precision Relu on its own
    assert profile.cast_s == dict(profile.by_op).get("Cast", 0.0)
    assert "Cast" not in {op for n in profile.nodes for op in n.kernels}


def test_casts_and_transposes_of_the_model_itself_are_its_own():
    profile = profiled(build("""g (int32[1,16,32,32] x) => (int32[1,16,32,32] y) {
      f = Cast<to=1>(x)
      a = Conv(f, w)
      t = Transpose<perm=[0,1,3,2]>(a)
      y = Cast<to=6>(t)
    }""", w=(16, 16, 1, 1)))
    assert [n.kernels for n in profile.nodes] == [("Cast",), ("Conv",), ("Transpose",), ("Cast",)]
    assert profile.cast_s == 0


LOOP = """g (float[1,64] x, int64 n, bool c) => (float[1,64] y, float[1,64] z) {
  t = MatMul(x, w)
  true = Constant<value = bool {1}>()
  y = Loop(n, true, t) <body = b (int64 i, bool ci, float[1,64] s) => (bool co, float[1,64] so) {
    co = Identity(ci)
    q = MatMul(s, w)
    so = Add(q, t)
  }>
  z = If(c) <then_branch = tb () => (float[1,64] r) { r = MatMul(t, w) },
             else_branch = eb () => (float[1,64] r) { r = Relu(t) }>
}"""


def test_the_time_of_a_body_is_that_of_its_loop_and_counts_once():
    profile = profiled(build(LOOP, w=(64, 64)))
    assert with_time(profile) == [0, 2, 3]
    assert [n.kernels for n in profile.nodes] == [("MatMul",), (), ("Loop",), ("If",)]
    assert dict(profile.by_op).keys() == {"MatMul", "Loop", "If"}


def test_a_branch_that_is_taken_for_certain_is_inlined_and_still_belongs_to_its_if():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,16,16,16] y) <bool c = {1}> {
      a = Softmax(x)
      z = If(c) <then_branch = tb () => (float[1,16,16,16] r) { r = Conv(a, w) },
                 else_branch = eb () => (float[1,16,16,16] r) { r = Relu(a) }>
      y = Sigmoid(z)
    }""", w=(16, 16, 1, 1)))
    assert profile.nodes[1].kernels
    assert "Conv" in profile.nodes[1].kernels[0]
    assert absorbed(profile) == {2: 1}


def test_each_call_of_a_function_has_its_own_time():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,16,16,16] y) {
      a = local.f(x, w)
      b = local.f(a, v)
      y = Softmax(b)
    }
    <domain: "local", opset_import: ["" : 17]> f (x, w) => (y) {
      t = Conv(x, w)
      y = Softmax(t)
    }""", w=(16, 16, 1, 1), v=(16, 16, 1, 1)))
    assert [[op for op in n.kernels if op in ("Conv", "Softmax")] for n in profile.nodes] == [
        ["Conv", "Softmax"], ["Conv", "Softmax"], ["Softmax"]]


def test_a_constant_branch_costs_nothing():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,16,16,16] y) {
      n = Neg(w)
      e = Exp(n)
      y = Conv(x, e)
    }""", w=(16, 16, 1, 1)))
    assert with_time(profile) == [2]
    assert absorbed(profile) == {}
    assert [n.inserted_s for n in profile.nodes[:2]] == [0, 0]


def test_weights_that_can_be_fed_keep_onnxruntime_from_fusing_and_the_profile_shows_it():
    text = """g (float[1,16,16,16] x, float[16,16,1,1] w, float[16] s) => (float[1,16,16,16] y) {
      a = Conv(x, w)
      b = BatchNormalization(a, s, s, s, s)
      y = Softmax(b)
    }"""
    model = build(text, w=(16, 16, 1, 1), s=(16,))
    profile = profiled(model)
    assert with_time(profile) == [0, 1, 2]
    assert [name for name, _ in profile.feed_shapes] == ["x"]


def test_of_two_equal_convolutions_one_has_the_time_and_none_is_absorbed_by_an_activation():
    profile = profiled(build("""g (float[1,16,16,16] x) => (float[1,16,16,16] y) {
      a = Conv(x, w)
      b = Conv(x, w)
      c = Softmax(a)
      d = Exp(b)
      y = Mul(c, d)
    }""", w=(16, 16, 1, 1)))
    assert [bool(n.kernels) for n in profile.nodes].count(True) == 4
    assert sum("Conv" in n.kernels for n in profile.nodes[:2]) == 1


def test_every_kind_of_layer_has_time():
    profile = profiled(build("""g (float[2,3,20,24] x) => (float[2,7] y) {
      a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)
      b = Conv<group=8, pads=[1,1,1,1]>(a, d)
      c = ConvTranspose(b, t)
      p = GlobalMaxPool(c)
      f = Flatten(p)
      m = MatMul(f, m1)
      y = Gemm(m, m2)
    }""", w=(8, 3, 3, 3), d=(8, 1, 3, 3), t=(8, 6, 2, 2), m1=(6, 9), m2=(9, 7)))
    layers = [n for n in profile.nodes if n.op in LAYERS]
    assert len(layers) == 5
    assert all(n.kernels and n.input_shapes for n in layers)


def test_shapes_that_depend_on_values_are_observed():
    model = build("""g (float[3,5] x) => (int64[k,m] y) {
      n = NonZero(x)
      y = Transpose(n)
    }""")
    x = np.zeros((3, 5), np.float32)
    x[1, 2] = x[2, 4] = 1
    assert observed_input_shapes(model, {"x": x}) == {0: ((3, 5),), 1: ((2, 2),)}


def test_weights_in_a_file_beside_the_model_change_nothing(monkeypatch):
    expected = profiled(RESIDUAL)
    monkeypatch.setattr(module, "_BESIDE_FROM", 0)
    found = profiled(RESIDUAL)
    assert absorbed(found) == absorbed(expected)
    assert [(n.kernels, n.input_shapes) for n in found.nodes] == [(n.kernels, n.input_shapes) for n in expected.nodes]


def test_runs_latency_and_feeds_are_reported():
    told = []
    profile = profiled(RESIDUAL, settings=replace(QUICK, min_rounds=4, max_rounds=4), progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert (profile.end_to_end.runs, profile.end_to_end.threads) == (4, 1)
    assert profile.end_to_end.provider == "CPUExecutionProvider"
    assert 0 < profile.end_to_end.p10_s <= profile.end_to_end.median_s <= profile.end_to_end.p90_s
    assert profile.profiled_s > 0
    assert profile.feed_shapes == (("x", (1, 16, 16, 16)),)


def test_the_default_is_about_two_seconds_and_five_to_fifty_runs():
    chosen = PROFILE_SETTINGS
    assert (chosen.budget_s, chosen.min_rounds, chosen.max_rounds, chosen.warmup_runs) == (2.0, 5, 50, 3)


def test_warm_up_runs_are_left_out(monkeypatch):
    counted = []

    def counting(runs, **options):
        counted.append(len(runs))
        return median_kernels(runs, **options)

    monkeypatch.setattr(module, "median_kernels", counting)
    profiled(RESIDUAL, settings=replace(QUICK, warmup_runs=5))
    assert counted == [3]


def test_the_model_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(module, "_BESIDE_FROM", 0)
    before = RESIDUAL.SerializeToString(deterministic=True)
    profiled(RESIDUAL)
    assert RESIDUAL.SerializeToString(deterministic=True) == before


def test_failures_say_where_and_leave_no_file():
    with pytest.raises(RuntimeFailure, match=r"^net\.onnx: onnxruntime cannot run this model"):
        profile_model(RESIDUAL, {}, settings=QUICK, where="net.onnx")
    with pytest.raises(RuntimeFailure, match=r"^net\.onnx: onnxruntime cannot load this model"):
        profile_model(build("g (float[2] x) => (float[2] y) { y = local.unknown(x) }"), {"x": np.ones(2, np.float32)},
                      settings=QUICK, where="net.onnx")
    with pytest.raises(OptionError, match="not offered"):
        profile_model(RESIDUAL, feeds_of(RESIDUAL), settings=replace(QUICK, provider="nonsense"))


def test_every_node_tells_its_provider():
    profile = profiled(RESIDUAL)
    for n in profile.nodes:
        assert n.providers == (("CPUExecutionProvider",) if n.kernels else ())


def test_what_a_run_takes_beside_its_kernels_is_told():
    profile = profiled(RESIDUAL)
    assert profile.overhead_s == profile.end_to_end.median_s - profile.total_kernel_s
    assert profile.profiling_s == profile.profiled_s - profile.end_to_end.median_s


class Compiling:
    """A provider that cannot save the graph, and runs all of it in a kernel that no node is named in."""

    def __init__(self, monkeypatch, *names):
        self.tried = []
        self._real = module.recording
        monkeypatch.setattr(module, "recording", self.recording)
        monkeypatch.setattr(module, "provider_name", lambda _name: "CompilingExecutionProvider")
        monkeypatch.setattr(module, "median_kernels", lambda *_args, **_options: [
            Kernel(node=name, op="Compiled", seconds=0.5, provider=provider) for name, provider in names])

    def recording(self, loadable, *, options, **others):
        saving = bool(options.optimized_model_filepath)
        self.tried.append(saving)
        if saving:
            raise RuntimeFailure("model: onnxruntime cannot load this model (it contains compiled nodes)")
        return self._real(loadable, options=options, **others)


def test_a_provider_that_compiles_the_graph_is_measured_as_a_whole(monkeypatch):
    provider = Compiling(monkeypatch, ("subgraph_1", "CompilingExecutionProvider"))
    profile = profile_model(RESIDUAL, feeds_of(RESIDUAL), settings=QUICK)
    assert provider.tried == [False, True, False]  # for the shapes, then with the graph, then without
    assert profile.unmapped == (("subgraph_1", "Compiled", 0.5),)
    assert (profile.mapped_s, profile.total_kernel_s) == (0, 0.5)
    assert {n.providers for n in profile.nodes} == {("CompilingExecutionProvider",)}
    assert {(n.seconds, n.kernels, n.absorbed_into) for n in profile.nodes} == {(0.0, (), None)}


def test_where_several_providers_have_lost_kernels_none_is_guessed(monkeypatch):
    Compiling(monkeypatch, ("subgraph_1", "A"), ("subgraph_2", "B"))
    profile = profile_model(RESIDUAL, feeds_of(RESIDUAL), settings=QUICK)
    assert {n.providers for n in profile.nodes} == {()}


def test_the_cpu_must_save_its_graph(monkeypatch):
    Compiling(monkeypatch)
    monkeypatch.setattr(module, "provider_name", lambda _name: "CPUExecutionProvider")
    with pytest.raises(RuntimeFailure, match="compiled nodes"):
        profile_model(RESIDUAL, feeds_of(RESIDUAL), settings=QUICK)
