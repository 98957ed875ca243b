"""Profiles of layers and their totals, with fake times and fake measurements."""

import dataclasses
import math

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.benchmark import Latency
from onnxslim1x1.runtime.profile import ModelProfile
from onnxslim1x1.search.analysis import Analysis, layer_profiles
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies.base import chain_cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 24, 15, 11] x) => (float[1, 7] y) {
  a = Conv <pads = [1, 0, 1, 2]> (x, a_w)
  r = Relu(a)
  p = Conv <group = 4> (r, p_w, p_b)
  b = Conv <strides = [2, 1], pads = [2, 1, 2, 1]> (p, b_w)
  d = Conv <group = 20> (b, d_w)
  g = GlobalAveragePool(d)
  f = Flatten(g)
  y = Gemm <transB = 1, alpha = 0.5> (f, head_w)
}"""
SHAPES = {"a_w": (40, 24, 3, 3), "p_w": (36, 10, 1, 1), "p_b": (36,), "b_w": (20, 36, 5, 3), "d_w": (20, 1, 3, 1),
          "head_w": (7, 20)}
INDEX = {"a": 0, "p": 2, "b": 3, "d": 4, "y": 7}
TIMES = {0: 4e-3, 2: 1e-3, 3: 6e-3, 4: 5e-4, 7: 1e-4}


@pytest.fixture(scope="module")
def bench():
    rng = np.random.default_rng(13)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        weight = rng.standard_normal(shape)
        if name in ("a_w", "b_w"):
            weight *= np.exp(-0.2 * np.arange(shape[1]))[:, None, None]
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    loaded = load(model)
    return Workbench(loaded, find_layers(loaded, infer_shapes(loaded).tensors), block=4)


def profiles(bench, /, **options):
    found = layer_profiles(tuple(bench.layers.values()), **options)
    return {p.layer.name: p for p in found}


def twice(_spec, _chain):
    return 2.0


def test_without_a_bench_there_are_costs_and_reasons(bench):
    found = profiles(bench)
    assert {name: p.layer.index for name, p in found.items()} == INDEX
    assert {name: (p.params, p.macs) for name, p in found.items()} == {
        "a": (8640, 8640 * 165), "p": (396, 360 * 165), "b": (10800, 10800 * 88), "d": (60, 60 * 66), "y": (140, 140)}
    assert {name: p.declined and p.declined.code for name, p in found.items()} == {
        "a": None, "p": "grouped", "b": None, "d": "depthwise", "y": "dense"}
    assert {p.proposal for p in found.values()} == {None}
    assert {p.time_s for p in found.values()} == {None}
    assert {p.gmacs_per_s for p in found.values()} == {None}


def test_times_belong_to_the_nodes_of_the_layers(bench):
    found = profiles(bench, times=TIMES)
    assert {name: p.time_s for name, p in found.items()} == {name: TIMES[i] for name, i in INDEX.items()}
    assert found["b"].gmacs_per_s == pytest.approx(10800 * 88 / 6e-3 / 1e9, rel=1e-12)
    assert profiles(bench, times={2: 1e-3})["a"].time_s is None
    assert profiles(bench, times={2: 1e-3})["a"].gmacs_per_s is None


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9, 1.0])
def test_a_proposal_saves_most_within_the_error(bench, limit):
    found = profiles(bench, times=TIMES, bench=bench, max_error=limit, measure=twice)
    for name in ("a", "b"):
        candidates = bench.candidates(bench.layers[name])
        allowed = [c for c in candidates if c.error <= limit]
        p = found[name]
        if not allowed:
            assert p.proposal is None
            assert p.declined.code == "flat_spectrum"
            assert f"least {min(c.error for c in candidates):.3f}" in p.declined.reason
            continue
        best = min(allowed, key=lambda c: c.cost.macs)
        assert p.declined is None
        assert (p.proposal.ranks, p.proposal.error, p.proposal.cost) == (best.ranks, best.error, best.cost)
        assert p.proposal.speedup == 2.0
        assert p.proposal.time_s == pytest.approx(TIMES[INDEX[name]] / 2, rel=1e-12)
    assert {found[name].proposal for name in ("p", "d", "y")} == {None}


@pytest.mark.parametrize(("speedup", "proposed"), [(0.5, False), (1.0, False), (1.019, False), (1.02, True),
                                                     (3.0, True)])
def test_only_what_is_faster_is_proposed(bench, speedup, proposed):
    asked = []

    def measure(spec, chain):
        asked.append(spec)
        assert chain_cost(chain).macs < spec.macs
        return speedup if spec == bench.layers["b"].spec else 2.0

    found = profiles(bench, times=TIMES, bench=bench, max_error=0.5, measure=measure)
    assert asked == [bench.layers["a"].spec, bench.layers["b"].spec]
    assert found["a"].proposal is not None
    assert (found["b"].proposal is not None) == proposed
    if not proposed:
        assert found["b"].declined.code == "not_faster"
        assert f"{speedup:.2f}x" in found["b"].declined.reason


def test_too_narrow_for_the_block(bench):
    wide = Workbench(bench.model, tuple(bench.layers.values()), block=64)
    found = profiles(bench, times=TIMES, bench=wide, max_error=1.0, measure=twice)
    assert {name: p.declined.code for name, p in found.items()} == {
        "a": "too_narrow", "p": "grouped", "b": "too_narrow", "d": "depthwise", "y": "dense"}


def test_progress_counts_layers(bench):
    told = []
    profiles(bench, progress=told.append)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


def latency(seconds):
    return Latency(median_s=seconds, p10_s=seconds, p90_s=seconds, runs=3, provider="CPUExecutionProvider", threads=1)


def analysis(bench, /, *, measured, **options):
    profile = ModelProfile(
        nodes=(), end_to_end=latency(0.013), profiled_s=0.014, total_kernel_s=0.0125, mapped_s=0.0125, reorder_s=2e-4,
        cast_s=0.0, by_op=(("Conv", 0.0116), ("Relu", 9e-4)), unmapped=(), feed_shapes=(("x", (1, 24, 15, 11)),))
    found = layer_profiles(tuple(bench.layers.values()), times=TIMES if measured else None, **options)
    return Analysis(path="net.onnx", sha256=None, opset=17, environment=None, layers=found,
                    profile=profile if measured else None, warnings=())


def test_totals(bench):
    found = analysis(bench, measured=True, bench=bench, max_error=0.5, measure=lambda _s, _c: 4.0)
    proposals = {p.layer.name: p.proposal for p in found.layers if p.proposal}
    assert set(proposals) == {"a", "b"}
    assert found.params == 8640 + 396 + 10800 + 60 + 140
    assert found.macs == (8640 + 360) * 165 + 10800 * 88 + 60 * 66 + 140
    assert found.macs_after == found.macs - sum(
        bench.layers[name].spec.macs - p.cost.macs for name, p in proposals.items())
    assert found.time_s == pytest.approx(math.fsum(TIMES.values()), rel=1e-12)
    assert found.saved_s == pytest.approx((4e-3 + 6e-3) * 3 / 4, rel=1e-12)


def test_totals_without_a_measurement(bench):
    found = analysis(bench, measured=False)
    assert (found.time_s, found.saved_s, found.macs_after) == (None, None, found.macs)


def test_layers_of_unknown_shape_add_no_macs(bench):
    found = analysis(bench, measured=True)
    blind = dataclasses.replace(found.layers[0], macs=None)
    fewer = dataclasses.replace(found, layers=(blind, *found.layers[1:]))
    assert fewer.macs == found.macs - 8640 * 165
    assert fewer.macs_after == fewer.macs
    assert blind.gmacs_per_s is None


def test_a_layer_in_a_body_has_no_time_of_its_own(bench):
    inside = dataclasses.replace(bench.layers["a"], in_body=True)
    (profile,) = layer_profiles((inside,), times=TIMES)
    assert profile.time_s is None
    assert profile.macs == bench.layers["a"].spec.macs
