"""Sampled patches against a real convolution whose kernel only copies."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.graph.rewrite import attributes
from onnxslim1x1.runtime.patches import draw_positions, gather_patches, gather_pixels, sample_patches
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies.base import patch_matrix

GEOMETRIES = {
    "1d": ConvSpec.make(3, 5, kernel=(4,), stride=(2,), dilation=(3,), pads=(2, 5), in_size=(23,)),
    "2d": ConvSpec.make(4, 5, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), pads=(1, 0, 2, 3), in_size=(9, 11)),
    "3d": ConvSpec.make(2, 3, kernel=(2, 3, 1), stride=(1, 2, 3), dilation=(3, 2, 1), pads=(0, 1, 2, 3, 4, 0),
                        in_size=(6, 7, 8)),
    "same upper": ConvSpec.make(2, 3, kernel=(4, 3), stride=(3, 2), auto_pad="SAME_UPPER", in_size=(11, 14)),
    "same lower": ConvSpec.make(2, 3, kernel=(4, 3), stride=(3, 2), auto_pad="SAME_LOWER", in_size=(11, 14)),
    "valid": ConvSpec.make(2, 3, kernel=(2, 5), dilation=(4, 2), pads=(9, 9, 9, 9), auto_pad="VALID", in_size=(12, 13)),
}
EVERY_GEOMETRY = pytest.mark.parametrize("name", GEOMETRIES)


def images_of(spec, *, count=3, seed=0):
    return np.random.default_rng(seed).standard_normal((count, spec.in_channels, *spec.in_size)).astype(np.float32)


def convolved(images, spec, weight):
    """Output of onnxruntime as rows (image and position, output channel)."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes(spec))
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (output,) = run(create_session(model.SerializeToString()), {"x": images})
    return np.moveaxis(output, 1, -1).reshape(-1, len(weight))


def all_patches(images, spec):
    """All patches through a kernel of ones and zeros: output channel k*C + c copies channel c at position k."""
    copies = np.zeros((spec.patch, spec.in_channels, *spec.kernel), np.float32)
    for position, tap in enumerate(np.ndindex(*spec.kernel)):
        for channel in range(spec.in_channels):
            copies[position * spec.in_channels + channel, channel][tap] = 1
    return convolved(images, spec, copies)


@EVERY_GEOMETRY
def test_all_patches_are_what_a_convolution_sees_in_its_order(name):
    spec = GEOMETRIES[name]
    images = images_of(spec)
    found = sample_patches(images, spec, 10**9, np.random.default_rng(0))
    np.testing.assert_array_equal(found, all_patches(images, spec))  # a product with 1 and 0 does not round
    assert found.dtype == np.float32


@EVERY_GEOMETRY
def test_patches_times_the_weight_matrix_are_the_output(name):
    spec = GEOMETRIES[name]
    images = images_of(spec)
    weight = np.random.default_rng(1).standard_normal(spec.weight_shape).astype(np.float32)
    found = sample_patches(images, spec, 10**9, np.random.default_rng(0)) @ patch_matrix(weight).T
    np.testing.assert_allclose(found, convolved(images, spec, weight), rtol=1e-4, atol=1e-5)  # float32 rounding


@EVERY_GEOMETRY
@pytest.mark.parametrize("per_image", [1, 5])
def test_samples_are_drawn_without_replacement(name, per_image):
    spec = GEOMETRIES[name]
    images = images_of(spec)
    found = sample_patches(images, spec, per_image, np.random.default_rng(0)).reshape(3, per_image, -1)
    for sampled, possible in zip(found, all_patches(images, spec).reshape(3, -1, spec.patch), strict=True):
        # several patches may lie in the padding and be equal: each may be drawn as often as it is there
        assert Counter(row.tobytes() for row in sampled) <= Counter(row.tobytes() for row in possible)


def test_every_image_has_its_own_positions():
    spec = GEOMETRIES["2d"]
    twins = np.repeat(images_of(spec, count=1), 2, axis=0)
    first, second = np.split(sample_patches(twins, spec, 4, np.random.default_rng(0)), 2)
    assert (first != second).any()


def test_every_position_can_be_drawn():
    spec = GEOMETRIES["2d"]
    images = images_of(spec, count=1)
    rng = np.random.default_rng(0)
    seen = {row.tobytes() for _ in range(200) for row in sample_patches(images, spec, 2, rng)}
    assert seen == {row.tobytes() for row in all_patches(images, spec)}


def test_the_same_seed_draws_the_same_positions():
    spec = GEOMETRIES["2d"]
    images = images_of(spec)
    first, second, other = (sample_patches(images, spec, 4, np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_half_precision_is_kept():
    spec = GEOMETRIES["2d"]
    images = images_of(spec).astype(np.float16)
    found = sample_patches(images, spec, 10**9, np.random.default_rng(0))
    np.testing.assert_array_equal(found, all_patches(images.astype(np.float32), spec).astype(np.float16))
    assert found.dtype == np.float16


def test_a_dense_layer_sees_each_image_whole():
    spec = ConvSpec.make(5, 3, kernel=(), in_size=())
    images = np.arange(20.0).reshape(4, 5)
    np.testing.assert_array_equal(sample_patches(images, spec, 7, np.random.default_rng(0)), images)


def test_an_unknown_size_is_an_error():
    spec = ConvSpec.make(2, 3, kernel=(3, 3))
    with pytest.raises(ValueError, match="known input size"):
        sample_patches(np.zeros((1, 2, 5, 5), np.float32), spec, 1, np.random.default_rng(0))


# at given positions


def some_positions(spec, images, *, count=4, seed=3):
    return draw_positions(images, spec, count, np.random.default_rng(seed))


@EVERY_GEOMETRY
def test_patches_at_given_positions_are_those_of_all_positions(name):
    spec = GEOMETRIES[name]
    images = images_of(spec)
    positions = some_positions(spec, 3)
    everything = all_patches(images, spec).reshape(3, -1, spec.patch)
    expected = [everything[image, place] for image in range(3) for place in positions[image]]
    np.testing.assert_array_equal(gather_patches(images, spec, positions), expected)


@EVERY_GEOMETRY
def test_pixels_belong_to_the_patches_at_the_same_positions(name):
    spec = GEOMETRIES[name]
    images = images_of(spec)
    weight = np.random.default_rng(1).standard_normal(spec.weight_shape).astype(np.float32)
    rows = convolved(images, spec, weight).reshape(3, *spec.out_size, -1)
    positions = some_positions(spec, 3)
    found = gather_pixels(np.moveaxis(rows, -1, 1), positions)
    expected = gather_patches(images, spec, positions) @ patch_matrix(weight).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32 rounding


def test_pixels_are_rows_of_channels_image_by_image():
    images = np.arange(2 * 3 * 2 * 5).reshape(2, 3, 2, 5)  # value = 30 image + 10 channel + 5 y + x
    found = gather_pixels(images, np.array([[7, 0, 4, 7], [9, 3, 3, 1]]))
    places = [7, 0, 4, 7, 39, 33, 33, 31]
    np.testing.assert_array_equal(found, [[p, p + 10, p + 20] for p in places])


def test_pixels_of_a_dense_layer_are_its_outputs():
    rows = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(gather_pixels(rows, np.zeros((2, 1), np.int64)), rows)


@EVERY_GEOMETRY
def test_positions_are_distinct_and_inside(name):
    spec = GEOMETRIES[name]
    total = int(np.prod(spec.out_size))
    for count in (1, total - 1):
        positions = draw_positions(5, spec, count, np.random.default_rng(0))
        assert positions.shape == (5, count)
        assert all(len(set(row)) == count and set(row) <= set(range(total)) for row in positions.tolist())


@pytest.mark.parametrize("more", [0, 1, 10**9])
def test_all_positions_are_in_order(more):
    spec = GEOMETRIES["2d"]
    total = int(np.prod(spec.out_size))
    found = draw_positions(3, spec, total + more, np.random.default_rng(0))
    np.testing.assert_array_equal(found, np.tile(np.arange(total), (3, 1)))


def test_sampled_patches_are_those_at_the_drawn_positions():
    spec = GEOMETRIES["2d"]
    images = images_of(spec)
    found = sample_patches(images, spec, 4, np.random.default_rng(3))
    np.testing.assert_array_equal(found, gather_patches(images, spec, some_positions(spec, 3)))
