"""Saving: all or nothing, and a clear error before or after the work."""

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.errors import ModelError, OptionError, OutputError
from onnxslim1x1.graph import save as saving
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.save import copy_unchanged, require_writable, save, write_text
from onnxslim1x1.graph.stored import Place

WEIGHT = np.random.default_rng(0).standard_normal((9, 8, 5, 4)).astype(np.float32)


def conv_model():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,8,11,13] x) => (float[1,9,7,10] y) { y = Conv(x, w) }""")
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return proto


@pytest.fixture
def inside(tmp_path):
    """An empty folder to write into."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def external(tmp_path):
    path = tmp_path / "source" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(conv_model(), path, save_as_external_data=True, location="m.bin", size_threshold=16)
    return load(path)


def read(path):
    """What onnx reads, less the default that it spells out for tensors that were external."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        tensor.ClearField("data_location")
    return proto


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(kind, doing, *arguments):
    with pytest.raises(kind) as caught:
        doing(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# what is written


def test_a_model_in_memory_is_written_as_one_file(inside):
    save(load(conv_model()), inside / "m.onnx")
    assert files(inside) == ["m.onnx"]
    assert read(inside / "m.onnx") == conv_model()


def test_weights_that_are_still_in_the_source_file_are_written_along(tmp_path, inside):
    source = tmp_path / "m.onnx"
    onnx.save_model(conv_model(), source)
    edited = GraphEdit(load(source)).result({"key": "value"})
    save(edited, inside / "n.onnx")
    source.unlink()
    written = onnx.load(inside / "n.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(written.graph.initializer[0]), WEIGHT)
    assert [(e.key, e.value) for e in written.metadata_props] == [("key", "value")]


def test_an_existing_file_is_replaced(inside):
    (inside / "m.onnx").write_bytes(b"old and much longer than nothing")
    save(load(conv_model()), inside / "m.onnx")
    assert (files(inside), read(inside / "m.onnx")) == (["m.onnx"], conv_model())


def test_files_get_the_usual_permissions(inside):
    (inside / "usual").touch()
    save(load(conv_model()), inside / "m.onnx")
    assert (inside / "m.onnx").stat().st_mode == (inside / "usual").stat().st_mode


def test_external_weights_stay_external(external, inside):
    save(external, inside / "n.onnx")
    assert files(inside) == ["n.onnx", "n.onnx.data"]
    assert read(inside / "n.onnx") == conv_model()
    (tensor,) = onnx.load(inside / "n.onnx", load_external_data=False).graph.initializer
    assert {e.key: e.value for e in tensor.external_data}["location"] == "n.onnx.data"


def test_external_weights_can_be_saved_beside_their_source(external):
    save(external, external.path.with_name("n.onnx"))
    assert files(external.path.parent) == ["m.bin", "m.onnx", "n.onnx", "n.onnx.data"]
    assert read(external.path) == read(external.path.with_name("n.onnx")) == conv_model()


def test_what_protobuf_cannot_hold_becomes_external(inside, monkeypatch):
    monkeypatch.setattr(saving, "_LARGEST_SINGLE_FILE", 2000)
    save(load(conv_model()), inside / "m.onnx")
    assert files(inside) == ["m.onnx", "m.onnx.data"]
    assert (inside / "m.onnx").stat().st_size < 500
    assert read(inside / "m.onnx") == conv_model()


def test_an_unchanged_model_is_copied_byte_for_byte(tmp_path, inside):
    source = tmp_path / "m.onnx"
    source.write_bytes(conv_model().SerializeToString() + b"\xf2\x7f\x02hi")  # with a field that nobody knows
    copy_unchanged(load(source), inside / "n.onnx")
    assert (inside / "n.onnx").read_bytes() == source.read_bytes()


def test_an_unchanged_model_takes_its_external_weights_along(external, inside):
    copy_unchanged(external, inside / "n.onnx")
    assert read(inside / "n.onnx") == conv_model()


def test_an_unchanged_model_in_memory_is_written(inside):
    copy_unchanged(load(conv_model()), inside / "n.onnx")
    assert read(inside / "n.onnx") == conv_model()


def test_text_is_written_as_utf8(inside):
    write_text(inside / "plan.json", "{\"größe\": 1}\n")
    assert (inside / "plan.json").read_bytes() == "{\"größe\": 1}\n".encode()
    assert files(inside) == ["plan.json"]


# what goes wrong while writing


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


WRITERS = {
    "one file": (lambda folder: save(load(conv_model()), folder / "m.onnx"), saving, "_write_pieces"),
    "external": (lambda folder: save(load(folder.parent / "source" / "m.onnx"), folder / "m.onnx"), Place, "copy_to"),
    "copy": (lambda folder: copy_unchanged(load(folder.parent / "plain.onnx"), folder / "m.onnx"), saving.shutil,
             "copyfile"),
    "text": (lambda folder: write_text(folder / "m.onnx", "text"), Path, "write_text"),
    "rename": (lambda folder: save(load(conv_model()), folder / "m.onnx"), os, "replace"),
}


@pytest.mark.parametrize(("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"),
                                              (errno.EIO, "choose another place with -o")])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.usefixtures("external")
def test_a_failure_while_writing_leaves_what_was_there(writer, code, advice, inside, monkeypatch):
    onnx.save_model(conv_model(), inside.parent / "plain.onnx")
    (inside / "m.onnx").write_bytes(b"old")
    write, owner, name = WRITERS[writer]
    monkeypatch.setattr(owner, name, failing(code))
    message = refused(OutputError, write, inside)
    assert message == f"{inside / 'm.onnx'}: cannot be written ({os.strerror(code)}); {advice}"
    assert files(inside) == ["m.onnx"]  # no temporary files
    assert (inside / "m.onnx").read_bytes() == b"old"


def test_a_disk_that_fills_up_in_the_middle_of_a_file(inside, monkeypatch):
    (inside / "m.onnx").write_bytes(b"old")

    def half(path, pieces, model):
        write(path, pieces[: len(pieces) // 2], model)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = saving._write_pieces
    monkeypatch.setattr(saving, "_write_pieces", half)
    refused(OutputError, save, load(conv_model()), inside / "m.onnx")
    monkeypatch.undo()
    assert files(inside) == ["m.onnx"]
    assert (inside / "m.onnx").read_bytes() == b"old"


def test_an_interrupt_leaves_what_was_there(inside, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    (inside / "m.onnx").write_bytes(b"old")
    monkeypatch.setattr(saving, "_write_pieces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(load(conv_model()), inside / "m.onnx")
    monkeypatch.undo()
    assert files(inside) == ["m.onnx"]
    assert (inside / "m.onnx").read_bytes() == b"old"


def test_the_data_file_moves_before_the_model(external, inside, monkeypatch):
    """So that a model never refers to weights that are not there yet."""
    moved, replace = [], os.replace

    def note(source, target):
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    save(external, inside / "n.onnx")
    assert moved == ["n.onnx.data", "n.onnx"]


@pytest.fixture
def pair(inside, external):
    """A model with its data, as it was saved before, and what both files hold."""
    save(load(external.inlined()), inside / "n.onnx")
    onnx.save_model(onnx.load(inside / "n.onnx"), inside / "n.onnx", save_as_external_data=True,
                    location="n.onnx.data", size_threshold=16)
    (inside / "n.onnx.data").write_bytes(bytes(WEIGHT.nbytes))  # other values
    return contents(inside)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("works", range(4))
def test_of_two_files_none_is_new_when_the_other_is_old(works, pair, external, inside, monkeypatch):
    """Each of the four renames fails once: the old model and the new data would otherwise be a wrong model."""
    done, replace = [], os.replace

    def third_time(source, target):
        if len(done) == works:
            monkeypatch.undo()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done.append(target)
        replace(source, target)
        names = files(inside)
        if "n.onnx" in names:  # whoever reads at this moment gets both of one kind
            now = {name: (inside / name).read_bytes() == pair[name] for name in ("n.onnx", "n.onnx.data")}
            assert len(set(now.values())) == 1

    monkeypatch.setattr(os, "replace", third_time)
    refused(OutputError, save, external, inside / "n.onnx")
    assert contents(inside) == pair


def test_both_files_are_replaced(pair, external, inside):
    save(external, inside / "n.onnx")
    assert files(inside) == sorted(pair)
    assert read(inside / "n.onnx") == conv_model()


def test_links_are_replaced_and_not_followed(external, inside, tmp_path):
    for name in ("n.onnx", "n.onnx.data"):
        (tmp_path / f"precious-{name}").write_bytes(b"precious")
        (inside / name).symlink_to(tmp_path / f"precious-{name}")
    save(external, inside / "n.onnx")
    assert read(inside / "n.onnx") == conv_model()
    for name in ("n.onnx", "n.onnx.data"):
        assert not (inside / name).is_symlink()
        assert (tmp_path / f"precious-{name}").read_bytes() == b"precious"


def test_missing_weights_are_an_error_of_the_model(external, inside):
    external.path.with_name("m.bin").unlink()
    assert "cannot be read" in refused(ModelError, save, external, inside / "n.onnx")
    assert files(inside) == []


@pytest.mark.parametrize("place", ["nowhere/m.onnx", "file/m.onnx"])
def test_a_folder_that_is_none(place, inside):
    (inside / "file").touch()
    message = refused(OutputError, save, load(conv_model()), inside / place)
    assert message.startswith(f"{inside / place}: cannot be written (")
    assert files(inside) == ["file"]


# what is found out before the work


def test_a_fresh_name_is_fine(inside):
    require_writable(inside / "m.onnx", inside / "other.onnx", None)
    (inside / "m.onnx").touch()
    require_writable(inside / "m.onnx", inside / "other.onnx")
    assert files(inside) == ["m.onnx"]


@pytest.mark.parametrize("alias", ["m.onnx", "../out/m.onnx", "soft.onnx", "hard.onnx"])
def test_the_input_is_never_overwritten(alias, inside):
    source = inside / "m.onnx"
    source.touch()
    (inside / "soft.onnx").symlink_to(source)
    (inside / "hard.onnx").hardlink_to(source)
    message = refused(OptionError, require_writable, inside / alias, None, source)
    assert message == f"{inside / alias}: output and input are the same file; choose another name with -o"


def test_a_directory_as_output(inside):
    message = refused(OutputError, require_writable, inside)
    assert message == f"{inside}: is a directory; name the file to write, such as {inside / 'model.onnx'}"


@pytest.mark.parametrize("parent", ["nowhere", "file"])
def test_a_missing_folder(parent, inside):
    (inside / "file").touch()
    message = refused(OutputError, require_writable, inside / parent / "m.onnx")
    assert message == f"{inside / parent}: no such folder to write m.onnx into; create it first"


def test_a_folder_without_permission(inside, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((Path(path), mode)))
    message = refused(OutputError, require_writable, inside / "m.onnx")
    assert message == f"{inside}: the folder is not writable; choose another place with -o"
    assert asked == [(inside, os.W_OK)]
