"""Names and small pictures of samples."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.evidence import WorstSample
from onnxslim1x1.runtime.pictures import data_uri, with_pictures
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec

RNG = np.random.default_rng(2)


def decoded(uri):
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def worst(*places):
    return tuple(WorstSample(index=p, name="?", loss=1.0, measure="kl", note="", picture=None) for p in places)


def opened(path, shape, preset="unit", **changes):
    spec = InputSpec(name="x", dtype=np.dtype(np.float32), shape=(1, *shape), free_axes=(0,))
    return load_dataset(path, preprocess=preprocess(preset, **changes), inputs=(spec,))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bytes_stay_what_they_are(channels):
    pixels = RNG.integers(0, 256, (20, 30, channels), np.uint8)
    assert np.array_equal(decoded(data_uri(pixels)).reshape(pixels.shape), pixels)


def test_numbers_are_stretched():
    found = decoded(data_uri(np.array([[[-2.0], [0.0]], [[np.nan], [2.0]]])))
    assert found.tolist() == [[0, 128], [128, 255]]


def test_large_images_become_small():
    assert decoded(data_uri(RNG.integers(0, 256, (300, 600, 3), np.uint8))).shape == (48, 96, 3)


def test_files_have_their_names(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((12, 10, 3), 60 * number, np.uint8)).save(tmp_path / f"p{number}.png")
    data = opened(tmp_path, (3, 8, 8), resize=8, crop=8)
    found = with_pictures(worst(2, 0), data.subset([3, 0, 1]))
    assert [(s.index, s.name) for s in found] == [(2, "p1.png"), (0, "p3.png")]
    assert [decoded(s.picture).shape for s in found] == [(12, 10, 3)] * 2
    assert [int(decoded(s.picture).max()) for s in found] == [60, 180]


def test_arrays_of_images_are_shown_too(tmp_path):
    images = RNG.integers(0, 256, (5, 9, 7, 3), np.uint8)
    np.save(tmp_path / "d.npy", images)
    (found,) = with_pictures(worst(4), opened(tmp_path / "d.npy", (3, 9, 7)))
    assert found.name == "image 4"
    assert np.array_equal(decoded(found.picture), images[4])


@pytest.mark.parametrize(("shape", "size"), [((3, 9, 7), (9, 7, 3)), ((9, 7, 3), (9, 7, 3))])
def test_prepared_arrays_are_shown_if_they_are_images(shape, size, tmp_path):
    np.save(tmp_path / "d.npy", RNG.standard_normal((5, *shape)).astype(np.float32))
    (found,) = with_pictures(worst(1), opened(tmp_path / "d.npy", shape, "raw"))
    assert decoded(found.picture).shape == size


def test_what_is_no_image_has_no_picture(tmp_path):
    np.save(tmp_path / "d.npy", RNG.standard_normal((5, 40)).astype(np.float32))
    (found,) = with_pictures(worst(1), opened(tmp_path / "d.npy", (40,), "raw"))
    assert (found.name, found.picture) == ("image 1", None)
