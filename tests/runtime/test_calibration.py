"""Statistics of a real model against moments of all patches, whatever the batches and the waves are."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import DataError, RuntimeFailure
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime import calibration
from onnxslim1x1.runtime.calibration import collect_moments, with_outputs
from onnxslim1x1.runtime.session import create_session, run

WEIGHTS = {"w": (5, 3, 2, 3), "v": (4, 5, 3, 2), "u": (2, 5, 2, 2), "t": (3, 4, 1, 3)}


class Images:
    """Seeded correlated images with a mean, as a data set; remembers what was asked for."""

    def __init__(self, count=6, *, size=(9, 11), name="x"):
        rng = np.random.default_rng(1)
        sources = rng.standard_normal((count, 2, *size))
        self.values = (np.einsum("cs,nshw->nchw", rng.standard_normal((3, 2)), sources) + 1.5).astype(np.float32)
        self.name = name
        self.asked = []

    def __len__(self):
        return len(self.values)

    def batches(self, batch_size):
        self.asked.append(batch_size)
        for start in range(0, len(self), batch_size):
            yield {self.name: self.values[start : start + batch_size]}


def model_of(*, batch="N", size="H,W"):
    """Four convolutions: one on the graph input, two on the same tensor, one on a graph output."""
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch},3,{size}] x) => (float[B,4,P,Q] c, float[B,2,R,S] e, float[B,3,T,U] d) {{
            [first] a = Conv<strides=[1,2], pads=[1,0,0,2]>(x, w)
            r = Relu(a)
            [left] c = Conv<dilations=[2,1], pads=[2,1,0,3]>(r, v)
            [right] e = Conv<auto_pad="SAME_LOWER", strides=[2,1]>(r, u)
            [last] d = Conv(c, t)
        }}""")
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = rng.standard_normal(shape).astype(np.float32) / 3
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load(proto)


def layers_of(model, *names, **dims):
    layers = find_layers(model, infer_shapes(model, dims=dims or {"H": 9, "W": 11}).tensors)
    return tuple(layer for layer in layers if not names or layer.name in names)


def patches(values, layer):
    """All zero-padded patches in float64, by a loop over positions; independent of the code under test."""
    spec = layer.spec
    top, left, bottom, right = spec.explicit_pads
    padded = np.pad(values.astype(np.float64), [(0, 0), (0, 0), (top, bottom), (left, right)])
    rows = []
    for image in padded:
        for y in range(spec.out_size[0]):
            for x in range(spec.out_size[1]):
                rows.append(np.concatenate([
                    image[:, y * spec.stride[0] + i * spec.dilation[0], x * spec.stride[1] + j * spec.dilation[1]]
                    for i, j in np.ndindex(*spec.kernel)]))
    return np.array(rows)


def expected_moments(model, layers, images):
    inputs = list(dict.fromkeys(layer.input for layer in layers if layer.input != "x"))
    session = create_session(with_outputs(model, inputs))
    found = run(session, {"x": images.values}, outputs=[*inputs, "c"])  # no names at all would mean all outputs
    values = dict(zip(inputs, found, strict=False)) | {"x": images.values}
    result = {}
    for layer in layers:
        rows = patches(values[layer.input], layer)
        result[layer.output] = (rows.mean(axis=0), np.cov(rows.T, bias=True), len(rows))
    return result


def assert_moments(found, expected):
    assert list(found) == list(expected)
    for output, (mean, covariance, count) in expected.items():
        moments = found[output]
        # activations, products and results are float32: about sqrt(rows) * 2^-24 of values up to 10
        np.testing.assert_allclose(moments.mean, mean, atol=5e-6)
        np.testing.assert_allclose(moments.covariance, covariance, atol=5e-5)
        assert moments.count == count


def test_moments_are_those_of_all_patches():
    model, images = model_of(), Images()
    layers = layers_of(model)
    assert [layer.input for layer in layers] == ["x", "r", "r", "c"]
    assert_moments(collect_moments(model, layers, images), expected_moments(model, layers, images))


@pytest.mark.parametrize(("limit", "passes"), [(1, 3), (8 * (30**2 + 20**2), 2), (10**9, 1)])
def test_waves_of_layers_give_the_same(limit, passes, monkeypatch):
    model, images = model_of(), Images()
    layers = layers_of(model, "left", "right", "last")
    monkeypatch.setattr(calibration, "MEMORY_LIMIT", limit)
    assert_moments(collect_moments(model, layers, images), expected_moments(model, layers, images))
    assert len(images.asked) == passes


def test_the_result_does_not_depend_on_the_batch_size(monkeypatch):
    model, images = model_of(), Images(7)
    layers = layers_of(model)
    per_image = sum(4 * int(np.prod(layer.in_shape[1:])) for layer in layers)
    monkeypatch.setattr(calibration, "_ACTIVATION_LIMIT", 3 * per_image)
    assert_moments(collect_moments(model, layers, images), expected_moments(model, layers, images))
    assert images.asked == [3]


def test_a_model_with_a_fixed_batch_is_fed_that_many():
    model, images = model_of(batch="2"), Images(6)
    layers = layers_of(model)
    expected = expected_moments(model_of(), layers, images)
    assert_moments(collect_moments(model, layers, images), expected)
    assert images.asked == [2]


def test_a_fixed_batch_need_not_divide_the_number_of_images():
    model, images = model_of(batch="2"), Images(7)
    layers = layers_of(model)
    assert_moments(collect_moments(model, layers, images), expected_moments(model_of(), layers, images))


def test_images_may_have_another_size_than_was_assumed():
    model, images = model_of(), Images(size=(8, 14))
    layers = layers_of(model, H=8, W=14)
    expected = expected_moments(model, layers, images)
    assert_moments(collect_moments(model, layers_of(model, H=32, W=20), images), expected)


def test_only_the_asked_layers_are_counted():
    model = model_of()
    assert list(collect_moments(model, layers_of(model, "right"), Images())) == ["e"]


def test_layers_that_read_only_the_graph_input():
    model, images = model_of(), Images()
    layers = layers_of(model, "first")
    assert_moments(collect_moments(model, layers, images), expected_moments(model, layers, images))


def sampled(model, *, seed=0, names=("left", "right", "last"), count=6):
    return collect_moments(model, layers_of(model, *names), Images(count), seed=seed)


@pytest.fixture
def few_rows(monkeypatch):
    """Only some positions are sampled: at least 40 rows, or one per dimension."""
    monkeypatch.setattr(calibration, "LEAST_ROWS", 40)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 1)


@pytest.mark.usefixtures("few_rows")
def test_sampling_is_seeded():
    model = model_of()
    first, again, other = (sampled(model, seed=seed) for seed in (3, 3, 4))
    for output in first:
        np.testing.assert_array_equal(first[output].covariance, again[output].covariance)
        np.testing.assert_array_equal(first[output].mean, again[output].mean)
        assert (first[output].mean != other[output].mean).any()


@pytest.mark.usefixtures("few_rows")
def test_every_image_gives_the_same_number_of_rows():
    counts = {output: moments.count for output, moments in sampled(model_of(), count=7).items()}
    # 40 rows of at least 30, 20 and 12 columns over 7 images, rounded up to 6 each
    assert counts == {"c": 42, "e": 42, "d": 42}


def test_the_number_of_rows_follows_the_length_of_a_patch(monkeypatch):
    monkeypatch.setattr(calibration, "LEAST_ROWS", 1)
    monkeypatch.setattr(calibration, "ROWS_PER_COLUMN", 2)
    counts = {output: moments.count for output, moments in sampled(model_of(), count=4).items()}
    assert counts == {"c": 60, "e": 40, "d": 24}  # twice 30, 20 and 12 columns


def test_progress_rises_to_one(monkeypatch):
    monkeypatch.setattr(calibration, "MEMORY_LIMIT", 8 * 30**2)
    monkeypatch.setattr(calibration, "_ACTIVATION_LIMIT", 1)
    model, told = model_of(), []
    collect_moments(model, layers_of(model, "left", "right"), Images(3), progress=told.append)
    np.testing.assert_allclose(told, np.arange(1, 7) / 6, rtol=1e-12)  # two waves of three batches


def test_no_images_are_an_error():
    model = model_of()
    with pytest.raises(DataError, match="holds no images"):
        collect_moments(model, layers_of(model), Images(0))


def test_images_that_do_not_fit_are_an_error_of_the_runtime():
    model = model_of()
    with pytest.raises(RuntimeFailure) as caught:
        collect_moments(model, layers_of(model), Images(name="z"))
    assert "\n" not in str(caught.value)


def test_inner_tensors_become_outputs_once():
    proto = onnx.ModelProto.FromString(with_outputs(model_of(), ["r", "c", "r"][:2]))
    assert [o.name for o in proto.graph.output] == ["c", "e", "d", "r"]
