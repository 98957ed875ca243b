"""Labels from folders, tables and arrays, and whether they fit the data and the model."""

import numpy as np
import pytest
from PIL import Image

from onnxslim1x1.errors import DataError
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.labels import check_labels
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import InputSpec

RAW = preprocess("raw")


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


ROWS = "file,label\n9.png,4\nc.png,3\n./b/z.png,2\na\\sub\\y.PNG , 1\n\n10.png,0\n"


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
