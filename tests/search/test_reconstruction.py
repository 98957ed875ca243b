"""Fitting factors to what the rewritten model feeds them: real models, real data, real and pretended judges."""

import dataclasses
import tempfile

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import PlanMismatchError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime import calibration
from onnxslim1x1.runtime.calibration import collect_moments, with_outputs
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.search import reconstruction
from onnxslim1x1.search.plan import PlannedLayer
from onnxslim1x1.search.reconstruction import FitSettings, Steps, assembled, reconstruct, symmetric
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.spec import Cost

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 6, 9, 7] x) => (float[N, 5] y) {
  [stem] s = Conv <pads = [1, 0, 1, 2]> (x, stem_w, stem_b)
  r0 = Relu(s)
  [body] b = Conv <pads = [1, 1, 1, 1]> (r0, body_w)
  z = Add(b, r0)
  r1 = Relu(z)
  [left] l = Conv <pads = [2, 0, 0, 1]> (r1, left_w)
  [right] q = Conv <pads = [0, 1, 2, 1]> (r1, right_w, right_b)
  j = Add(l, q)
  r2 = Relu(j)
  [late] t = Conv <strides = [2, 1], pads = [1, 1, 0, 1]> (r2, late_w)
  g = GlobalAveragePool(t)
  f = Flatten(g)
  [head] y = Gemm <transB = 1> (f, head_w)
}"""
SHAPES = {"stem_w": (8, 6, 3, 3), "stem_b": (8,), "body_w": (8, 8, 3, 3), "left_w": (10, 8, 3, 2),
          "right_w": (10, 8, 3, 3), "right_b": (10,), "late_w": (9, 10, 2, 3), "head_w": (5, 9)}
RANKS = {"stem": 3, "body": 4, "left": 3, "right": 4, "late": 4}
ALL = ("asymmetric", "rectified", "matched")
MOST = {"stem": ALL, "body": ALL, "left": ("asymmetric", "matched"), "right": ALL, "late": ("asymmetric", "matched")}


class Images:
    """Seeded images with some structure, as a data set."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        small = rng.standard_normal((count, 6, 3, 4)).repeat(3, axis=2).repeat(2, axis=3)[:, :, :, :7]
        self.values = (small + 0.5 * rng.standard_normal((count, 6, 9, 7)) + 0.3).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield {"x": self.values[start : start + batch_size]}


FITTING, HELD_OUT = Images(40, seed=1), Images(24, seed=2)


@pytest.fixture(scope="module")
def model():
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(5)
    for name, shape in SHAPES.items():
        fan = max(int(np.prod(shape[1:])), 4)
        proto.graph.initializer.append(numpy_helper.from_array(
            (rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32), name))
    return load(proto)


@pytest.fixture(scope="module")
def moments(model):
    layers = find_layers(model, infer_shapes(model).tensors)
    return collect_moments(model, [x for x in layers if x.op_type == "Conv"], FITTING, threads=1)


@pytest.fixture(scope="module")
def bench(model, moments):
    return Workbench(model, find_layers(model, infer_shapes(model).tensors), block=1, moments=moments)


@pytest.fixture(scope="module")
def measured(bench):
    return HeldOutLoss(bench.model, HELD_OUT, threads=1)


def plan_of(bench, *names, strategy="reduce", ranks=None, **fits):
    """Planned layers, all convolutions without names, with fits by name."""
    cost = Cost(params=0, macs=0)
    chosen = RANKS | (ranks or {})
    return tuple(PlannedLayer(layer=n, strategy=strategy, ranks=(chosen[n],), error=0.0, before=cost, after=cost,
                              fit=fits.get(n, ())) for n in bench.layers if n in (names or RANKS))


def rebuilt(bench, judge, *, layers=None, steps=None, data=FITTING, **settings):
    return reconstruct(bench, layers or plan_of(bench), data, judge, steps=steps,
                       settings=FitSettings(**({"threads": 1} | settings)))


class Recorded:
    """A judge, and what it said."""

    def __init__(self, judge):
        self.judge, self.said = judge, []

    def __call__(self, model):
        self.said.append(self.judge(model))
        return self.said[-1]


def falling():
    """A judge that always says better."""
    values = iter(range(1000, 0, -1))
    return Recorded(lambda _model: float(next(values)))


def rising():
    """A judge that always says worse."""
    values = iter(range(1000))
    return Recorded(lambda _model: float(next(values)))


def whimsical(seed):
    """A judge that says better in four of ten cases."""
    rng, last = np.random.default_rng(seed), [1.0]

    def judge(_model):
        better = rng.random() < 0.4
        last[0] *= 0.9 if better else 1.0
        return last[0] if better else last[0] + 1.0

    return Recorded(judge)


def fits(result):
    return {p.layer: p.fit for p in result.layers}


def arrays(factors):
    return {(name, number, kind): getattr(f, kind) for name, found in factors.items()
            for number, f in enumerate(found.factors) for kind in ("weight", "bias") if getattr(f, kind) is not None}


def assert_identical(one, other):
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key], err_msg=str(key))


def outputs(model, *names, data=FITTING):
    return run(create_session(with_outputs(model, names)), {"x": data.values}, outputs=names or ["y"])


# ---- what is kept ----

@pytest.mark.parametrize("strategy", ["reduce", "expand"])
def test_the_loss_only_falls(bench, measured, strategy):
    judge, layers = Recorded(measured), plan_of(bench, strategy=strategy)
    result = rebuilt(bench, judge, layers=layers)
    plain = symmetric(bench, layers)
    assert judge.said[0] == measured(assembled(bench, plain))
    assert result.loss == min(judge.said) < 0.9 * judge.said[0]
    assert result.loss == measured(assembled(bench, result.factors))
    assert len(judge.said) == 1 + sum(map(len, MOST.values()))
    # a step that was not kept leaves no trace: the loss of what is kept after each layer falls along the walk
    kept = dict(plain)
    losses = [judge.said[0]]
    for name in RANKS:
        kept[name] = result.factors[name]
        losses.append(measured(assembled(bench, kept)))
        assert (losses[-1] < losses[-2]) == (fits(result)[name] != ())
    assert losses[-1] == result.loss


def test_a_judge_that_is_always_content_gets_every_step_that_is_possible(bench):
    judge = falling()
    result = rebuilt(bench, judge)
    assert fits(result) == MOST
    assert result.loss == judge.said[-1]


def test_a_judge_that_is_never_content_keeps_all_as_it_was(bench):
    judge = rising()
    result = rebuilt(bench, judge)
    assert fits(result) == dict.fromkeys(RANKS, ())
    assert result.loss == judge.said[0] == 0.0
    assert_identical(result.factors, symmetric(bench, plan_of(bench)))


def test_losses_that_are_no_numbers_are_no_gain(bench):
    answers = iter([1.0, *[float("nan"), float("inf")] * 10])
    result = rebuilt(bench, lambda _model: next(answers))
    assert fits(result) == dict.fromkeys(RANKS, ())
    assert result.loss == 1.0


def test_a_step_may_be_kept_without_those_before_it(bench):
    answers = iter([9.0, 9.5, 9.5, 8.0, 7.0, 7.5, 6.0])  # stem: only matched; body: asymmetric and matched
    result = rebuilt(bench, lambda _model: next(answers), layers=plan_of(bench, "stem", "body"))
    assert fits(result) == {"stem": ("matched",), "body": ("asymmetric", "matched")}
    assert result.loss == 6.0


@pytest.mark.parametrize(("step", "expected"), [
    ("rectified", {n: tuple(s for s in fit if s != "rectified") for n, fit in MOST.items()}),
    ("matched", {n: tuple(s for s in fit if s != "matched") for n, fit in MOST.items()}),
    ("residual", {n: ALL if n == "stem" else ("asymmetric", "matched") for n in MOST}),
    ("asymmetric", dict.fromkeys(MOST, ())),
    ("weighting", MOST)])  # that is a matter of the bench
def test_a_step_that_is_switched_off_is_not_tried(bench, step, expected):
    judge = falling()
    result = rebuilt(bench, judge, steps=Steps(**{step: False}))
    assert fits(result) == expected
    assert len(judge.said) == 1 + sum(map(len, expected.values()))
    if step == "asymmetric":
        assert_identical(result.factors, symmetric(bench, plan_of(bench)))


# ---- what layers are fitted to ----

@pytest.fixture
def shortcuts(monkeypatch):
    """By layer, the shortcut that it was corrected for."""
    seen = {}
    real = reconstruction.collect_pairs

    def collect(original, rewritten, layer, *, shortcut=None, seed=0):
        seen[layer.name] = shortcut
        return real(original, rewritten, layer, shortcut=shortcut, seed=seed)

    monkeypatch.setattr(reconstruction, "collect_pairs", collect)
    return seen


@pytest.mark.parametrize(("names", "expected"), [
    (tuple(RANKS), {"stem": None, "body": "r0", "left": None, "right": "l", "late": None}),
    (("body", "left"), {"body": "r0", "left": "q"}),  # the other branch stays as it is
    (("right",), {"right": "l"}),
    (("stem", "right", "late"), {"stem": None, "right": "l", "late": None})])
def test_of_two_branches_the_later_one_corrects_the_sum(bench, shortcuts, names, expected):
    rebuilt(bench, falling(), layers=plan_of(bench, *names))
    assert shortcuts == expected


def test_without_that_step_no_shortcut_is_corrected(bench, shortcuts):
    rebuilt(bench, falling(), steps=Steps(residual=False))
    assert shortcuts == dict.fromkeys(RANKS)


@pytest.mark.parametrize(("names", "tensor"), [
    (("stem",), "s"), (("stem", "body"), "z"), (("stem", "body", "left"), "j"),
    (("stem", "body", "left", "right"), "j"), (tuple(RANKS), "t")])
@pytest.mark.parametrize("fit", [("asymmetric",), ("asymmetric", "matched"), ("matched",)])
def test_the_last_layer_restores_the_means_of_the_original(bench, names, tensor, fit):
    """Only with its inputs and the shortcut from the rewritten model, and the targets from the original one."""
    layers = plan_of(bench, *names, **{names[-1]: fit})
    result = rebuilt(bench, None, layers=layers)
    want, = outputs(bench.model, tensor)
    have, = outputs(assembled(bench, result.factors), tensor)
    plain, = outputs(assembled(bench, symmetric(bench, layers)), tensor)
    means, found, before = (v.astype(np.float64).mean(axis=(0, 2, 3)) for v in (want, have, plain))
    np.testing.assert_allclose(found, means, atol=2e-5)  # float32 sums of 63 positions of 40 images, of values up to 10
    if len(names) > 1:  # what the layers in front of it do to its inputs is unknown to a symmetric fit
        assert np.abs(before - means).max() > 1e-3


def test_a_branch_does_not_correct_what_is_still_to_change(bench):
    result = rebuilt(bench, None, layers=plan_of(bench, "stem", "left", "right", left=("asymmetric",)))
    want, have = (outputs(m, "l")[0].mean(axis=(0, 2, 3)) for m in (bench.model, assembled(bench, result.factors)))
    np.testing.assert_allclose(have, want, atol=2e-5)  # its own output, not the sum


@pytest.mark.parametrize(("name", "tensor"), [("stem", "r0"), ("body", "r1"), ("right", "r2")])
def test_a_refit_behind_a_relu_serves_what_it_lets_through(bench, name, tensor):
    errors = []
    for fit in (("asymmetric",), ("asymmetric", "rectified")):
        result = rebuilt(bench, None, layers=plan_of(bench, "stem", "body", name, **{name: fit}))
        want, have = (outputs(m, tensor)[0] for m in (bench.model, assembled(bench, result.factors)))
        errors.append(np.square(have - want, dtype=np.float64).sum())
    assert errors[1] < 0.99 * errors[0]


def test_the_weighting_of_the_outputs_holds_for_the_new_factors_too(bench, moments):
    only_two = OutputWeighting(covariance=np.diag([1.0, 1.0] + [1e-6] * 7))
    weighted = Workbench(bench.model, tuple(bench.layers.values()), block=1, weightings={"t": only_two},
                         moments=moments)
    layers = plan_of(bench, "late", late=("asymmetric",), ranks={"late": 2})
    want, = outputs(bench.model, "t")
    one, other = (np.square(outputs(assembled(b, rebuilt(b, None, layers=layers).factors), "t")[0] - want,
                            dtype=np.float64).sum(axis=(0, 2, 3)) for b in (weighted, bench))
    assert one[:2].sum() < 0.8 * other[:2].sum()
    assert one[2:].sum() > other[2:].sum()


def test_matching_gives_back_half_of_the_deviation(bench):
    layers = plan_of(bench, "late", late=("asymmetric",))
    without, with_it = (assembled(bench, rebuilt(bench, None, layers=x).factors)
                        for x in (layers, plan_of(bench, "late", late=("asymmetric", "matched"))))
    want, plain, have = (outputs(m, "t")[0].astype(np.float64).std(axis=(0, 2, 3))
                         for m in (bench.model, without, with_it))
    missing = want / plain
    assert missing.max() < 1.5
    assert missing.max() > 1.02
    np.testing.assert_allclose(have, plain * (1 + (missing.clip(1) - 1) / 2), rtol=1e-4)


def test_the_seed_decides_about_the_samples(bench, monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_ROWS", 400)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)
    layers = plan_of(bench, body=("asymmetric",), stem=("asymmetric", "rectified"))
    one, again, other = (rebuilt(bench, None, layers=layers, seed=seed).factors for seed in (3, 3, 4))
    assert_identical(one, again)
    assert not np.array_equal(one["stem"].factors[-1].weight, other["stem"].factors[-1].weight)


# ---- carrying out what a plan says ----

def replayed(bench, result, **options):
    return rebuilt(bench, None, layers=result.layers, **options)


def test_what_was_kept_can_be_repeated_to_the_last_bit(bench, measured):
    result = rebuilt(bench, measured)
    again = replayed(bench, result)
    assert len(set(fits(result).values())) > 1
    assert_identical(again.factors, result.factors)
    assert (again.layers, again.loss) == (result.layers, None)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_was_kept_can_be_repeated(bench, seed, monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_ROWS", 300)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)
    result = rebuilt(bench, whimsical(seed))
    again = replayed(bench, result)
    assert any(fits(result).values())
    assert_identical(again.factors, result.factors)
    assert fits(again) == fits(result)


@pytest.mark.parametrize("names", [("stem",), ("late",), ("body", "right"), ("stem", "left", "late")])
def test_layers_without_a_fit_stay_symmetric_next_to_others(bench, names):
    layers = plan_of(bench, **{n: MOST[n] for n in names})
    result = rebuilt(bench, None, layers=layers)
    plain = symmetric(bench, layers)
    for name in RANKS:
        same = all(np.array_equal(a.weight, b.weight)
                   for a, b in zip(result.factors[name].factors, plain[name].factors, strict=True))
        assert same == (name not in names)
    assert result.layers == layers


@pytest.mark.parametrize(("name", "fit", "done"), [
    ("left", ALL, "only asymmetric"), ("late", ("asymmetric", "rectified"), "only asymmetric"),
    ("head", ("matched",), "only nothing of that")])
def test_a_fit_that_does_not_suit_its_layer_is_refused(bench, name, fit, done):
    layers = plan_of(bench) + plan_of(bench, "head", ranks={"head": 3}, strategy="expand")
    planned = tuple(dataclasses.replace(p, fit=fit if p.layer == name else ()) for p in layers)
    with pytest.raises(PlanMismatchError) as caught:
        rebuilt(bench, None, layers=planned)
    assert str(caught.value).startswith(f"model: layer {name} cannot be fitted as planned ({', '.join(fit)}), {done}: ")


def test_without_any_fit_the_data_is_not_touched(bench):
    class Untouchable(Images):
        def batches(self, _batch_size):
            raise AssertionError("nothing is to be fitted")

    told = []
    result = rebuilt(bench, None, data=Untouchable(3, seed=0), progress=told.append)
    assert_identical(result.factors, symmetric(bench, plan_of(bench)))
    assert (result.loss, told) == (None, [])


# ---- the rest ----

def test_progress_rises_to_one(bench):
    told = []
    rebuilt(bench, rising(), progress=told.append)
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_nothing_planned_is_judged_once(bench):
    judge = rising()
    result = reconstruct(bench, (), FITTING, judge)
    assert (result.layers, dict(result.factors), result.loss, judge.said) == ((), {}, 0.0, [0.0])


def test_the_bench_is_left_as_it_was(bench):
    before = symmetric(bench, plan_of(bench))
    rebuilt(bench, falling())
    assert_identical(symmetric(bench, plan_of(bench)), before)
    assert {n.name for n in bench.model.proto.graph.node if "/" in n.name} == set()


def test_files_of_the_walk_are_removed(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    judge = Recorded(lambda _model: len(list(tmp_path.rglob("*.npy"))))
    rebuilt(bench, judge, layers=plan_of(bench, "stem"))
    assert max(judge.said) > 0
    assert list(tmp_path.iterdir()) == []


def test_layers_keep_their_planned_figures(bench):
    layers = tuple(dataclasses.replace(p, error=0.25, speedup=1.5, weighted=True) for p in plan_of(bench, "stem"))
    found, = rebuilt(bench, falling(), layers=layers).layers
    assert found == dataclasses.replace(layers[0], fit=ALL)


def test_dense_layers_keep_the_factors_of_their_statistics(bench):
    layers, told = plan_of(bench, "head", ranks={"head": 3}, strategy="expand"), []
    layers = plan_of(bench, "late") + layers
    result = rebuilt(bench, falling(), layers=layers, progress=told.append)
    assert fits(result) == {"late": MOST["late"], "head": ()}
    assert told == [1.0]
    assert_identical({"head": result.factors["head"]}, {"head": symmetric(bench, layers)["head"]})


def test_what_dense_layers_in_front_do_is_known():
    """The tracks part at the first layer that changes, even if that one is not fitted anew."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 12] x) => (float[N, 4, 5, 2] y) {
          [dense] d = Gemm <transB = 1> (x, dense_w)
          r = Reshape(d, shape)
          [conv] y = Conv <pads = [1, 1, 1, 1]> (r, conv_w)
        }""")
    rng = np.random.default_rng(2)
    weights = {"dense_w": rng.standard_normal((30, 12)).astype(np.float32), "shape": np.array([-1, 3, 5, 2]),
               "conv_w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    model = load(proto)
    bench = Workbench(model, find_layers(model, infer_shapes(model).tensors), block=1)
    cost = Cost(params=0, macs=0)
    layers = tuple(PlannedLayer(layer=n, strategy="expand", ranks=(2,), error=0.0, before=cost, after=cost, fit=fit)
                   for n, fit in (("dense", ()), ("conv", ("asymmetric",))))
    data = Images(50, seed=4)
    data.values = data.values[:, :, 0, :2].reshape(50, 12) + 1
    result = rebuilt(bench, None, layers=layers, data=data)
    want, have = (outputs(m, data=data)[0].mean(axis=(0, 2, 3)) for m in (model, assembled(bench, result.factors)))
    np.testing.assert_allclose(have, want, atol=1e-5)
