"""What a model wants of an image, found in the shape of its input, and presets that cannot fit it."""

import numpy as np
import pytest

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.image_input import ImageInput, image_axes, image_input
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec


def spec(*shape, dtype=np.float32, free=()):
    return InputSpec(name="x", dtype=np.dtype(dtype), shape=shape, free_axes=free)


@pytest.mark.parametrize(("shape", "free", "layout", "channels", "size"), [
    ((1, 3, 20, 30), (), "nchw", 3, (20, 30)),
    ((1, 20, 30, 3), (), "nhwc", 3, (20, 30)),
    ((1, 1, 28, 27), (), "nchw", 1, (28, 27)),
    ((1, 28, 27, 4), (), "nhwc", 4, (28, 27)),
    ((1, 3, 1, 1), (0, 2, 3), "nchw", 3, (None, None)),
    ((1, 1, 1, 3), (0, 1, 2), "nhwc", 3, (None, None)),
    ((1, 1, 30, 3), (0, 1), "nhwc", 3, (None, 30)),
])
def test_layout_is_found_in_the_shape(shape, free, layout, channels, size):
    found = image_input(spec(*shape, free=free), preprocess("raw"), pixels=True)
    assert (found.layout, found.channels, found.size) == (layout, channels, size)


def test_layout_may_be_forced():
    found = image_input(spec(1, 3, 20, 3), preprocess("raw", layout="nhwc"), pixels=True)
    assert (found.layout, found.size) == ("nhwc", (3, 20))
    free = image_input(spec(1, 1, 1, 1, free=(0, 1, 2, 3)), preprocess("raw", layout="nchw"), pixels=True)
    assert (free.channels, free.size) == (3, (None, None))


@pytest.mark.parametrize(("shape", "layout", "wanted", "axes"), [
    ((7, 20, 30, 3), "nchw", 3, (0, 1, 2, 3)),
    ((7, 3, 20, 30), "nhwc", 3, (0, 2, 3, 1)),
    ((7, 20, 30), "nchw", 1, (0, 1, 2, None)),
    ((7, 3, 20, 3), "nchw", 3, (0, 2, 3, 1)),
    ((7, 3, 20, 3), "nhwc", 3, (0, 1, 2, 3)),
])
def test_axes_of_arrays(shape, layout, wanted, axes):
    target = ImageInput(name="x", dtype=np.dtype(np.float32), layout=layout, channels=wanted, size=(None, None))
    assert image_axes(shape, target, "a.npy") == axes


def test_arrays_without_a_channel_axis_are_refused():
    target = ImageInput(name="x", dtype=np.dtype(np.float32), layout="nchw", channels=3, size=(None, None))
    with pytest.raises(DataError, match=r"a\.npy: samples of shape 7x20x30.*input x wants 3 channels"):
        image_axes((5, 7, 20, 30), target, "a.npy")


@pytest.mark.parametrize(("prep", "model", "message"), [
    (preprocess("imagenet"), spec(1, 1, 224, 224), "input x: 1 channels, but preset imagenet has 3 values of mean"),
    (preprocess("raw", std=(1, 2, 4)), spec(1, 4, 5, 5), "input x: 4 channels, but preset raw has 3 values of std"),
    (preprocess("unit"), spec(1, 3, 5, 5, dtype=np.uint8), "input x: wants uint8, but preset unit makes fractions"),
    (preprocess("imagenet"), spec(1, 3, 32, 40), "image is 224x224 .*resize 256 and crop 224.* input x wants 32x40"),
    (preprocess("unit", resize=(8, 9)), spec(1, 3, 9, 8), "image is 8x9 .* input x wants 9x8"),
    (preprocess("cifar10", scale=1), spec(1, 3, 5, 5), "pixels lie in 0..255, but mean 0.485.* expect 0..1"),
    (preprocess("raw"), spec(1, 64, 5, 5), "its shape 1x64x5x5 has no axis of 1, 3 or 4 channels"),
    (preprocess("raw", layout="nhwc"), spec(1, 3, 5, 6), "its shape 1x3x5x6 has 6 channels in layout nhwc"),
    (preprocess("raw"), spec(1, 16000, free=(0,)), r"its shape \?x16000 is not that of images"),
])
def test_models_that_do_not_fit(prep, model, message):
    with pytest.raises(DataError, match=message) as caught:
        image_input(model, prep, pixels=True)
    assert "\n" not in str(caught.value)


def test_values_of_0_to_1_may_be_scaled_by_1():
    assert image_input(spec(1, 3, 5, 5), preprocess("cifar10", scale=1), pixels=False).channels == 3
