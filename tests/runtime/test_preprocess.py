"""Presets, options and the arithmetic from pixels to inputs.

Images here are seeded, H != W, and have unequal channels, so that swapped axes or channels cannot hide.
"""

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.preprocess import (
    PRESETS,
    ImageInput,
    Preprocess,
    cast,
    check_values,
    decode,
    finish,
    geometry,
    image_axes,
    image_input,
    preprocess,
)
from onnxslim1x1.runtime.session import InputSpec

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


def test_exact_resize_is_height_then_width():
    pixels = picture(50, 81)
    actual = prepared(pixels, preprocess("raw", resize=(21, 34)), spec(1, 21, 34, 3))
    np.testing.assert_array_equal(actual[0], resized_by_pillow(pixels, 21, 34))


def test_crop_is_centred():
    pixels = picture(9, 13)
    actual = prepared(pixels, preprocess("raw", crop=(5, 6)), spec(1, 5, 6, 3))
    np.testing.assert_array_equal(actual[0], pixels[2:7, 4:10])  # (13 - 6) / 2 = 3.5 rounds to even


def test_float_arrays_are_resized_like_pixels():
    pixels = picture(40, 61)
    prep, model = preprocess("raw", resize=(17, 23)), spec(1, 17, 23, 3)
    actual = prepared(pixels.astype(np.float64), prep, model)
    # Pillow rounds 8-bit results once per pass (rows, then columns): at most 0.5 each.
    np.testing.assert_allclose(actual, prepared(pixels, prep, model), atol=1.01)
    assert np.any(actual != np.round(actual))


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


def test_channels_of_pixels_are_converted():
    rgb, grey = picture(6, 8), picture(6, 8, channels=1)
    luma = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, which Pillow computes in integers: 1 off at most
    np.testing.assert_allclose(prepared(rgb, preprocess("raw"), spec(1, 1, 6, 8))[0, 0], luma, atol=1)
    np.testing.assert_array_equal(prepared(grey, preprocess("raw"), spec(1, 6, 8, 3))[0], np.repeat(grey, 3, axis=2))


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


@pytest.mark.parametrize(("pixels", "prep", "message"), [
    (picture(7, 9), preprocess("unit"), r"it: image is 7x9 .*unit neither resizes.* wants 5x6; use --resize 5,6"),
    (picture(7, 9), preprocess("unit", resize=6), r"it: image is 6x7 .*after resize 6.* wants 5x6"),
    (picture(4, 9), preprocess("unit", crop=(5, 6)), "it: image is 4x9 .*smaller than --crop 5x6; add --resize 6"),
    (picture(5, 6, channels=1).astype(float), preprocess("raw"), "it: samples have 1 channels, but input x wants 3"),
    (picture(1, 60_000), preprocess("unit", resize=256), "it: resizing 1x60000 to 256x15360000 makes more than"),
])
def test_images_that_do_not_fit(pixels, prep, message):
    with pytest.raises(DataError, match=message) as caught:
        prepared(pixels, prep, spec(1, 3, 5, 6))
    assert "\n" not in str(caught.value)


def test_free_axes_take_any_size():
    assert prepared(picture(7, 9), preprocess("unit"), spec(1, 3, 1, 1, free=(2, 3))).shape == (1, 3, 7, 9)
    with pytest.raises(DataError, match=r"image is 7x9 .* input x wants \?x8"):
        prepared(picture(7, 9), preprocess("unit"), spec(1, 3, 1, 8, free=(2,)))


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


def test_preprocess_is_a_hashable_value():
    assert len({preprocess("imagenet"), preprocess("imagenet"), Preprocess()}) == 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK", "1"])
def test_every_mode_is_decoded_to_the_asked_channels(tmp_path, mode):
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(picture(6, 8)).convert(mode)
    image.save(file)
    for channels, wanted in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        actual = decode(file, channels)
        assert actual.shape == (6, 8, channels)
        np.testing.assert_array_equal(actual.squeeze(), np.asarray(image.convert(wanted)))


def test_alpha_is_dropped_not_blended(tmp_path):
    pixels = picture(6, 8, channels=4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 3), pixels[:, :, :3])


def test_exif_orientation_is_respected(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: turn clockwise to look at it
    Image.fromarray(picture(9, 6)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 3), np.rot90(picture(9, 6), k=-1))


def test_damaged_images_are_refused(tmp_path):
    Image.fromarray(picture(40, 60)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for content in (b"hello", b"", whole[:20], whole[:len(whole) // 2]):
        (tmp_path / "broken.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.jpg: cannot be read as an image \(.+\); remove") as caught:
            decode(tmp_path / "broken.jpg", 3)
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None


def test_images_of_16_bits_and_bombs_are_refused(tmp_path, monkeypatch):
    Image.fromarray(np.full((6, 9), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits per channel \(mode I"):
        decode(tmp_path / "deep.png", 1)
    Image.fromarray(picture(6, 9)).save(tmp_path / "large.png")
    for limit in (30, 10):  # Pillow warns of these 54 pixels beyond the limit, and fails beyond twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"large\.png: cannot be read as an image .*bomb"):
            decode(tmp_path / "large.png", 3)
