"""Folders, arrays and labels as feeds.

Images are seeded, H != W, and have unequal channels; folders hold PNG files, which keep pixels exactly.
"""

import zipfile

import numpy as np
import onnx.parser
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError, OptionError
from onnxslim1x1.runtime import data
from onnxslim1x1.runtime import preprocess as steps
from onnxslim1x1.runtime.data import check_labels, load_dataset
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


def test_batches_of_every_size_hold_the_same_samples(folder):
    dataset = load(folder)
    assert [len(feeds["x"]) for feeds in dataset.batches(2)] == [2, 2, 1]
    np.testing.assert_array_equal(everything(dataset, 1), everything(dataset, 7))
    with pytest.raises(OptionError, match="batch size 0"):
        next(dataset.batches(0))


def test_images_are_decoded_when_they_are_asked_for(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(data, "decode", lambda path, channels: seen.append(path.name) or steps.decode(path, channels))
    dataset = load(folder)
    assert seen == ["10.png"]  # the first one shows what is wrong with all
    seen.clear()
    dataset.batch([3, 1])
    assert seen == ["z.png", "9.png"]


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


# ---- images

def test_half_precision_and_one_at_a_time(folder):
    model = spec(1, 6, 9, 3, dtype=np.float16, free=())
    dataset = load(folder, UNIT, model)
    assert dataset.fixed_batch == 1
    assert load(folder).fixed_batch is None
    actual = everything(dataset, 1)
    assert actual.dtype == np.float16
    expected = np.stack([picture(s) for s in SORTED_SEEDS]) / 255
    np.testing.assert_allclose(actual, expected, atol=2.5e-4)  # half a unit in the last place of float16 below 1


def test_without_a_preset_images_are_scaled_to_0_1(folder):
    np.testing.assert_array_equal(everything(load(folder, preprocess())), everything(load(folder, UNIT)))
    raw = load(folder, preprocess(), spec(1, 3, 6, 9, dtype=np.uint8))  # integers cannot hold 0..1
    np.testing.assert_array_equal(raw.batch([0])["x"][0], picture(2).transpose(2, 0, 1))


def test_feeds_run_in_onnxruntime(folder):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 13]>
        agraph (float16[N, 3, 6, 9] pixels) => (float16[N, 3, 6, 9] same) { same = Identity(pixels) }""")
    session = create_session(model.SerializeToString())
    dataset = load_dataset(folder, preprocess=RAW, inputs=input_specs(session))
    feeds = dataset.batch([0, 4])
    np.testing.assert_array_equal(run(session, feeds)[0], feeds["pixels"])
    np.testing.assert_array_equal(feeds["pixels"][1], picture(0).transpose(2, 0, 1))


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


def test_paths_without_data(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("")
    refused(r"none: no such file or folder", tmp_path / "none")
    refused(r"d: no images in this folder \(looked for \.bmp", tmp_path / "d")
    refused(r"a\.txt: neither a folder of images", tmp_path / "d" / "a.txt")
    with pytest.raises(DataError, match="the model has no inputs"):
        load_dataset(tmp_path / "d", preprocess=RAW, inputs=[])


# ---- arrays

STACK = np.stack([picture(s) for s in range(4)])  # (4, 6, 9, 3)


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


# ---- labels

def test_labels_from_folders_in_the_order_of_their_names(tmp_path):
    for i, name in enumerate(["zebra/a.png", "ant/b.png", "ant/deep/c.png", "cat/a.png"]):
        save(tmp_path / "d" / name, picture(i))
    assert load(tmp_path / "d").labels.tolist() == [0, 0, 1, 2]


def test_labels_from_folders_named_by_integers(tmp_path):
    for i, name in enumerate(["10/a.png", "9/b.png", "007/c.png"]):
        save(tmp_path / "d" / name, picture(i))
    assert load(tmp_path / "d").labels.tolist() == [7, 10, 9]


def test_one_folder_or_files_beside_folders_are_no_classes(tmp_path, folder):
    save(tmp_path / "d" / "train" / "a.png", picture(1))
    assert load(tmp_path / "d").labels is None
    assert load(folder).labels is None


ROWS = "file,label\n9.png,4\nc.png,3\n./b/z.png,2\na\\sub\\y.PNG , 1\n\n10.png,0\n"


def test_labels_csv_is_found_and_matched_by_name(folder):
    (folder / "labels.csv").write_text(ROWS, encoding="utf-8-sig")
    assert load(folder).labels.tolist() == [0, 4, 1, 2, 3]
    assert load(folder, limit=2).labels.tolist() == [4, 2]


def test_named_labels_win(folder, tmp_path):
    (folder / "labels.csv").write_text("nonsense")
    (tmp_path / "l.csv").write_text("split,label,file\n" + "".join(
        f"val,{i},{name}\n" for i, name in enumerate(["10.png", "9.png", "a/sub/y.PNG", "b/z.png", "c.png"])))
    np.save(tmp_path / "l.npy", np.array([[5], [6], [7], [8], [9]], np.uint8))
    np.savez(tmp_path / "l.npz", other=np.zeros(3), y=np.arange(5, 10))
    assert load(folder, labels=tmp_path / "l.csv").labels.tolist() == [0, 1, 2, 3, 4]
    assert load(folder, labels=tmp_path / "l.npy").labels.tolist() == [5, 6, 7, 8, 9]
    assert load(folder, labels=tmp_path / "l.npz").labels.tolist() == [5, 6, 7, 8, 9]
    assert load(folder, labels=tmp_path / "l.npz").labels.dtype == np.int64


@pytest.mark.parametrize(("old", "new", "message"), [
    ("file,label", "name,class", r"labels\.csv: the first line is name,class, but file,label is wanted for .*images"),
    ("c.png,3\n", "", r"labels\.csv: 1 of 5 images in .*images have no label \(first: c\.png\)"),
    ("c.png", "d.png", r"labels\.csv: 1 of 5 labelled files are not in .*images \(first: d\.png\)"),
    ("c.png", "9.png", r"labels\.csv, line 3: 9\.png has a label already"),
    ("c.png,3", "c.png,cat", r"labels\.csv, line 3: label 'cat' is not an integer"),
    ("c.png,3", "c.png,3.0", r"labels\.csv, line 3: label '3\.0' is not an integer"),
    ("c.png,3", "c.png,1_0", r"label '1_0' is not an integer"),
    ("c.png,3", "c.png,-3", r"labels\.csv, line 3: label '-3' is negative"),
    ("c.png,3", "c.png," + "9" * 5000, "is not an integer below"),
    ("c.png,3", "c.png", r"labels\.csv, line 3: 1 cells, but the first line has 2"),
    (ROWS, "", r"labels\.csv: the first line is missing"),
    ("c.png", "c\x00.png", r"labels\.csv"),
])
def test_tables_that_do_not_fit(folder, old, new, message):
    assert old in ROWS
    (folder / "labels.csv").write_text(ROWS.replace(old, new))
    refused(message, folder)


def test_label_files_that_do_not_fit(folder, tmp_path):
    for name, values in {"few": np.arange(4), "onehot": np.eye(5, dtype=int), "float": np.zeros(5),
                         "negative": np.arange(5) - 1}.items():
        np.save(tmp_path / f"{name}.npy", values)
    np.savez(tmp_path / "two.npz", a=np.arange(5), b=np.arange(5))
    (tmp_path / "l.txt").write_text("1")
    (tmp_path / "latin.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    for name, message in {
        "few.npy": r"few\.npy: labels have shape \(4,\), but .*images has 5 samples",
        "onehot.npy": r"labels have shape \(5, 5\), but .* has 5 samples",
        "float.npy": "labels are float64, not integers",
        "negative.npy": r"labels lie in -1\.\.3", "two.npz": "has the arrays a, b, but one named labels is wanted",
        "l.txt": "labels must be a .csv, .npy or .npz file", "none.csv": "no such file",
        "latin.csv": r"latin\.csv: cannot be read as a CSV file",
    }.items():
        refused(message, folder, labels=tmp_path / name)


def test_labels_of_arrays(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.stack([picture(s) for s in range(3)]), labels=np.array([7, 8, 9]))
    assert load(tmp_path / "d.npz").labels.tolist() == [7, 8, 9]
    (tmp_path / "l.csv").write_text("label\n1\n2\n1\n")
    assert load(tmp_path / "d.npz", labels=tmp_path / "l.csv").labels.tolist() == [1, 2, 1]
    (tmp_path / "l.csv").write_text("file,label\na.png,1\n")
    refused(r"first line is file,label, but label is wanted", tmp_path / "d.npz", labels=tmp_path / "l.csv")
    np.savez(tmp_path / "e.npz", x=np.zeros((3, 6, 9, 3), np.uint8), y=np.arange(2))
    refused(r"e\.npz: array y: labels have shape \(2,\), but .*e\.npz has 3 samples", tmp_path / "e.npz")


def test_labels_are_checked_against_the_classes():
    check_labels(np.array([0, 9]), 10, "d")
    with pytest.raises(DataError, match=r"d: label 10 \(sample 1\), but the model has 10 classes \(0\.\.9\)"):
        check_labels(np.array([0, 10, 11]), 10, "d")
    with pytest.raises(DataError, match=r"label -1 \(sample 0\)"):
        check_labels(np.array([-1]), 10, "d")
