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
from onnxslim1x1.runtime import pairs
from onnxslim1x1.runtime.calibration import collect_moments, with_outputs
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.search import reconstruction
from onnxslim1x1.search.plan import PlannedLayer, Refit
from onnxslim1x1.search.reconstruction import FitSettings, assembled, carry_out, reconstruct, symmetric
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
CORRECTING = {"body", "right"}  # what is added to their outputs is known by then
WEAK = Refit(ridge=0.01)


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
def drafting(model, moments):
    return Workbench(model, find_layers(model, infer_shapes(model).tensors), block=1, moments=moments, drafts=True)


@pytest.fixture(scope="module")
def measured(bench):
    return HeldOutLoss(bench.model, HELD_OUT, threads=1)


def plan_of(bench, *names, strategy="reduce", ranks=None, **refits):
    """Planned layers, all convolutions without names, with refits by name."""
    cost = Cost(params=0, macs=0)
    chosen = RANKS | (ranks or {})
    return tuple(PlannedLayer(layer=n, strategy=strategy, ranks=(chosen[n],), error=0.0, before=cost, after=cost,
                              refit=refits.get(n)) for n in bench.layers if n in (names or RANKS))


def rebuilt(bench, judge, *, layers=None, data=FITTING, **settings):
    return reconstruct(bench, layers or plan_of(bench), data, judge,
                       settings=FitSettings(**({"threads": 1} | settings)))


def carried_out(bench, layers, *, data=FITTING, **settings):
    return carry_out(bench, layers, data, FitSettings(**({"threads": 1} | settings)))


class Told:
    """A judge that says what it is told to, the last of it again and again."""

    def __init__(self, *losses):
        self.losses, self.asked = list(losses), 0

    def __call__(self, _model):
        self.asked += 1
        return self.losses.pop(0) if len(self.losses) > 1 else self.losses[0]

    def along(self, _model, _folder):
        return lambda model, _layer: self(model)


def falling():
    """A judge that always says better."""
    return Told(*range(100, 0, -1))


def refits(result):
    return {p.layer: p.refit for p in result.layers}


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
def test_fitting_anew_lowers_the_loss_on_other_images(bench, measured, strategy):
    layers = plan_of(bench, strategy=strategy)
    result = rebuilt(bench, measured, layers=layers)
    assert result.loss == measured(assembled(bench, result.factors))
    assert result.loss < 0.9 * measured(assembled(bench, symmetric(bench, layers)))
    assert {name: r.residual for name, r in refits(result).items() if r} == {
        name: name in CORRECTING for name, r in refits(result).items() if r}


@pytest.mark.parametrize("last", [1.0, 2.0, float("inf"), float("nan")])
def test_what_does_not_lower_the_loss_in_the_end_is_not_kept(bench, last):
    result = rebuilt(bench, Told(1.0, 0.9, 0.9, 0.9, 0.9, 0.9, last), layers=plan_of(bench, stem=WEAK))
    assert (refits(result), result.loss) == (dict.fromkeys(RANKS), 1.0)
    assert_identical(result.factors, symmetric(bench, plan_of(bench)))


@pytest.mark.parametrize("first", [float("inf"), 1.0])
def test_what_lowers_the_loss_is_kept_however_bad_it_was(bench, first):
    result = rebuilt(bench, Told(first, 0.5))
    assert None not in refits(result).values()
    assert result.loss == 0.5


@pytest.mark.parametrize(("losses", "refused"), [
    ((1.0, 1.099, 1.099, 1.099, 1.099, 1.099, 0.9), set()),  # a little more than the least so far is tolerated
    ((1.0, 0.8, 0.87, 0.89, 0.85, 0.881, 0.9), {"left", "late"}),
    ((1.0, 1.101, 0.8, float("nan"), float("inf"), 0.87, 0.9), {"stem", "left", "right"})])
def test_a_refit_that_does_much_harm_is_not_kept(bench, losses, refused):
    result = rebuilt(bench, Told(*losses))
    assert {n for n, r in refits(result).items() if r is None} == refused
    plain = symmetric(bench, plan_of(bench))
    for name in refused:
        assert_identical({name: result.factors[name]}, {name: plain[name]})


def test_drafts_are_only_tried(bench, drafting):
    losses = (1.0, 1.2, 0.8, 0.7, 1.5, 0.6, 0.5)
    exact, tried = rebuilt(bench, Told(*losses)), rebuilt(drafting, Told(*losses))
    assert refits(tried) == refits(exact)
    assert {name for name, refit in refits(tried).items() if refit is None} == {"stem", "right"}
    assert_identical(tried.factors, exact.factors)
    for have, want in zip(tried.layers, exact.layers, strict=True):
        assert have.error == want.error if have.refit is None else have.error == pytest.approx(want.error, rel=1e-4)
    assert tried.layers != exact.layers
    refused = rebuilt(drafting, Told(1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 2.0))
    assert_identical(refused.factors, symmetric(bench, plan_of(bench)))
    assert refused.layers == rebuilt(bench, Told(1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 2.0)).layers


def test_small_errors_are_told_exactly(bench, drafting):
    full = plan_of(bench, ranks={"body": 8, "late": 9})
    exact, tried = (rebuilt(b, falling(), layers=full) for b in (bench, drafting))
    assert None not in refits(tried).values()
    small = [(have.error, want.error) for have, want in zip(tried.layers, exact.layers, strict=True)
             if want.error < 1e-3]
    assert small
    assert all(have == want for have, want in small)


@pytest.mark.parametrize(("images", "left"), [(8, {"late"}), (9, set())])  # 35 positions for 60 columns in each image
def test_a_layer_with_few_samples_is_left_as_it_is(bench, images, left):
    result = rebuilt(bench, falling(), data=Images(images, seed=1))
    assert {name for name, refit in refits(result).items() if refit is None} == left


def test_no_draft_is_left_as_it_is(bench, drafting):
    result = rebuilt(drafting, falling(), data=Images(8, seed=1))
    assert_identical({"late": result.factors["late"]}, symmetric(bench, plan_of(bench, "late")))


def test_what_is_left_as_it_is_can_be_refitted_by_a_plan(bench):
    few = Images(8, seed=1)
    plain = symmetric(bench, plan_of(bench, "late"))
    found = carried_out(bench, plan_of(bench, "late", late=WEAK), data=few)
    assert np.abs(found["late"].factors[0].weight - plain["late"].factors[0].weight).max() > 1e-3


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
    result = rebuilt(bench, falling(), layers=plan_of(bench, *names))
    assert shortcuts == expected
    assert {n: r.residual for n, r in refits(result).items()} == {n: s is not None for n, s in expected.items()}


def test_without_a_residual_no_shortcut_is_corrected(bench, shortcuts):
    carried_out(bench, plan_of(bench, **dict.fromkeys(RANKS, WEAK)))
    assert shortcuts == dict.fromkeys(RANKS)


@pytest.mark.parametrize(("names", "tensor"), [
    (("stem",), "s"), (("stem", "body"), "z"), (("stem", "body", "left"), "l"),
    (("stem", "body", "left", "right"), "j"), (tuple(RANKS), "t")])
@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_the_last_layer_restores_the_means_of_the_original(bench, names, tensor, ridge):
    """Only with its inputs and the shortcut from the rewritten model, and the targets from the original one."""
    refit = Refit(ridge=ridge, residual=tensor in ("z", "j") and names[-1] != "left")
    layers = plan_of(bench, *names, **{names[-1]: refit})
    want, = outputs(bench.model, tensor)
    have, = outputs(assembled(bench, carried_out(bench, layers)), tensor)
    plain, = outputs(assembled(bench, symmetric(bench, layers)), tensor)
    means, found, before = (v.astype(np.float64).mean(axis=(0, 2, 3)) for v in (want, have, plain))
    np.testing.assert_allclose(found, means, atol=2e-5)  # float32 sums of 63 positions of 40 images, of values up to 10
    if len(names) > 1:  # what the layers in front of it do to its inputs is unknown to a symmetric fit
        assert np.abs(before - means).max() > 1e-3


def test_the_weighting_of_the_outputs_holds_for_the_new_factors_too(bench, moments):
    only_two = OutputWeighting(covariance=np.diag([1.0, 1.0] + [1e-6] * 7))
    weighted = Workbench(bench.model, tuple(bench.layers.values()), block=1, weightings={"t": only_two},
                         moments=moments)
    layers = plan_of(bench, "late", late=WEAK, ranks={"late": 2})
    want, = outputs(bench.model, "t")
    one, other = (np.square(outputs(assembled(b, carried_out(b, layers)), "t")[0] - want,
                            dtype=np.float64).sum(axis=(0, 2, 3)) for b in (weighted, bench))
    assert one[:2].sum() < 0.8 * other[:2].sum()
    assert one[2:].sum() > other[2:].sum()


def test_a_weaker_ridge_is_nearer_to_the_targets(bench):
    errors = []
    for ridge in (30.0, 1.0, 0.01):
        layers = plan_of(bench, "stem", "body", "late", late=Refit(ridge=ridge))
        want, have = (outputs(m, "t")[0] for m in (bench.model, assembled(bench, carried_out(bench, layers))))
        errors.append(np.square(have - want, dtype=np.float64).sum())
    assert errors[0] > 1.01 * errors[1] > 1.02 * errors[2]


@pytest.mark.usefixtures("few_rows")
def test_the_seed_decides_about_the_samples(bench):
    layers = plan_of(bench, body=WEAK, stem=WEAK)
    one, again, other = (carried_out(bench, layers, seed=seed) for seed in (3, 3, 4))
    assert_identical(one, again)
    assert not np.array_equal(one["stem"].factors[-1].weight, other["stem"].factors[-1].weight)


# ---- carrying out what a plan says ----

@pytest.fixture
def few_rows(monkeypatch):
    """Not all positions of an image are sampled."""
    monkeypatch.setattr(pairs, "LEAST_ROWS", 400)
    monkeypatch.setattr(pairs, "ROWS_PER_COLUMN", 1)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("refused", [(), ("body",), ("stem", "right"), ("left", "late"), ("body", "right", "late")])
def test_what_was_kept_can_be_repeated_to_the_last_bit(bench, refused):
    result = rebuilt(bench, Told(1.0, *(9.0 if name in refused else 0.9 for name in RANKS), 0.5), seed=7)
    assert {n for n, r in refits(result).items() if r is None} == set(refused)
    assert_identical(carried_out(bench, result.layers, seed=7), result.factors)


@pytest.mark.parametrize("names", [("stem",), ("late",), ("body", "right"), ("stem", "left", "late")])
def test_layers_without_a_refit_stay_symmetric_next_to_others(bench, names):
    layers = plan_of(bench, **{n: Refit(ridge=0.1, residual=n in CORRECTING) for n in names})
    found, plain = carried_out(bench, layers), symmetric(bench, layers)
    for name in RANKS:
        same = all(np.array_equal(a.weight, b.weight)
                   for a, b in zip(found[name].factors, plain[name].factors, strict=True))
        assert same == (name not in names)


@pytest.mark.parametrize(("name", "reason"), [
    ("stem", "nothing is added to what it writes, or something that is rewritten later; set residual to false"),
    ("left", "nothing is added to what it writes, or something that is rewritten later; set residual to false"),
    ("head", "it is not a convolution; set its refit to null")])
def test_a_refit_that_does_not_suit_its_layer_is_refused(bench, name, reason):
    layers = plan_of(bench) + plan_of(bench, "head", ranks={"head": 3}, strategy="expand")
    refit = Refit(ridge=0.1, residual=True)
    planned = tuple(dataclasses.replace(p, refit=refit if p.layer in (name, "right") else None) for p in layers)
    with pytest.raises(PlanMismatchError) as caught:
        carried_out(bench, planned)
    assert str(caught.value) == f"model: layer {name} cannot be refitted as planned: {reason}"


def test_without_any_refit_the_data_is_not_touched(bench):
    class Untouchable(Images):
        def batches(self, _batch_size):
            raise AssertionError("nothing is to be fitted")

    told = []
    found = carried_out(bench, plan_of(bench), data=Untouchable(3, seed=0), progress=told.append)
    assert_identical(found, symmetric(bench, plan_of(bench)))
    assert told == []


# ---- the rest ----

def test_progress_rises_to_one(bench):
    told = []
    rebuilt(bench, falling(), progress=told.append)
    np.testing.assert_allclose(told, [0.2, 0.4, 0.6, 0.8, 1.0])


def test_nothing_planned_is_judged_once(bench):
    judge = Told(0.25)
    result = reconstruct(bench, (), FITTING, judge)
    assert (result.layers, dict(result.factors), result.loss, judge.asked) == ((), {}, 0.25, 1)


def test_the_bench_is_left_as_it_was(bench):
    before = symmetric(bench, plan_of(bench))
    rebuilt(bench, falling())
    assert_identical(symmetric(bench, plan_of(bench)), before)
    assert {n.name for n in bench.model.proto.graph.node if "/" in n.name} == set()


def test_files_of_the_walk_are_removed(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = []
    rebuilt(bench, falling(), layers=plan_of(bench, "stem"),
            progress=lambda _part: files.append(len(list(tmp_path.rglob("*.npy")))))
    assert files[0] > 0
    assert list(tmp_path.iterdir()) == []


def test_layers_keep_their_planned_figures_but_for_the_error_of_their_factors(bench):
    layers = tuple(dataclasses.replace(p, error=0.25, speedup=1.5, weighted=True) for p in plan_of(bench, "stem"))
    found, = rebuilt(bench, falling(), layers=layers).layers
    error = symmetric(bench, layers)["stem"].error
    assert found == dataclasses.replace(layers[0], refit=found.refit, error=error)
    assert error != pytest.approx(0.25, rel=0.01)  # what chose the layer may have been a draft
    assert found.refit is not None


def test_dense_layers_keep_the_factors_of_their_statistics(bench):
    layers, told = plan_of(bench, "head", ranks={"head": 3}, strategy="expand"), []
    layers = plan_of(bench, "late") + layers
    result = rebuilt(bench, falling(), layers=layers, progress=told.append)
    assert {name: refit is not None for name, refit in refits(result).items()} == {"late": True, "head": False}
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
    layers = tuple(PlannedLayer(layer=n, strategy="expand", ranks=(2,), error=0.0, before=cost, after=cost, refit=refit)
                   for n, refit in (("dense", None), ("conv", WEAK)))
    data = Images(50, seed=4)
    data.values = data.values[:, :, 0, :2].reshape(50, 12) + 1
    found = carried_out(bench, layers, data=data)
    want, have = (outputs(m, data=data)[0].mean(axis=(0, 2, 3)) for m in (model, assembled(bench, found)))
    np.testing.assert_allclose(have, want, atol=1e-5)
