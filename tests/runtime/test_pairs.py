"""Samples of a layer of two models against a loop over the sampled positions of their whole runs."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import pairs, replay
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.pairs import collect_pairs
from onnxslim1x1.runtime.replay import Replay
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.strategies import by_name

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

    def __init__(self, count=11, dtype=np.float32):
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


def rewritten_of(model):
    """The model with its first layer at rank 1."""
    layer = layer_of(model, "first")
    weights = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    edit = GraphEdit(model)
    replace_layer(edit, layer, by_name("reduce").decompose(layer.spec, weights[layer.weight]).truncate((1,)).factors)
    return edit.result()


def whole(model, images, *names):
    return run(create_session(with_outputs(model, names)), {"x": images.values}, outputs=names)


class Case:
    """Both tracks of a model whose first layer was rewritten, at the layer `main`."""

    def __init__(self, folder, model, images, *, shortcut="s"):
        self.model, self.images, self.shortcut = model, images, shortcut
        self.changed = rewritten_of(model)
        self.layer = layer_of(model)
        extra = [shortcut] if shortcut else []
        self.original = Replay(model, images, folder / "original")
        self.rewritten = self.original.fork(folder / "rewritten")
        self.original.advance(model, [self.layer.output, *extra])
        self.rewritten.advance(self.changed, [self.layer.input, *extra])

    def pairs(self, *, seed=0):
        return collect_pairs(self.original, self.rewritten, self.layer, shortcut=self.shortcut, seed=seed)

    def rows(self, positions):
        """Input patches and targets (images, rows, nC + O) at positions, from whole runs."""
        (target,) = whole(self.model, self.images, "b")
        (read,) = whole(self.changed, self.images, "r")
        targets = reference_pixels(target, positions)
        if self.shortcut:
            due, added = (whole(model, self.images, "s")[0].astype(np.float64) for model in (self.model, self.changed))
            targets += reference_pixels(np.broadcast_to(due - added, target.shape), positions)
        return np.concatenate([reference_patches(read, self.layer.spec, positions), targets], axis=2)


@pytest.fixture
def few_rows(monkeypatch):
    """Six of the 40 positions of each of eleven images, in batches of three, three, three and two."""
    monkeypatch.setattr(pairs, "LEAST_ROWS", 60)
    monkeypatch.setattr(pairs, "ROWS_PER_COLUMN", 1)
    monkeypatch.setattr(replay, "_BATCH", 3)


@pytest.fixture
def drawn(monkeypatch):
    """The positions that are drawn, batch by batch."""
    kept, draw = [], pairs.draw_positions

    def recording(*args):
        kept.append(draw(*args))
        return kept[-1]

    monkeypatch.setattr(pairs, "draw_positions", recording)
    return kept


def reference_patches(values, spec, positions):
    """Zero-padded patches in float64 (images, positions, n*C), position by position."""
    top, left, bottom, right = spec.explicit_pads
    padded = np.pad(values.astype(np.float64), [(0, 0), (0, 0), (top, bottom), (left, right)])
    rows = []
    for image, places in zip(padded, positions, strict=True):
        for place in places:
            y, x = divmod(int(place), spec.out_size[1])
            rows.append(np.concatenate([
                image[:, y * spec.stride[0] + i * spec.dilation[0], x * spec.stride[1] + j * spec.dilation[1]]
                for i, j in np.ndindex(*spec.kernel)]))
    return np.array(rows).reshape(*positions.shape, -1)


def reference_pixels(values, positions):
    width = values.shape[3]
    return np.array([[image[:, place // width, place % width].astype(np.float64) for place in places]
                     for image, places in zip(values, positions, strict=True)])


def assert_positions(positions, *, images, per_image, total=40):
    assert positions.shape == (images, per_image)
    assert positions.min() >= 0
    assert positions.max() < total
    assert all(len(set(places)) == per_image for places in positions.tolist())


def assert_moments(found, rows, *, atol=1e-5):
    # products, activations and results are float32, of values up to 5
    rows = rows.reshape(-1, rows.shape[2])
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=atol / 4)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True), atol=atol)
    assert found.count == len(rows)
    assert found.mean.dtype == found.covariance.dtype == np.float32


def assert_same(one, two):
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.covariance, two.covariance)
    assert one.count == two.count


@pytest.mark.usefixtures("few_rows")
def test_rows_pair_what_the_layer_reads_with_what_it_should_write(tmp_path, drawn):
    case = Case(tmp_path, model_of(), Images(), shortcut=None)
    found = case.pairs()
    assert [len(p) for p in drawn] == [3, 3, 3, 2]
    positions = np.concatenate(drawn)
    assert_positions(positions, images=11, per_image=6)
    rows = case.rows(positions)
    assert_moments(found, rows)
    # the tracks differ: the test could not tell otherwise which of them is read
    unchanged = reference_patches(whole(case.model, case.images, "r")[0], case.layer.spec, positions)
    assert np.abs(rows[..., :24] - unchanged).max() > 0.5


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("kind", SHORTCUTS)
def test_the_target_makes_up_for_what_the_shortcut_brings(kind, tmp_path, drawn):
    case = Case(tmp_path, model_of(SHORTCUTS[kind]), Images())
    found = case.pairs()
    positions = np.concatenate(drawn)
    rows = case.rows(positions)
    assert_moments(found, rows)
    if kind != "per channel":  # which no layer has a part in
        assert np.abs(rows[..., 24:] - reference_pixels(*whole(case.model, case.images, "b"), positions)).max() > 0.1


def test_a_shortcut_that_is_larger_than_the_output_is_left_out(tmp_path):
    lines = "m = ReduceMean<axes=[2,3]>(r)  [main] b = Conv(m, p, bias)  s = Conv(r, u)"
    case = Case(tmp_path, model_of(lines), Images())
    found = case.pairs()
    (target,), (read,) = whole(case.model, case.images, "b"), whole(case.changed, case.images, "m")
    assert_moments(found, np.concatenate([read, target], axis=1).reshape(11, 1, 9).astype(np.float64))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(("least", "per_column", "per_image"), [
    (60, 2, 6), (60, 3, 7), (1, 3, 7), (200, 1, 19), (439, 1, 40), (441, 1, 40), (1, 20, 40)])
def test_there_are_so_many_rows_per_column_but_not_fewer_than_a_least(least, per_column, per_image, tmp_path, drawn,
                                                                      monkeypatch):
    monkeypatch.setattr(pairs, "LEAST_ROWS", least)
    monkeypatch.setattr(pairs, "ROWS_PER_COLUMN", per_column)
    found = Case(tmp_path, model_of(), Images()).pairs()
    assert_positions(np.concatenate(drawn), images=11, per_image=per_image)  # 24 columns
    assert found.count == 11 * per_image


def test_all_positions_are_taken_where_there_are_few(tmp_path):
    case = Case(tmp_path, model_of(), Images())
    assert_moments(case.pairs(), case.rows(np.tile(np.arange(40), (11, 1))))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 11])
def test_all_images_are_sampled_however_they_are_batched(size, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(replay, "_BATCH", size)
    case = Case(tmp_path, model_of(), Images())
    found = case.pairs()
    assert len(drawn[0]) == size
    assert_moments(found, case.rows(np.concatenate(drawn)))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("batch", [2, 4, 5])
def test_what_pads_a_fixed_batch_is_not_sampled(batch, tmp_path, drawn):
    found = Case(tmp_path / "fixed", model_of(batch=batch), Images()).pairs()
    positions = np.concatenate(drawn)
    assert_positions(positions, images=11, per_image=6)
    assert_moments(found, Case(tmp_path / "free", model_of(), Images()).rows(positions))


@pytest.mark.usefixtures("few_rows")
def test_a_seed_decides_the_positions(tmp_path, drawn):
    case = Case(tmp_path, model_of(), Images())
    assert_same(case.pairs(seed=3), case.pairs(seed=3))
    case.pairs(seed=4)
    one, same, other = (np.concatenate(drawn[start : start + 4]) for start in (0, 4, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[:3] != one[3:6]).any()  # the batches do not share theirs


@pytest.mark.usefixtures("few_rows")
def test_images_may_have_another_size_than_was_assumed(tmp_path):
    model = model_of()
    case = Case(tmp_path, model, Images())
    expected = case.pairs()
    layers = find_layers(model, infer_shapes(model, dims={"H": 31, "W": 20}).tensors)
    case.layer = next(layer for layer in layers if layer.name == "main")
    assert_same(case.pairs(), expected)


@pytest.mark.usefixtures("few_rows")
def test_half_precision_is_summed_in_float32(tmp_path, drawn):
    case = Case(tmp_path, model_of(dtype="float16"), Images(dtype=np.float16))
    found = case.pairs()
    # activations of up to 4 have ten bits, and the whole runs round them elsewhere
    assert_moments(found, case.rows(np.concatenate(drawn)), atol=1e-2)
