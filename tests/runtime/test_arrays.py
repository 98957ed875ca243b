"""Arrays as samples: pixels in either layout, prepared values, several inputs, and what does not fit.

Images are seeded, H != W, and have unequal channels.
"""

import zipfile

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError
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


STACK = np.stack([picture(s) for s in range(4)])  # (4, 6, 9, 3)


@pytest.fixture
def folder(tmp_path):
    """Five images in an order of their own: 10.png sorts before 9.png, and b/ before c.png."""
    root = tmp_path / "images"
    for seed, name in enumerate(["c.png", "9.png", "10.png", "b/z.png", "a/sub/y.PNG"]):
        save(root / name, picture(seed))
    return root


@pytest.mark.parametrize("array", [STACK, STACK.transpose(0, 3, 1, 2), np.asfortranarray(STACK)])
@pytest.mark.parametrize("model", [NCHW, spec(1, 6, 9, 3)])
def test_pixels_in_either_layout(tmp_path, array, model):
    np.save(tmp_path / "d.npy", array)
    expected = STACK / 255 if model.shape[3] == 3 else STACK.transpose(0, 3, 1, 2) / 255
    actual = everything(load(tmp_path / "d.npy", preprocess(), model))
    np.testing.assert_allclose(actual, expected, rtol=2e-7)  # float32: 1/255 and the product are rounded once each


def test_arrays_are_preprocessed_like_images(folder, tmp_path):
    np.savez(tmp_path / "d.npz", x=STACK[:3], other=np.zeros(2))
    prep = preprocess("imagenet", resize=12, crop=(10, 11))
    model = spec(1, 3, 10, 11)
    expected = load(folder, prep, model).batch([4, 1, 0])["x"]  # the seeds 0, 1, 2
    np.testing.assert_array_equal(everything(load(tmp_path / "d.npz", prep, model)), expected)


def test_grey_arrays_need_no_channel_axis(tmp_path):
    np.save(tmp_path / "d.npy", STACK[..., 0])
    np.testing.assert_array_equal(everything(load(tmp_path / "d.npy", model=spec(1, 1, 6, 9)))[:, 0], STACK[..., 0])
    wide = everything(load(tmp_path / "d.npy"))
    np.testing.assert_array_equal(wide, np.repeat(STACK[:, None, :, :, 0], 3, axis=1))


@pytest.mark.parametrize(("shape", "model"), [
    ((4, 3, 6, 9), NCHW), ((4, 64, 5, 7), spec(1, 64, 5, 7)), ((4, 120), spec(1, 120)), ((4, 2, 31), spec(1, 2, 31)),
    ((4, 8), spec(1, 1, free=(0, 1))), ((4,), spec(1)),
])
def test_prepared_arrays_pass_as_they_are(tmp_path, shape, model):
    array = np.random.default_rng(5).standard_normal(shape)
    np.savez(tmp_path / "d.npz", whatever=array)
    for prep in (RAW, preprocess()):
        np.testing.assert_array_equal(everything(load(tmp_path / "d.npz", prep, model)), array.astype(np.float32))


@pytest.mark.parametrize(("array", "prep", "model", "message"), [
    (STACK / 255, preprocess("imagenet"), spec(1, 3, 224, 224), r"in 0\.\.1, but preset imagenet expects 0\.\.255"),
    (np.tile(0.1, (4, 9)), UNIT, spec(1, 9), r"values lie in 0\.1\.\.0\.1, but preset unit expects"),
    (np.tile(9, (4, 9)), UNIT, spec(1, 9), r"input x: its shape \?x9 is not that of images .*--preprocess raw"),
    (np.zeros((4, 8)), RAW, spec(1, 9), r"d\.npy: samples have shape \(8\), but input x wants \(9\)"),
    (np.zeros((4, 3, 5, 5)), RAW, spec(1, 64, 5, 5), r"samples have shape \(3x5x5\), but input x wants \(64x5x5\)"),
    (np.zeros((4, 3, 7, 9)), RAW, NCHW, "image is 7x9 .* input x wants 6x9"),
    (np.zeros((4, 9, 3)), RAW, spec(1, 9, dtype=np.int64), r"shape \(9x3\), but input x wants \(9\)"),
    (np.full((4, 9), 0.5), RAW, spec(1, 9, dtype=np.int64), "values are float64, but the model wants int64"),
    (np.where(np.arange(600) == 500, np.nan, 1.0)[:, None], RAW, spec(1, 1), "NaN or infinite"),
    (np.zeros((0, 9)), RAW, spec(1, 9), "no samples for input x"), (np.array(1.0), RAW, spec(1), "no samples"),
    (np.array(["a"]), RAW, spec(1), "values for input x are <U1, not numbers"),
    (np.array([{}]), RAW, spec(1), r"d\.npy: cannot be read as a numpy file \(.*objects"),
])
def test_arrays_that_do_not_fit(tmp_path, array, prep, model, message):
    np.save(tmp_path / "d.npy", array, allow_pickle=True)
    refused(message, tmp_path / "d.npy", prep, model)


@pytest.mark.parametrize("name", ["d.npy", "d.npz"])
def test_damaged_arrays_are_named(tmp_path, name):
    (np.save if name == "d.npy" else np.savez_compressed)(tmp_path / name, STACK)
    whole = (tmp_path / name).read_bytes()
    for size in (0, 7, 60, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:size])
        refused(rf"{name}: cannot be read as a numpy file", tmp_path / name)


def test_several_inputs_come_from_an_npz_with_their_names(tmp_path):
    models = [spec(1, 3, name="left"), spec(1, 2, 2, name="y", dtype=np.int64)]
    left, y = np.arange(12.0).reshape(4, 3), np.arange(16).reshape(4, 2, 2)
    np.savez(tmp_path / "d.npz", left=left, y=y, labels=np.arange(4))
    dataset = load_dataset(tmp_path / "d.npz", preprocess=preprocess(), inputs=models)
    feeds = dataset.subset([3, 1]).batch([0, 1])
    assert (list(feeds), feeds["y"].dtype, dataset.labels.tolist()) == (["left", "y"], np.int64, [0, 1, 2, 3])
    np.testing.assert_array_equal(feeds["left"], left[[3, 1]])
    np.testing.assert_array_equal(feeds["y"], y[[3, 1]])
    np.savez(tmp_path / "bare.npz", left=left, y=y)
    assert load_dataset(tmp_path / "bare.npz", preprocess=RAW, inputs=models).labels is None  # y is an input here
    np.savez(tmp_path / "few.npz", left=left)
    np.savez(tmp_path / "odd.npz", left=left, y=y[:3])
    save(tmp_path / "a.png", picture(1))
    for name, prep, message in [("few.npz", RAW, "has the arrays left, but the model wants left, y"),
                                ("odd.npz", RAW, "different numbers of samples .*'left': 4, 'y': 3"),
                                ("d.npz", UNIT, "preset unit is for images, but a model with 2 inputs"),
                                ("a.png", RAW, "images feed one input, but the model has 2; .* keys left, y")]:
        with pytest.raises(DataError, match=message):
            load_dataset(tmp_path / name, preprocess=prep, inputs=models)


def test_npz_keys(tmp_path):
    np.savez(tmp_path / "d.npz", a=STACK, b=STACK)
    refused(r"has the arrays a, b, but one named x, images or x is wanted", tmp_path / "d.npz")
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("notes", b"no array")
    refused("values for input x are .*, not numbers", tmp_path / "f.npz")
    np.savez(tmp_path / "e.npz", a=STACK, images=STACK[:2], y=np.arange(2))
    assert len(load(tmp_path / "e.npz")) == 2
    np.savez(tmp_path / "g.npz", a=STACK, images=STACK[:2])
    assert len(load(tmp_path / "g.npz", model=spec(1, 3, 6, 9, name="a"))) == 4  # the model's own name comes first
