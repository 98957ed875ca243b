"""Decoding, resizing and cropping.

Images here are seeded, H != W, and have unequal channels, so that swapped axes or channels cannot hide.
"""

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.image_input import image_input
from onnxslim1x1.runtime.images import decode, geometry
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec
from onnxslim1x1.runtime.values import finish


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


def test_channels_of_pixels_are_converted():
    rgb, grey = picture(6, 8), picture(6, 8, channels=1)
    luma = rgb @ np.array([0.299, 0.587, 0.114])  # ITU-R 601, which Pillow computes in integers: 1 off at most
    np.testing.assert_allclose(prepared(rgb, preprocess("raw"), spec(1, 1, 6, 8))[0, 0], luma, atol=1)
    np.testing.assert_array_equal(prepared(grey, preprocess("raw"), spec(1, 6, 8, 3))[0], np.repeat(grey, 3, axis=2))


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
