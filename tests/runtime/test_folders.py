"""Folders of images as samples: their order, when they are decoded, and what is wrong with them.

Images are seeded, H != W, and have unequal channels; folders hold PNG files, which keep pixels exactly.
"""

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime import folders, images
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec

RAW, UNIT = preprocess("raw"), preprocess("unit")


def spec(*shape, dtype=np.float32, free=(0,), name="x"):
    return InputSpec(name=name, dtype=np.dtype(dtype), shape=shape, free_axes=free)


NCHW = spec(1, 3, 6, 9)


def picture(seed, height=6, width=9, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze()).save(path)


def load(path, prep=RAW, model=NCHW, **options):
    return load_dataset(path, preprocess=prep, inputs=[model], **options)


def everything(dataset, batch_size=2):
    return np.concatenate([feeds["x"] for feeds in dataset.batches(batch_size)])


def refused(message, path, *args, **options):
    """The one line of a `DataError`."""
    with pytest.raises(DataError, match=message) as caught:
        load(path, *args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """Five images in an order of their own: 10.png sorts before 9.png, and b/ before c.png."""
    root = tmp_path / "images"
    for seed, name in enumerate(["c.png", "9.png", "10.png", "b/z.png", "a/sub/y.PNG"]):
        save(root / name, picture(seed))
    return root


SORTED_SEEDS = [2, 1, 4, 3, 0]


def test_folders_are_read_in_the_order_of_relative_paths(folder):
    save(folder / ".hidden.png", picture(9))
    save(folder / ".cache" / "x.png", picture(9))
    (folder / "notes.txt").write_text("no image")
    dataset = load(folder)
    assert (dataset.name, len(dataset), dataset.labels) == ("images", 5, None)
    expected = np.stack([picture(seed).transpose(2, 0, 1) for seed in SORTED_SEEDS])
    actual = everything(dataset)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, expected)


def test_images_are_decoded_when_they_are_asked_for(folder, monkeypatch):
    seen = []

    def spy(path, channels):
        seen.append(path.name)
        return images.decode(path, channels)

    monkeypatch.setattr(folders, "decode", spy)
    dataset = load(folder)
    assert seen == ["10.png"]  # the first one shows what is wrong with all
    seen.clear()
    dataset.batch([3, 1])
    assert seen == ["z.png", "9.png"]


def test_without_a_preset_images_are_scaled_to_0_1(folder):
    np.testing.assert_array_equal(everything(load(folder, preprocess())), everything(load(folder, UNIT)))
    raw = load(folder, preprocess(), spec(1, 3, 6, 9, dtype=np.uint8))  # integers cannot hold 0..1
    np.testing.assert_array_equal(raw.batch([0])["x"][0], picture(2).transpose(2, 0, 1))


def test_free_sizes_take_any_image_but_one_size_per_batch(tmp_path):
    save(tmp_path / "d" / "a.png", picture(1, 5, 7))
    save(tmp_path / "d" / "b.png", picture(2, 8, 6))
    dataset = load(tmp_path / "d", model=spec(1, 3, 1, 1, free=(0, 2, 3)))
    assert [feeds["x"].shape for feeds in dataset.batches(1)] == [(1, 3, 5, 7), (1, 3, 8, 6)]
    with pytest.raises(DataError, match=r"b\.png: image is 8x6, but .*a\.png in the same batch is 5x7"):
        dataset.batch([0, 1])


def test_wrong_sizes_name_the_file_and_both_sizes(folder):
    save(folder / "z.png", picture(1, 7, 9))
    dataset = load(folder)
    with pytest.raises(DataError, match=r"z\.png: image is 7x9 .*wants 6x9; use --resize 6,9"):
        dataset.batch([5])
    refused(r"10\.png: image is 6x9 .*wants 9x6", folder, model=spec(1, 3, 9, 6))


def test_damaged_images_are_named(folder):
    (folder / "10.png").write_bytes(b"hello")
    line = refused(r"10\.png: cannot be read as an image \(.+\); remove or replace it", folder)
    assert line.startswith(str(folder))
