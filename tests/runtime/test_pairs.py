"""Samples of a layer of two models against a loop over the sampled positions of their whole runs."""

from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import calibration, replay
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.pairs import collect_pairs, inner_rows
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.spec import ConvFactor
from onnxslim1x1.strategies import STRATEGIES, by_name
from onnxslim1x1.strategies.base import patch_matrix

SIZE = (6, 9)
WEIGHTS = {"v": (4, 3, 2, 3), "w": (5, 4, 3, 2), "bias": (5,), "u": (5, 4, 1, 2), "p": (5, 4, 1, 1), "k": (5, 1, 1)}
MAIN = "[main] b = Conv<strides=[2,1], dilations=[1,2], pads=[1,0,2,3]>(r, w, bias)"
SHORTCUTS = {  # every output of `main` is (N, 5, 4, 10)
    "as large": MAIN + "[side] s = Conv<strides=[2,1], pads=[0,0,1,2]>(r, u)",
    "per image": MAIN + "m = ReduceMean<axes=[2,3]>(r)  [side] s = Conv(m, p)",
    "per channel": MAIN + "s = Abs(k)",
    "per column": MAIN + "[side] j = Conv<strides=[2,1], pads=[0,0,1,2]>(r, u)  s = ReduceMean<axes=[1,2]>(j)",
}


class Images:
    """Seeded images as a data set."""

    def __init__(self, count=7, dtype=np.float32):
        self.values = np.random.default_rng(1).standard_normal((count, 3, *SIZE)).astype(dtype)

    def __len__(self):
        return len(self.values)

    def batches(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield {"x": self.values[start : start + batch_size]}


def model_of(lines=SHORTCUTS["as large"], *, batch="N", dtype="float"):
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g ({dtype}[{batch},3,H,W] x) => ({dtype}[B,5,P,Q] y) {{
            [first] a = Conv<pads=[1,0,0,2]>(x, v)  r = Relu(a)  {lines}  z = Add(s, b)  y = Relu(z) }}""")
    rng = np.random.default_rng(0)
    kind = np.float16 if dtype == "float16" else np.float32
    proto.graph.initializer.extend(numpy_helper.from_array(rng.standard_normal(shape).astype(kind) / 3, name)
                                   for name, shape in WEIGHTS.items())
    return load(proto)


def layer_of(model, name="main"):
    layers = find_layers(model, infer_shapes(model, dims={"H": SIZE[0], "W": SIZE[1]}).tensors)
    return next(layer for layer in layers if layer.name == name)


def factorised(model, name, strategy, rank, *, layer=None):
    layer = layer or layer_of(model, name)
    weights = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    family = by_name(strategy)
    decomposition = family.decompose(layer.spec, weights[layer.weight], weights.get(layer.bias))
    return decomposition.truncate((rank,) * len(family.max_ranks(layer.spec))).factors


def rewritten_of(model, **chains):
    edit = GraphEdit(model)
    for name, factors in chains.items():
        replace_layer(edit, layer_of(model, name), factors)
    return edit.result()


def whole(model, images, *names):
    return run(create_session(with_outputs(model, names)), {"x": images.values}, outputs=names)


class Case:
    """Both tracks of a model whose first layer was rewritten, at the layer `main`."""

    def __init__(self, folder, model, images, *, shortcut="s"):
        self.model, self.images = model, images
        self.changed = rewritten_of(model, first=factorised(model, "first", "reduce", 1))
        self.layer = layer_of(model)
        extra = [shortcut] if shortcut else []
        self.original = Replay(model, images, folder / "original")
        self.rewritten = self.original.fork(folder / "rewritten")
        self.original.advance(model, [self.layer.output, *extra])
        self.rewritten.advance(self.changed, [self.layer.input, *extra])

    def pairs(self, **settings):
        return collect_pairs(self.original, self.rewritten, self.layer, **settings)


@pytest.fixture
def few_rows(monkeypatch):
    """Nine of the 40 positions of each of seven images, in batches of three, three and one."""
    monkeypatch.setattr(calibration, "LEAST_ROWS", 60)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)
    monkeypatch.setattr(replay, "_BATCH", 3)


def reference_patches(values, spec, positions):
    """Zero-padded patches in float64, position by position."""
    top, left, bottom, right = spec.explicit_pads
    padded = np.pad(values.astype(np.float64), [(0, 0), (0, 0), (top, bottom), (left, right)])
    rows = []
    for image, places in zip(padded, positions, strict=True):
        for place in places:
            y, x = divmod(int(place), spec.out_size[1])
            rows.append(np.concatenate([
                image[:, y * spec.stride[0] + i * spec.dilation[0], x * spec.stride[1] + j * spec.dilation[1]]
                for i, j in np.ndindex(*spec.kernel)]))
    return np.array(rows)


def reference_pixels(values, positions):
    width = values.shape[3]
    return np.array([image[:, place // width, place % width].astype(np.float64)
                     for image, places in zip(values, positions, strict=True) for place in places])


def assert_positions(positions, *, images, per_image, total=40):
    found = np.concatenate(positions)
    assert found.shape == (images, per_image)
    assert found.min() >= 0
    assert found.max() < total
    assert all(len(set(places)) == per_image for places in found.tolist())


def assert_moments(joint, rows):
    # products, activations and results are float32, of values up to 5
    np.testing.assert_allclose(joint.mean, rows.mean(axis=0), atol=2e-6)
    np.testing.assert_allclose(joint.covariance, np.cov(rows.T, bias=True), atol=1e-5)
    assert joint.count == len(rows)


@pytest.mark.usefixtures("few_rows")
def test_rows_pair_what_the_layer_reads_with_what_it_should_write(tmp_path):
    case = Case(tmp_path, model_of(), Images(), shortcut=None)
    pairs = case.pairs()
    assert [len(p) for p in pairs.positions] == [3, 3, 1]
    assert_positions(pairs.positions, images=7, per_image=9)
    positions = np.concatenate(pairs.positions)
    targets = reference_pixels(whole(case.model, case.images, "b")[0], positions)
    patches = reference_patches(whole(case.changed, case.images, "r")[0], case.layer.spec, positions)
    np.testing.assert_allclose(pairs.targets, targets, atol=1e-5)  # float32 rounding in convolutions
    assert pairs.shortcuts is None
    assert_moments(pairs.joint, np.hstack([patches, targets]))
    # the tracks differ: the test could not tell otherwise which of them is read
    unchanged = reference_patches(whole(case.model, case.images, "r")[0], case.layer.spec, positions)
    assert np.abs(patches - unchanged).max() > 0.5


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_target_makes_up_for_what_the_shortcut_brings(kind, tmp_path):
    case = Case(tmp_path, model_of(SHORTCUTS[kind]), Images())
    pairs = case.pairs(shortcut="s")
    positions = np.concatenate(pairs.positions)
    y, s = whole(case.model, case.images, "b", "s")
    read, changed = whole(case.changed, case.images, "r", "s")
    before, after = (reference_pixels(np.broadcast_to(v, y.shape), positions) for v in (s, changed))
    np.testing.assert_allclose(pairs.shortcuts, after, atol=1e-5)
    np.testing.assert_allclose(pairs.targets, reference_pixels(y, positions) + before - after, atol=1e-5)
    patches = reference_patches(read, case.layer.spec, positions)
    assert_moments(pairs.joint, np.hstack([patches, reference_pixels(y, positions) + before - after]))
    if kind != "per channel":  # which no layer has a part in
        assert np.abs(before - after).max() > 0.1
    assert pairs.targets.dtype == pairs.shortcuts.dtype == np.float32


def test_a_shortcut_that_is_larger_than_the_output_is_left_out(tmp_path):
    lines = "m = ReduceMean<axes=[2,3]>(r)  [main] b = Conv(m, p, bias)  s = Conv(r, u)"
    case = Case(tmp_path, model_of(lines), Images())
    pairs = case.pairs(shortcut="s")
    np.testing.assert_allclose(pairs.targets, whole(case.model, case.images, "b")[0][:, :, 0, 0], atol=1e-5)
    assert pairs.shortcuts is None
    assert pairs.joint.count == 7


def test_all_positions_are_taken_where_there_are_few(tmp_path):
    case = Case(tmp_path, model_of(), Images())
    pairs = case.pairs(shortcut="s")
    np.testing.assert_array_equal(np.concatenate(pairs.positions), np.tile(np.arange(40), (7, 1)))
    assert pairs.joint.count == len(pairs.targets) == len(pairs.shortcuts) == 280


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("batch", [2, 4])
def test_what_pads_a_fixed_batch_is_not_sampled(batch, tmp_path):
    case = Case(tmp_path, model_of(batch=batch), Images())
    pairs = case.pairs(shortcut="s")
    assert_positions(pairs.positions, images=7, per_image=9)
    y, s = whole(model_of(), case.images, "b", "s")
    (changed,) = whole(rewritten_of(model_of(), first=factorised(model_of(), "first", "reduce", 1)), case.images, "s")
    expected = reference_pixels(y + s - changed, np.concatenate(pairs.positions))
    np.testing.assert_allclose(pairs.targets, expected, atol=1e-5)


@pytest.mark.usefixtures("few_rows")
def test_a_seed_decides_the_positions(tmp_path):
    case = Case(tmp_path, model_of(), Images())
    one, same, other = (case.pairs(shortcut="s", seed=seed) for seed in (3, 3, 4))
    for first, second in zip(one.positions, same.positions, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.targets, same.targets)
    np.testing.assert_array_equal(one.shortcuts, same.shortcuts)
    np.testing.assert_array_equal(one.joint.covariance, same.joint.covariance)
    assert (np.concatenate(one.positions) != np.concatenate(other.positions)).any()
    assert (one.positions[0] != one.positions[1]).any()  # the batches do not share theirs


@pytest.mark.usefixtures("few_rows")
def test_images_may_have_another_size_than_was_assumed(tmp_path):
    model, images = model_of(), Images()
    case = Case(tmp_path, model, images)
    layers = find_layers(model, infer_shapes(model, dims={"H": 31, "W": 20}).tensors)
    right, case.layer = case.layer, next(layer for layer in layers if layer.name == "main")
    pairs = case.pairs()
    expected = collect_pairs(case.original, case.rewritten, right)
    np.testing.assert_array_equal(pairs.targets, expected.targets)
    np.testing.assert_array_equal(pairs.joint.covariance, expected.joint.covariance)
    for strategy in ("reduce", "expand", "spatial"):
        assumed, known = (inner_rows(case.rewritten, case.layer, factorised(model, "main", strategy, 2, layer=layer),
                                     pairs.positions) for layer in (case.layer, right))
        np.testing.assert_array_equal(assumed, known)


@pytest.mark.usefixtures("few_rows")
def test_half_precision_is_summed_in_float32(tmp_path):
    case = Case(tmp_path, model_of(dtype="float16"), Images(dtype=np.float16))
    pairs = case.pairs(shortcut="s")
    positions = np.concatenate(pairs.positions)
    y, s = whole(case.model, case.images, "b", "s")
    (changed,) = whole(case.changed, case.images, "s")
    targets = sum(sign * reference_pixels(v, positions) for sign, v in ((1, y), (1, s), (-1, changed)))
    np.testing.assert_allclose(pairs.targets, targets, atol=1e-2)  # activations of up to 4 with ten bits
    assert pairs.targets.dtype == pairs.shortcuts.dtype == pairs.joint.covariance.dtype == np.float32
    factors = factorised(case.model, "main", "reduce", 2)
    assert inner_rows(case.rewritten, case.layer, factors, pairs.positions).dtype == np.float32


# what the last factor reads


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("strategy", [s.name for s in STRATEGIES])
def test_inner_rows_times_the_last_factor_are_the_output_of_the_rewritten_layer(strategy, rank, tmp_path):
    case = Case(tmp_path, model_of(), Images(), shortcut=None)
    pairs = case.pairs()
    factors = factorised(case.model, "main", strategy, rank)
    rows = inner_rows(case.rewritten, case.layer, factors, pairs.positions)
    assert rows.shape == (63, factors[-1].spec.patch)
    found = rows @ patch_matrix(factors[-1].weight).T + factors[-1].bias
    model = rewritten_of(case.model, first=factorised(case.model, "first", "reduce", 1), main=factors)
    (output,) = whole(model, case.images, "b")
    expected = reference_pixels(output, np.concatenate(pairs.positions))
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 rounding in two convolutions


@pytest.mark.usefixtures("few_rows")
def test_a_chain_may_have_more_than_two_factors(tmp_path):
    case = Case(tmp_path, model_of(), Images(), shortcut=None)
    spec, rng = case.layer.spec, np.random.default_rng(5)
    specs = (spec.pointwise(4, 2, size=SIZE, bias=False), replace(spec, in_channels=2, out_channels=3, bias=False),
             spec.pointwise(3, 5, size=spec.out_size, bias=True))
    factors = [ConvFactor(role=f"r{i}", spec=s, weight=rng.standard_normal(s.weight_shape),
                          bias=rng.standard_normal(5) if s.bias else None) for i, s in enumerate(specs)]
    positions = case.pairs().positions
    found = inner_rows(case.rewritten, case.layer, factors, positions) @ factors[2].weight[:, :, 0, 0].T
    model = rewritten_of(case.model, first=factorised(case.model, "first", "reduce", 1), main=factors)
    (output,) = whole(model, case.images, "b")
    np.testing.assert_allclose(found + factors[2].bias, reference_pixels(output, np.concatenate(positions)), atol=2e-5)


@pytest.mark.usefixtures("few_rows")
def test_inner_rows_leave_out_what_pads_a_fixed_batch(tmp_path):
    images = Images()
    fixed = Case(tmp_path / "fixed", model_of(batch=4), images, shortcut=None)
    free = Case(tmp_path / "free", model_of(), images, shortcut=None)
    factors = factorised(free.model, "main", "spatial", 2)
    everywhere = [np.tile(np.arange(40), (n, 1)) for n in (4, 3)]
    found = inner_rows(fixed.rewritten, fixed.layer, factors, everywhere)
    expected = inner_rows(free.rewritten, free.layer, factors, [np.tile(np.arange(40), (n, 1)) for n in (3, 3, 1)])
    np.testing.assert_allclose(found, expected, atol=1e-6)
