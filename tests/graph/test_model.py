"""Loading: what every bad input gives, and where weights are read from."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from google.protobuf.message import EncodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.prepare import prepare

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHT = np.random.default_rng(0).standard_normal((9, 8, 5, 4)).astype(np.float32)  # 5.6 KB: left in the file


def parse(text, *, head=HEAD):
    return onnx.parser.parse_model(head + text)


def conv_model():
    model = parse("g (float[1,8,11,13] x) => (float[1,9,7,10] y) { y = Conv(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save_model(conv_model(), path)
    return path


@pytest.fixture
def external_file(tmp_path):
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(conv_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    return path


def refused(source, *, doing=load):
    """The message of the ModelError that `doing` raises, which must be one line."""
    with pytest.raises(ModelError) as caught:
        doing(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


# what is no file or no model


def test_a_missing_file():
    assert refused("nowhere/m.onnx") == "nowhere/m.onnx: no such file; give the path of an ONNX model"


def test_a_directory(tmp_path):
    assert refused(tmp_path).startswith(f"{tmp_path}: is a directory")


def test_a_device():
    assert refused(os.devnull) == f"{os.devnull}: is no regular file; give the path of an ONNX model"


def test_a_dangling_link(tmp_path):
    link = tmp_path / "m.onnx"
    link.symlink_to(tmp_path / "gone.onnx")
    assert refused(link).startswith(f"{link}: no such file")


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refused(tmp_path / "a").startswith(f"{tmp_path / 'a'}: ")


def test_a_path_that_no_file_system_takes():
    assert "cannot be read (File name too long)" in refused("m" * 400 + ".onnx")


def test_an_empty_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.touch()
    assert refused(path) == f"{path}: the file is empty; export or copy the model again"


@pytest.mark.parametrize("data", [b"\x00", b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(90), bytes(range(256)) * 40],
                         ids=["zero", "text", "image", "binary"])
def test_garbage(data, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert refused(path).startswith(f"{path}: is no complete ONNX file (")


def test_a_message_that_onnx_itself_refuses(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x3a\x03\x0a\x01\xff")  # a graph with a node that ends within a tag; nodes are left to onnx
    assert refused(path).startswith(f"{path}: is no complete ONNX file (")


@pytest.mark.parametrize("end", [30, 3000, -1])
def test_a_truncated_file(end, model_file):
    model_file.write_bytes(model_file.read_bytes()[:end])
    assert "is no complete ONNX file" in refused(model_file)


def test_a_file_that_may_not_be_read(model_file, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refused(model_file) == f"{model_file}: cannot be read (Permission denied)"


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.onnx")
    path.write_bytes(conv_model().SerializeToString())
    assert refused(path) == f"{path}: the file name is not valid UTF-8; rename the file"


# graphs


@pytest.mark.parametrize(("field", "text"), [
    ("graph", "holds no graph with nodes"), ("opset_import", "names no operator set")])
def test_a_model_without(field, text):
    model = conv_model()
    model.ClearField(field)
    assert text in refused(model)


@pytest.mark.parametrize(("field", "text"), [("node", "holds no graph with nodes"), ("output", "has no outputs")])
def test_a_graph_without(field, text):
    model = conv_model()
    model.graph.ClearField(field)
    assert text in refused(model)


BROKEN = {
    "cycle": "g (float[2] x) => (float[2] y) { a = Add(x, b)  b = Neg(a)  y = Neg(b) }",
    "wrong order": "g (float[2] x) => (float[2] y) { y = Neg(a)  a = Neg(x) }",
    "missing node": "g (float[2] x) => (float[2] y) { y = Add(x, a) }",
    "in a branch": """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] r) { r = Neg(a) }, else_branch = e () => (float[2] s) { s = Neg(x) }>
    }""",
    "of another branch": """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] r) { r = Neg(x) }, else_branch = e () => (float[2] s) { s = Neg(r) }>
    }""",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_graph_that_cannot_run_in_order(name, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(parse(BROKEN[name]).SerializeToString())
    message = refused(path)
    assert message.startswith(f"{path}: node ")
    tensor = {"cycle": "b", "of another branch": "r"}.get(name, "a")
    assert f"reads tensor {tensor}, which nothing produces before it" in message


def test_a_dangling_output():
    assert "the graph output y is produced by no node" in refused(
        parse("g (float[2] x) => (float[2] y) { z = Neg(x) }"))


def test_a_dangling_output_of_a_branch():
    text = """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] r) { q = Neg(x) }, else_branch = e () => (float[2] s) { s = Neg(x) }>
    }"""
    assert "the graph output r is produced by no node" in refused(parse(text))


@pytest.mark.parametrize("text", [
    "g (float[2] x) => (float[2] x) { y = Neg(x) }",  # an output may be an input
    "g (float[2] x) => (float[2] y) <float[2] y = {1, 2}> { z = Neg(x) }",  # or an initializer
    """g (float[2] x, bool c) => (float[2] y) <float[2] w = {3, 5}> {
        a = Add(x, w)
        y = If(c) <then_branch = t () => (float[2] r) { r = Neg(a) }, else_branch = e () => (float[2] a) { }>
    }""",  # branches see what was made before
    "g (float[2] x) => (float[2] y) { y = Clip(x, , ) }",  # left out inputs
], ids=["input", "initializer", "branches", "left out"])
def test_unusual_but_valid_graphs_are_taken(text):
    assert load(parse(text)).opset == 17


def test_a_loaded_model_is_taken_as_it_is(model_file):
    model = load(model_file)
    assert load(model) is model


# weights


@pytest.mark.parametrize("kind", ["plain", "hard link", "symbolic link", "two dots", "relative"])
def test_inline_weights_are_read_from_the_file_itself(kind, model_file, monkeypatch):
    path = model_file
    if kind == "hard link":
        path = model_file.with_name("hard.onnx")
        path.hardlink_to(model_file)
    elif kind == "symbolic link":
        (model_file.parent / "else").mkdir()
        path = model_file.parent / "else" / "soft.onnx"
        path.symlink_to(model_file)
    elif kind == "two dots":
        path = model_file.rename(model_file.with_name("resnet..v2.onnx"))
    elif kind == "relative":
        monkeypatch.chdir(model_file.parent)
        path = Path(model_file.name)
    model = load(path)
    monkeypatch.chdir("/")
    assert model.proto.ByteSize() < 400  # the weights are still in the file
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), WEIGHT)
    assert model.inlined() == conv_model()
    assert model.external_files() == ()


def test_external_weights_are_read_from_beside_the_file(external_file):
    model = load(external_file)
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), WEIGHT)
    assert model.inlined() == conv_model()
    assert model.external_files() == (external_file.with_name("weights.bin"),)


def test_external_weights_lie_beside_the_target_of_a_link(external_file, tmp_path):
    link = tmp_path / "soft.onnx"
    link.symlink_to(external_file)
    assert load(link).inlined() == conv_model()


def inline(path):
    return load(path).inlined()


def first_array(path):
    model = load(path)
    return model.array(model.proto.graph.initializer[0])


def point_elsewhere(path, location):
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


READING = pytest.mark.parametrize("doing", [inline, first_array])


@READING
def test_missing_external_weights(doing, external_file):
    external_file.with_name("weights.bin").unlink()
    assert refused(external_file, doing=doing).startswith(f"{external_file}: the values of tensor w cannot be read (")


@READING
def test_external_weights_that_end_too_early(doing, external_file):
    data = external_file.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:-1])
    assert "the values of tensor w cannot be read (" in refused(external_file, doing=doing)


@READING
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", ".", ""])
def test_external_weights_outside_of_the_folder(doing, location, external_file):
    (external_file.parent.parent / "secret").write_bytes(WEIGHT.tobytes())
    point_elsewhere(external_file, location)
    assert "the values of tensor w cannot be read (" in refused(external_file, doing=doing)


@READING
def test_a_file_that_shrank_after_it_was_loaded(doing, model_file):
    model = load(model_file)
    model_file.write_bytes(b"short")
    assert "the values of tensor w cannot be read (" in refused(model, doing=doing)


def test_values_that_do_not_fill_the_shape():
    model = conv_model()
    model.graph.initializer[0].raw_data = WEIGHT.tobytes()[:-4]
    assert "the values of tensor w cannot be read (" in refused(model, doing=first_array)


def test_weights_inside_of_branches_and_constants_are_inlined(tmp_path):
    text = """g (float[2] x, bool c) => (float[4] y) {
        w = Constant<value = float[2] {1, 2}>()
        y = If(c) <then_branch = t () => (float[4] r) <float[2] v = {3, 5}> { r = Concat<axis = 0>(v, w) },
                   else_branch = e () => (float[4] s) { s = Concat<axis = 0>(x, x) }>
    }"""
    model, path = parse(text), tmp_path / "m.onnx"
    branch = model.graph.node[1].attribute[0].g
    for tensor in (model.graph.node[0].attribute[0].t, branch.initializer[0]):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # only raw bytes can move
    original = model.SerializeToString()
    onnx.save_model(model, path, save_as_external_data=True, location="w", size_threshold=0, convert_attribute=True)
    assert len(load(path).external_files()) == 1
    assert load(path).inlined() == onnx.ModelProto.FromString(original)


# the digest


def test_the_digest_is_that_of_the_file(model_file):
    assert load(model_file).sha256() == hashlib.sha256(model_file.read_bytes()).hexdigest()


def test_models_in_memory_have_a_digest_of_their_content():
    first, other = conv_model(), conv_model()
    other.graph.node[0].name = "renamed"
    assert load(first).sha256() == load(conv_model()).sha256() != load(other).sha256()


def test_what_onnxruntime_loads_is_the_file_or_the_message(model_file):
    assert load(model_file).source == model_file
    assert onnx.ModelProto.FromString(load(conv_model()).source) == conv_model()


class TooLarge:
    """What protobuf does beyond 2 GiB, without 2 GiB."""

    def SerializeToString(self):  # noqa: N802  (protobuf's name)
        raise EncodeError("Failed to serialize proto")


def test_what_protobuf_cannot_hold_is_said_in_one_line():
    message = refused(load(conv_model()), doing=lambda model: model.serialized(TooLarge()))
    assert message.startswith("model: is too large to be changed and run in memory")


# damage of every kind ends in a ModelError, never in another exception


def structure(model):
    """Everything that `load` and the passes after it look at; not onnx's inference, whose old versions may crash."""
    return find_layers(prepare(load(model)).model, {"x": (1, 2, 6, 7)})


FRAGILE = parse("""g (float[1,2,6,7] x) => (float[1,3,4,4] y)
    <float[3,2,3,2] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9},
     float[3] s = {1,2,3}, float[3] v = {1,1,1}> {
        a = Conv<pads=[0,1,0,0], strides=[1,2]>(x, w)
        y = BatchNormalization(a, s, s, s, v)
}""").SerializeToString()


@given(where=st.integers(0, len(FRAGILE) - 1), insert=st.binary(max_size=3), drop=st.integers(0, 3))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_damaged_models_are_refused_or_read(where, insert, drop, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(FRAGILE[:where] + insert + FRAGILE[where + drop :])
    with contextlib.suppress(ModelError):
        structure(path)
