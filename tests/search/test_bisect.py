"""Delta debugging, on sets with known culprits and on plans of real models."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1 import api
from onnxslim1x1.errors import OptionError, PlanMismatchError
from onnxslim1x1.runtime.options import DataOptions, RunOptions
from onnxslim1x1.runtime.store import NO_STORE
from onnxslim1x1.runtime.validate import Tolerance, ValidationSettings
from onnxslim1x1.runtime.verdict import Bound
from onnxslim1x1.search.bisect import ddmin, require_gate
from onnxslim1x1.search.plan import Budget

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 12, 10] image) => (float[N, 6] scores) {
  a = Conv <pads = [1, 1, 1, 1]> (image, a_w)
  ra = Relu(a)
  b = Conv <pads = [1, 1, 1, 1]> (ra, b_w)
  rb = Relu(b)
  c = Conv <pads = [1, 1, 1, 1]> (rb, c_w)
  rc = Relu(c)
  d = Conv <pads = [1, 1, 1, 1]> (rc, d_w)
  g = GlobalAveragePool(d)
  f = Flatten(g)
  scores = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"a_w": (48, 3, 3, 3), "b_w": (48, 48, 3, 3), "c_w": (48, 48, 3, 3), "d_w": (48, 48, 3, 3), "head_w": (6, 48)}
RUN = RunOptions(threads=1, store=NO_STORE)


# the algorithm


def culprits(*sets):
    """Breaks if it holds all of one of the sets."""
    return lambda subset: any(wanted <= set(subset) for wanted in map(set, sets))


@given(st.integers(1, 24).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
@settings(deadline=None)
def test_a_single_culprit_set_is_found_exactly(case):
    count, guilty = case
    assert set(ddmin(range(count), culprits(guilty))) == guilty


@given(st.lists(st.sets(st.integers(0, 15), min_size=1), min_size=1, max_size=4))
@settings(deadline=None)
def test_of_what_is_found_nothing_can_be_left_out(guilty):
    breaks = culprits(*guilty)
    found = ddmin(range(16), breaks)
    assert breaks(found)
    assert not any(breaks(tuple(x for x in found if x != left)) for left in found)
    assert list(found) == sorted(found)


def test_a_sum_of_small_errors_is_found():
    errors = [5, 1, 1, 4, 1, 3, 1, 1]
    found = ddmin(range(8), lambda subset: sum(errors[i] for i in subset) >= 9)
    assert sum(errors[i] for i in found) >= 9
    assert all(sum(errors[i] for i in found if i != left) < 9 for left in found)


def test_one_culprit_takes_few_trials():
    asked = []

    def breaks(subset):
        asked.append(subset)
        return 37 in subset

    assert ddmin(range(64), breaks) == (37,)
    assert len(asked) <= 12  # halves


# plans


def model():
    rng = np.random.default_rng(7)
    proto = onnx.parser.parse_model(TEXT)
    for node in proto.graph.node:
        node.name = node.output[0]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(
        (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32), n) for n, s in SHAPES.items())
    return proto


@pytest.fixture(scope="module")
def plan():
    """Three layers, of which c is approximated far worse than the others."""
    return api.plan(model(), Budget(ranks={"b": 40, "c": 8, "d": 40}), run=RUN)


def bisected(plan, tolerance, **options):
    return api.bisect(model(), plan, run=RUN, settings=ValidationSettings(tolerance=tolerance), **options)


def snr(attempt):
    return {gate.name: gate.value for gate in attempt.gates}["min_snr_db"]


def test_the_layer_that_breaks_a_gate_is_found(plan):
    whole = snr(bisected(plan, Tolerance(min_snr_db=-50.0)).whole)
    found = bisected(plan, Tolerance(min_snr_db=whole + 3.0))
    assert [p.layer for p in found.breaking] == ["c"]
    assert found.whole.layers == ("b", "c", "d")
    assert found.smallest.layers == ("c",)
    assert found.smallest.broken
    assert found.rest.layers == ("b", "d")
    assert not found.rest.broken
    assert snr(found.rest) > whole + 3.0 > snr(found.smallest)
    assert len({a.layers for a in found.trials}) == len(found.trials)  # none is tried twice


def test_several_layers_that_break_a_gate_together(plan):
    alone = {}
    for name in ("b", "c", "d"):
        part = replace(plan, layers=tuple(p for p in plan.layers if p.layer == name))
        alone[name] = snr(bisected(part, Tolerance(min_snr_db=-50.0)).whole)
    whole = snr(bisected(plan, Tolerance(min_snr_db=-50.0)).whole)
    found = bisected(plan, Tolerance(min_snr_db=(whole + min(alone.values())) / 2))
    assert found.smallest.broken
    assert len(found.breaking) >= 2
    assert "c" in {p.layer for p in found.breaking}


def test_nothing_breaks(plan):
    found = bisected(plan, Tolerance(min_snr_db=-50.0))
    assert (found.breaking, found.smallest, found.rest, found.unchanged) == ((), None, None, None)
    assert not found.whole.broken
    assert len(found.trials) == 1


def test_a_gate_that_fails_without_a_rewrite_is_no_layers_fault(plan):
    found = bisected(plan, Tolerance(min_agreement=0.0, min_snr_db=-50.0, max_drop=0.0))
    if found.whole.broken:  # the classes of random images change
        assert found.unchanged is not None
        assert not found.unchanged.broken
    strange = bisected(plan, Tolerance(min_snr_db=-50.0, min_agreement=1.0, confidence=0.95))
    assert strange.unchanged.broken  # 8 images cannot show that all agree
    assert strange.breaking == ()


def test_the_factors_are_those_of_the_whole_plan(tmp_path):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "c.npz", images=rng.integers(0, 256, (60, 12, 10, 3), np.uint8))
    data = DataOptions(path=tmp_path / "c.npz")
    made = api.plan(model(), Budget(ranks={"b": 16, "c": 8, "d": 16}), calibration=data, run=RUN)
    applied = api.apply(model(), made, run=RUN)
    report = api.validate(model(), applied.proto, data=data, run=RUN,
                          settings=ValidationSettings(measure_latency=False))
    found = bisected(made, Tolerance(min_snr_db=200.0), data=data)
    assert snr(found.whole) == pytest.approx(report.outputs[0].snr_db, abs=0.01)
    assert len(found.breaking) == 1


def test_progress_grows_to_the_end(plan):
    told = []
    api.bisect(model(), plan, settings=ValidationSettings(tolerance=Tolerance(min_snr_db=200.0)),
               run=replace(RUN, progress=lambda stage, done: told.append((stage, done))))
    ours = [done for stage, done in told if stage == "bisecting"]
    assert ours == sorted(ours)
    assert ours[-1] == 1.0


def test_without_a_gate_nothing_can_break(plan):
    with pytest.raises(OptionError, match="give --max-drop, --min-agreement, --min-snr or --gate"):
        bisected(plan, Tolerance(min_speedup=1.1))
    require_gate(Tolerance(max_drop=0.1))
    require_gate(Tolerance(figures=(Bound.parse("kl<=1"),)))


def test_a_plan_for_another_model_is_refused(plan):
    other = model()
    other.graph.name = "other"
    with pytest.raises(PlanMismatchError, match="SHA-256"):
        api.bisect(other, plan, run=RUN, settings=ValidationSettings(tolerance=Tolerance(max_drop=0.1)))
