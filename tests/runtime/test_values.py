"""The arithmetic from pixels to inputs, and values that a dtype or a preset cannot hold.

Images here are seeded, H != W, and have unequal channels, so that swapped axes or channels cannot hide.
"""

import numpy as np
import pytest

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.image_input import image_input
from onnxslim1x1.runtime.images import geometry
from onnxslim1x1.runtime.preprocess import PRESETS, preprocess
from onnxslim1x1.runtime.session import InputSpec
from onnxslim1x1.runtime.values import cast, check_values, finish


def picture(height, width, *, channels=3, seed=0):
    """Smooth plus noise, every channel with its own level."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 90, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    level = np.array([10.0, 50.0, 90.0, 30.0])[:channels]
    return (ramp + level + rng.uniform(0, 15, (height, width, channels))).astype(np.uint8)


def spec(*shape, dtype=np.float32, free=()):
    return InputSpec(name="x", dtype=np.dtype(dtype), shape=shape, free_axes=free)


def prepared(pixels, prep, model):
    """What the model is fed for one image."""
    target = image_input(model, prep, pixels=pixels.dtype == np.uint8)
    return finish([geometry(pixels, prep, target, where="it")], prep, target, where="it")


def test_raw_keeps_pixels_in_0_255():
    pixels = picture(6, 9)
    actual = prepared(pixels, preprocess("raw"), spec(1, 3, 6, 9))
    np.testing.assert_array_equal(actual, pixels.transpose(2, 0, 1)[None])
    assert actual.flags.c_contiguous


def test_raw_feeds_integer_models():
    pixels = picture(6, 9)
    actual = prepared(pixels, preprocess("raw"), spec(1, 6, 9, 3, dtype=np.uint8))
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, pixels[None])


def test_double_models_are_prepared_in_double():
    pixels = picture(5, 7)
    actual = prepared(pixels, preprocess("cifar10"), spec(1, 5, 7, 3, dtype=np.float64))
    expected = (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(actual, expected[None], rtol=1e-13, atol=1e-13)  # a few roundings of float64


def test_mean_and_std_count_in_the_order_of_the_model():
    pixels = picture(4, 5)
    prep = preprocess("raw", mean=(1, 2, 3), std=(2, 4, 8), channel_order="bgr")
    expected = np.stack([(pixels[:, :, 2] - 1.0) / 2, (pixels[:, :, 1] - 2.0) / 4, (pixels[:, :, 0] - 3.0) / 8])
    np.testing.assert_array_equal(prepared(pixels, prep, spec(1, 3, 4, 5)), expected[None])  # exact: powers of two


def test_bgr_leaves_alpha_and_grey_alone():
    alpha, grey = picture(6, 5, channels=4), picture(6, 5, channels=1)
    prep = preprocess("raw", channel_order="bgr")
    np.testing.assert_array_equal(prepared(alpha, prep, spec(1, 6, 5, 4))[0], alpha[:, :, [2, 1, 0, 3]])
    np.testing.assert_array_equal(prepared(grey, prep, spec(1, 1, 6, 5))[0, 0], grey[:, :, 0])


def test_one_mean_serves_every_channel():
    pixels = picture(6, 5)
    actual = prepared(pixels, preprocess("raw", mean=127, std=128), spec(1, 6, 5, 3))
    np.testing.assert_array_equal(actual, ((pixels - 127.0) / 128)[None])  # exact: a power of two


@pytest.mark.parametrize(("values", "dtype", "message"), [
    (np.array([0.5]), np.int64, "values are float64, but the model wants int64"),
    (np.array([3]), np.bool_, "values are int64, but the model wants bool"),
    (np.array([-1, 300]), np.uint8, r"values in -1\.\.300 do not fit into uint8"),
    (np.array([7e4]), np.float16, r"values in 70000\.\.70000 do not fit into float16"),
    (np.array([1e39]), np.float32, "do not fit into float32"),
])
def test_casts_that_lose_values_are_refused(values, dtype, message):
    with pytest.raises(DataError, match=message):
        cast(values, np.dtype(dtype), where="it")


@pytest.mark.parametrize(("values", "dtype"), [
    (np.array([3, 255]), np.uint8), (np.array([3, -7]), np.float32), (np.array([True, False]), np.bool_),
    (np.array([0.5, -2.25]), np.float16),
])
def test_casts_that_keep_values(values, dtype):
    actual = cast(values, np.dtype(dtype), where="it")
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, values)


@pytest.mark.parametrize(("low", "high", "message"), [
    (0.0, 1.0, r"it: values lie in 0\.\.1, but preset imagenet expects 0\.\.255"),
    (-2.1, 2.6, r"it: values lie in -2.1\.\.2.6, but preset imagenet expects 0\.\.255"),
    (0.0, 65535.0, r"values lie in 0\.\.65535"),
    (float("nan"), 1.0, "NaN"), (0.0, float("inf"), "infinite"),
])
def test_ranges_that_contradict_the_preset(low, high, message):
    with pytest.raises(DataError, match=message):
        check_values(low, high, PRESETS["imagenet"], where="it")


def test_ranges_that_are_fine():
    check_values(0.0, 255.0, PRESETS["imagenet"], where="it")
    check_values(0.0, 0.0, PRESETS["imagenet"], where="it")  # black
    check_values(-2.1, 2.6, PRESETS["raw"], where="it")
    check_values(0.0, 1.0, preprocess("imagenet", scale=1), where="it")  # the user's own scale is trusted
