"""References to values in files: what is taken, what is refused, and that nothing is allocated for a refusal."""

import io
import os
import tracemalloc

import numpy as np
import onnx
import pytest

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.stored import byte_size, place

VALUES = np.arange(50, dtype=np.float32)
TYPES = onnx.TensorProto


def tensor(*, dims=(5, 7), kind=TYPES.FLOAT, **entries):
    made = TYPES(name="w", dims=dims, data_type=kind, data_location=TYPES.EXTERNAL)
    for key, value in ({"location": "w.bin"} | entries).items():
        if value is not None:
            made.external_data.add(key=key, value=str(value))
    return made


@pytest.fixture
def home(tmp_path):
    """A model file with data beside it, and data outside of its folder."""
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "sub").mkdir()
    for path in (folder / "w.bin", folder / "sub" / "w.bin", tmp_path / "secret.bin"):
        path.write_bytes(VALUES.tobytes())
    (folder / "m.onnx").write_bytes(b"a model")
    return folder / "m.onnx"


@pytest.mark.parametrize("entries", [
    {}, {"offset": 0}, {"offset": 60}, {"length": 140}, {"location": "sub/w.bin"}, {"location": "./w.bin"},
    {"location": "sub/../w.bin"}, {"checksum": "abc"}])
def test_files_in_the_folder_are_read(entries, home):
    found = place(tensor(**entries), home)
    first = int(entries.get("offset", 0)) // 4
    np.testing.assert_array_equal(np.frombuffer(found.read(), np.float32), VALUES[first : first + 35])
    target = io.BytesIO()
    found.copy_to(target)
    assert target.getvalue() == found.read()


def test_links_that_stay_in_the_folder_are_followed(home):
    (home.parent / "link.bin").symlink_to("sub/w.bin")
    assert len(place(tensor(location="link.bin"), home).read()) == 140


def test_a_name_with_two_dots_is_no_way_out(home):
    (home.parent / "w..v2.bin").write_bytes(VALUES.tobytes())
    assert len(place(tensor(location="w..v2.bin"), home).read()) == 140


REFUSED = {
    "absolute": ({"location": "/etc/hostname"}, "is an absolute path"),
    "of Windows": ({"location": "C:\\secret.bin"}, "is an absolute path"),
    "a share": ({"location": "\\\\server\\share\\w"}, "is an absolute path"),
    "upwards": ({"location": "../secret.bin"}, "leaves the folder of the model by .."),
    "upwards in the middle": ({"location": "sub/../../secret.bin"}, "leaves the folder of the model by .."),
    "link": ({"location": "link.bin"}, "by a symbolic link; copy the model and its data as files into one folder"),
    "folder link": ({"location": "door/secret.bin"}, "by a symbolic link"),
    "missing": ({"location": "gone.bin"}, "gone.bin is not in"),
    "dangling": ({"location": "dangling.bin"}, "dangling.bin is not in"),
    "a folder": ({"location": "sub"}, "sub is no regular file"),
    "a pipe": ({"location": "pipe"}, "pipe is no regular file"),
    "the folder itself": ({"location": "."}, "is no regular file"),
    "no name": ({"location": None}, "names no file"),
    "empty name": ({"location": ""}, "names no file"),
    "a zero in the name": ({"location": "w\0.bin"}, "names no file"),
    "too short": ({"offset": 64}, "ends before them: they need 204 bytes, it has 200"),
    "behind the end": ({"offset": 10**15}, "ends before them"),
    "another length": ({"length": 136}, "136 bytes are stored for a shape and a type that need 140"),
    "huge": ({"dims": (2**40, 2**20)}, "ends before them"),
    "huge length": ({"length": 2**60, "kind": TYPES.STRING}, "ends before them"),
    "negative offset": ({"offset": -4}, "is no number of bytes"),
    "no number": ({"offset": "1e3"}, "is no number of bytes"),
    "many digits": ({"offset": "9" * 5000}, "is no number of bytes"),
    "negative size": ({"dims": (-1, 7)}, "has a negative size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, home):
    folder = home.parent
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "door").symlink_to(folder.parent)
    (folder / "dangling.bin").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    entries, text = REFUSED[name]
    model = Model(proto=onnx.ModelProto(), path=home, home=home)
    tracemalloc.start()
    for doing in (model.array, model.place):
        with pytest.raises(ModelError) as caught:
            doing(tensor(**entries))
        assert text in str(caught.value)
        assert str(caught.value).startswith(f"{home}: the values of tensor w cannot be read (")
        assert "\n" not in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_file_that_shrinks_is_noticed(home):
    found = place(tensor(), home)
    (home.parent / "w.bin").write_bytes(b"short")
    for doing in (found.read, lambda: found.copy_to(io.BytesIO())):
        with pytest.raises(ValueError, match="ends before them"):
            doing()


@pytest.mark.parametrize(("kind", "dims", "size"), [
    (TYPES.FLOAT, (3, 5), 60), (TYPES.FLOAT16, (3, 5), 30), (TYPES.BFLOAT16, (3, 5), 30), (TYPES.DOUBLE, (), 8),
    (TYPES.INT4, (3, 5), 8), (TYPES.UINT4, (3,), 2), (TYPES.INT2, (5,), 2), (TYPES.FLOAT8E4M3FN, (3, 5), 15),
    (TYPES.BOOL, (0, 5), 0), (TYPES.STRING, (3,), None), (TYPES.UNDEFINED, (3,), None), (999, (3,), None)])
def test_the_size_that_a_tensor_claims(kind, dims, size):
    made = TYPES(dims=dims)
    made.data_type = kind
    assert byte_size(made) == size
