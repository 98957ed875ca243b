"""Presets, from pixels to the input of a model, and options that make no sense.

Images here are seeded, H != W, and have unequal channels, so that swapped axes or channels cannot hide.
"""

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import OptionError
from onnxslim1x1.runtime.image_input import image_input
from onnxslim1x1.runtime.images import geometry
from onnxslim1x1.runtime.preprocess import PRESETS, Preprocess, preprocess
from onnxslim1x1.runtime.session import InputSpec
from onnxslim1x1.runtime.values import finish

# Values are at most about 255 and pass three float32 operations, each with a relative error of 6e-8.
F32 = {"rtol": 1e-6, "atol": 1e-6}


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


def resized_by_pillow(pixels, height, width):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(("height", "width", "scaled", "top", "left"), [
    (300, 401, (256, 342), 16, 59),  # 256 * 401 / 300 = 342.19; left (342 - 224) / 2
    (451, 280, (412, 256), 94, 16),
    (256, 256, (256, 256), 16, 16),
    (100, 130, (256, 332), 16, 54),  # enlarged
])
def test_imagenet_is_resize_256_crop_224_and_normalise(height, width, scaled, top, left):
    pixels = picture(height, width)
    cropped = resized_by_pillow(pixels, *scaled)[top:top + 224, left:left + 224].astype(np.float64)
    expected = np.empty((1, 3, 224, 224))
    for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected[0, c] = (cropped[:, :, c] / 255 - mean) / std
    actual = prepared(pixels, preprocess("imagenet"), spec(1, 3, 224, 224))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, **F32)


def test_caffe_is_bgr_minus_mean_in_0_255():
    pixels = picture(256, 300)
    red, green, blue = (pixels[16:240, 38:262, c].astype(np.float64) for c in range(3))
    expected = np.stack([blue - 104, green - 117, red - 123])[None]
    actual = prepared(pixels, preprocess("imagenet-caffe"), spec(1, 3, 224, 224, dtype=np.float16))
    assert actual.dtype == np.float16
    np.testing.assert_array_equal(actual, expected)  # integers up to 2048 are exact in float16


@pytest.mark.parametrize(("name", "mean", "std"), [
    ("cifar10", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ("unit", [0, 0, 0], [1, 1, 1]),
])
def test_presets_without_geometry(name, mean, std):
    pixels = picture(6, 9)
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(prepared(pixels, preprocess(name), spec(1, 6, 9, 3)), expected[None], **F32)


def test_overrides_replace_single_fields():
    prep = preprocess("imagenet", crop=200, std=None, mean=[0.5], layout="nhwc")
    assert (prep.crop, prep.resize, prep.mean, prep.std) == (200, 256, (0.5,), (0.229, 0.224, 0.225))
    assert prep.layout == "nhwc"
    assert prep.scale == 1 / 255


def test_no_preset_is_decided_by_the_data():
    assert preprocess().resolved(pixels=True) == PRESETS["unit"]
    assert preprocess().resolved(pixels=False) == PRESETS["raw"]
    assert preprocess(crop=5).resolved(pixels=True) == preprocess("unit", crop=5)
    assert preprocess("imagenet").resolved(pixels=False) == PRESETS["imagenet"]
    assert preprocess(scale=0.5).resolved(pixels=True).scale == 0.5


@pytest.mark.parametrize(("changes", "passes", "plain"), [
    ({}, True, True), ({"std": 1, "mean": 0}, True, True), ({"crop": 3}, False, True), ({"resize": 3}, False, True),
    ({"channel_order": "bgr"}, False, True), ({"scale": 2}, False, False), ({"mean": (0, 0, 1)}, False, False),
    ({"std": 2}, False, False),
])
def test_what_passes_arrays_untouched(changes, passes, plain):
    prep = preprocess("raw", **changes)
    assert (prep.passes, prep.is_plain) == (passes, plain)


@pytest.mark.parametrize(("preset", "changes", "message"), [
    ("imagnet", {}, "--preprocess imagnet: unknown; did you mean imagenet"),
    ("zzz", {}, "--preprocess zzz: unknown; choose from imagenet, cifar10, imagenet-caffe, unit, raw"),
    ("unit", {"scale": 0}, "--scale 0: must be a positive number"),
    ("unit", {"scale": -1.0}, "--scale -1.0: must be"),
    ("unit", {"scale": float("nan")}, "--scale nan: must be"),
    ("unit", {"std": (0.2, 0, 0.2)}, "--std 0.2,0,0.2: must be positive"),
    ("unit", {"std": (0.2, 0.3)}, "--std 0.2,0.3: must be 1 number or one per channel"),
    ("unit", {"mean": (1, float("inf"), 1)}, "--mean 1,inf,1: .* finite"),
    ("imagenet", {"mean": (0.1, 0.2, 0.3, 0.4)}, "--mean has 4 values but --std has 3"),
    ("imagenet", {"mean": (123, 117, 104)}, "--mean 123,117,104: outside of the scaled pixels, 0..1 .* --scale 1"),
    ("unit", {"resize": 0}, "--resize 0: sizes must be at least 1"),
    ("unit", {"crop": (5, -1)}, "--crop 5x-1: sizes must be"),
    ("imagenet", {"crop": 288}, "--crop 288: larger than --resize 256"),
    ("unit", {"crop": (9, 12), "resize": (12, 9)}, "--crop 9x12: larger than --resize 12x9"),
    ("unit", {"layout": "nchv"}, "--layout nchv: unknown; did you mean nchw"),
    ("unit", {"channel_order": "grb"}, "--channel-order grb: unknown"),
])
def test_nonsense_is_refused(preset, changes, message):
    with pytest.raises(OptionError, match=message) as caught:
        preprocess(preset, **changes)
    assert "\n" not in str(caught.value)


def test_a_wide_crop_may_exceed_the_short_side():
    assert preprocess("raw", resize=20, crop=(20, 30)).crop == (20, 30)


def test_preprocess_is_a_hashable_value():
    assert len({preprocess("imagenet"), preprocess("imagenet"), Preprocess()}) == 2
