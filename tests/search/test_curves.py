"""Curves of the layers on a bench: which layers have them, what is kept of them, and what they share."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxslim1x1.search.curves as module
from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.search.curves import study
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies.redundancy import layer_spectra

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 24, 15, 11] x) => (float[1, 7] y) {
  a = Conv <pads = [1, 0, 1, 2]> (x, a_w, a_b)
  p = Conv <group = 4> (a, p_w)
  s_w2 = Mul(s_w, s_w)
  s = Conv (p, s_w2)
  t = ConvTranspose (s, t_w)
  g = GlobalAveragePool(t)
  f = Flatten(g)
  y = MatMul(f, head_w)
}"""
SHAPES = {"a_w": (40, 24, 3, 3), "a_b": (40,), "p_w": (36, 10, 1, 1), "s_w": (20, 36, 3, 1), "t_w": (20, 16, 2, 3),
          "head_w": (16, 7)}


def bench_of(*, moments=None, dtype=np.float32, **changed):
    rng = np.random.default_rng(13)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        weight = rng.standard_normal(shape).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(changed.get(name, weight), name))
    loaded = load(model)
    return Workbench(loaded, find_layers(loaded, infer_shapes(loaded).tensors), block=4, moments=moments)


def layers(bench):
    return tuple(bench.layers.values())


@pytest.fixture
def moments():
    rows = np.random.default_rng(2).standard_normal((900, 216)) * np.linspace(0.1, 2, 216)
    return {"a": Moments(mean=rows.mean(axis=0), covariance=np.cov(rows.T, bias=True), count=900)}


def test_every_layer_with_known_weights_has_curves(moments):
    bench = bench_of(moments=moments)
    found = study(bench, layers(bench), NO_STORE.shelf())
    assert list(found) == ["a", "p", "s", "t", "y"]
    assert [name for name, r in found.items() if r.weights is None] == ["s"]  # computed while running
    assert [name for name, r in found.items() if r.activations is not None] == ["a"]
    for name, redundancy in found.items():
        if name != "s":
            layer = bench.layers[name]
            assert redundancy.weights == layer_spectra(layer.spec, bench.weight(layer))
    a = bench.layers["a"]
    assert found["a"].activations == layer_spectra(a.spec, bench.weight(a), bench.bias(a), moments["a"])
    assert found["a"].activations != found["a"].weights


def test_tables_come_from_the_same_work_as_the_curves(moments):
    bench = bench_of(moments=moments)
    found = study(bench, layers(bench), NO_STORE.shelf())["a"].activations
    curves = {"reduce": found.inputs, "expand": found.outputs, "spatial": found.separable}
    rows = [row for row in bench.table(bench.layers["a"]) if row.strategy in curves]
    assert {row.strategy for row in rows} == set(curves)
    for row in rows:
        assert row.error**2 == pytest.approx(1 - curves[row.strategy].kept[row.ranks[0] - 1], abs=1e-9)


def test_what_is_kept_is_what_was_found(moments, tmp_path, monkeypatch):
    place = Store(tmp_path).shelf(model="m")
    first = bench_of(moments=moments)
    found = study(first, layers(first), place)
    monkeypatch.setattr(Workbench, "spectra", lambda *_args, **_options: pytest.fail("computed again"))
    monkeypatch.setattr(Workbench, "decomposition", lambda *_args: pytest.fail("decomposed again"))
    again = bench_of(moments=moments)
    assert study(again, layers(again), place) == found
    assert [again.table(layer) for layer in layers(again)] == [first.table(layer) for layer in layers(first)]
    with pytest.raises(pytest.fail.Exception, match="again"):
        study(again, layers(again), place.at(block=8))


@pytest.mark.parametrize("name", ["p_w", "t_w"])
def test_weights_that_are_not_finite_only_matter_where_they_could_be_rewritten(name):
    weight = np.full(SHAPES[name], np.nan, np.float32)
    bench = bench_of(**{name: weight})
    found = study(bench, layers(bench), NO_STORE.shelf())
    assert [key for key, r in found.items() if r.weights is None] == sorted(["s", name[0]])
    bench = bench_of(a_w=np.full(SHAPES["a_w"], np.inf, np.float32))
    with pytest.raises(ModelError, match="layer a has 8640 NaN or infinite values"):
        study(bench, layers(bench), NO_STORE.shelf())


def test_wide_layers_that_nothing_can_be_done_about_are_left_out(monkeypatch):
    monkeypatch.setattr(module, "_WIDEST", 9)
    bench = bench_of()
    found = study(bench, layers(bench), NO_STORE.shelf())
    assert [key for key, r in found.items() if r.weights is not None] == ["a", "p", "y"]  # p: 10 to 9 in a group
    monkeypatch.setattr(module, "_WIDEST", 8)
    again = bench_of()
    assert study(again, layers(again), NO_STORE.shelf())["p"].weights is None


def test_integers_have_no_energy():
    bench = bench_of()
    a = bench.layers["a"]
    model = bench.model.proto
    next(t for t in model.graph.initializer if t.name == "a_w").CopyFrom(
        onnx.numpy_helper.from_array(np.ones(SHAPES["a_w"], np.int8), "a_w"))
    changed = dataclasses.replace(bench.model, proto=model)
    assert Workbench(changed, (a,), block=4).spectra(a, data=False) is None


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_give_the_same_curves(dtype):
    narrow, plain = bench_of(dtype=dtype), bench_of()
    for name in ("p", "t"):
        a, b = (bench.spectra(bench.layers[name], data=False) for bench in (narrow, plain))
        np.testing.assert_allclose(a.inputs.kept, b.inputs.kept, atol=1e-3)
        np.testing.assert_allclose(a.outputs.kept, b.outputs.kept, atol=1e-3)


def test_progress_counts_layers():
    bench, told = bench_of(), []
    study(bench, layers(bench), NO_STORE.shelf(), progress=told.append)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_code_that_a_key_names_exists():
    root = Path(module.__file__).parents[1]
    assert all((root / name).exists() for name in module.CODE)
