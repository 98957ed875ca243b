"""Data sets as a whole: batches, subsets, limits, and what onnxruntime is fed.

Images are seeded, H != W, and have unequal channels; folders hold PNG files, which keep pixels exactly.
"""

import numpy as np
import onnx.parser
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec, create_session, input_specs, run

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


def test_batches_of_every_size_hold_the_same_samples(folder):
    dataset = load(folder)
    assert [len(feeds["x"]) for feeds in dataset.batches(2)] == [2, 2, 1]
    np.testing.assert_array_equal(everything(dataset, 1), everything(dataset, 7))
    with pytest.raises(OptionError, match="batch size 0"):
        next(dataset.batches(0))


def test_subsets_and_single_batches(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.stack([picture(s) for s in range(6)]), labels=np.arange(6) * 10)
    dataset = load(tmp_path / "d.npz").subset([5, 1, 3])
    assert dataset.labels.tolist() == [50, 10, 30]
    np.testing.assert_array_equal(dataset.batch([2, 0])["x"],
                                  np.stack([picture(3), picture(5)]).transpose(0, 3, 1, 2))
    last = dataset.subset([2])
    assert last.labels.tolist() == [30]
    np.testing.assert_array_equal(last.batch([0])["x"][0].transpose(1, 2, 0), picture(3))
    with pytest.raises(IndexError):
        dataset.subset([3])


@pytest.mark.parametrize(("count", "limit", "rows"), [
    (10, 2, [2, 7]), (10, 3, [1, 5, 8]), (5, 5, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (7, 1, [3]),
])
def test_limit_spreads_evenly(tmp_path, count, limit, rows):
    np.savez(tmp_path / "d.npz", images=np.arange(count)[:, None] * np.ones(4), y=np.arange(count))
    dataset = load(tmp_path / "d.npz", model=spec(1, 4), limit=limit)
    assert dataset.labels.tolist() == rows
    assert everything(dataset)[:, 0].tolist() == rows


def test_limit_of_a_sorted_folder_keeps_every_class(tmp_path):
    for i in range(12):
        save(tmp_path / "d" / f"class{i // 4}" / f"{i:02}.png", picture(i))
    assert load(tmp_path / "d", limit=3).labels.tolist() == [0, 1, 2]
    with pytest.raises(OptionError, match="limit 0"):
        load(tmp_path / "d", limit=0)


def test_half_precision_and_one_at_a_time(folder):
    model = spec(1, 6, 9, 3, dtype=np.float16, free=())
    dataset = load(folder, UNIT, model)
    assert dataset.fixed_batch == 1
    assert load(folder).fixed_batch is None
    actual = everything(dataset, 1)
    assert actual.dtype == np.float16
    expected = np.stack([picture(s) for s in SORTED_SEEDS]) / 255
    np.testing.assert_allclose(actual, expected, atol=2.5e-4)  # half a unit in the last place of float16 below 1


def test_feeds_run_in_onnxruntime(folder):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 13]>
        agraph (float16[N, 3, 6, 9] pixels) => (float16[N, 3, 6, 9] same) { same = Identity(pixels) }""")
    session = create_session(model.SerializeToString())
    dataset = load_dataset(folder, preprocess=RAW, inputs=input_specs(session))
    feeds = dataset.batch([0, 4])
    np.testing.assert_array_equal(run(session, feeds)[0], feeds["pixels"])
    np.testing.assert_array_equal(feeds["pixels"][1], picture(0).transpose(2, 0, 1))


def test_paths_without_data(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("")
    refused(r"none: no such file or folder", tmp_path / "none")
    refused(r"d: no images in this folder \(looked for \.bmp", tmp_path / "d")
    refused(r"a\.txt: neither a folder of images", tmp_path / "d" / "a.txt")
    with pytest.raises(DataError, match="the model has no inputs"):
        load_dataset(tmp_path / "d", preprocess=RAW, inputs=[])


# ---- digests ----

def test_the_digest_of_a_folder_is_that_of_its_contents_in_order(folder, tmp_path):
    digest = load(folder).digest
    assert digest == load(folder).digest
    assert len(digest) == 64
    for number, seed in enumerate(SORTED_SEEDS):  # other names and places, the same order
        save(tmp_path / "copy" / f"{number}.png", picture(seed))
    assert load(tmp_path / "copy").digest == digest
    (tmp_path / "copy" / "0.png").rename(tmp_path / "copy" / "9.png")
    assert load(tmp_path / "copy").digest != digest
    pixels = picture(0)
    pixels[5, 8, 2] ^= 1
    save(folder / "c.png", pixels)
    assert load(folder).digest != digest


def test_the_digest_tells_everything_apart_that_a_model_is_fed(folder):
    variants = [
        load(folder), load(folder, UNIT), load(folder, preprocess("unit", channel_order="bgr")),
        load(folder, preprocess("unit", mean=0.5)), load(folder, preprocess("raw", resize=(6, 9))),
        load(folder, model=spec(1, 3, 6, 9, free=())), load(folder, model=spec(1, 3, 6, 9, name="z")),
        load(folder, model=spec(1, 3, 6, 9, dtype=np.float16)), load(folder, model=spec(1, 6, 9, 3)),
        load(folder, limit=2), load(folder).subset([0, 1]), load(folder).subset([1, 0])]
    assert len({dataset.digest for dataset in variants}) == len(variants)
    assert load(folder, limit=2).digest == load(folder).subset([1, 3]).digest
    assert load(folder, preprocess(None)).digest == load(folder, UNIT).digest  # what a preset is called is no matter


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, ">f4", bool])
def test_the_digest_of_arrays_is_that_of_their_rows(dtype, tmp_path):
    images = np.stack([picture(s) for s in range(5)])
    values = images.astype(dtype)
    np.savez(tmp_path / "a.npz", images=values, labels=np.arange(5))
    np.savez_compressed(tmp_path / "b.npz", x=values)
    np.save(tmp_path / "c.npy", values)
    first, *others = (load(tmp_path / name) for name in ("a.npz", "b.npz", "c.npy"))
    assert {dataset.digest for dataset in others} == {first.digest}  # neither labels nor the container matter
    assert load(tmp_path / "c.npy", limit=2).digest == first.subset([1, 3]).digest != first.digest
    changed = values.copy()
    changed[4, 5, 8, 2] = changed[4, 5, 8, 2] == 0
    np.save(tmp_path / "c.npy", changed)
    assert load(tmp_path / "c.npy").digest != first.digest
    np.save(tmp_path / "c.npy", values.transpose(0, 3, 1, 2))
    assert load(tmp_path / "c.npy").digest != first.digest


def test_the_digest_of_a_file_that_vanished_is_an_error(folder):
    dataset = load(folder)
    (folder / "9.png").unlink()
    with pytest.raises(DataError, match=r"9\.png: cannot be read"):
        _ = dataset.digest
