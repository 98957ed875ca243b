"""The skeleton of a file is what onnx reads from it, and broken bytes give one kind of error."""

import contextlib
import mmap

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.wire import INLINE_LIMIT, WireError, skeleton

FLOAT = onnx.TensorProto.FLOAT
LARGE = 3000  # float32 values: 12 KB, far above the limit


def weights(count, *, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def model_with(*initializers):
    nodes = [helper.make_node("Identity", ["x"], ["y"], name="only", doc_string="kept")]
    info = [helper.make_tensor_value_info(n, FLOAT, [2, None]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], list(initializers), doc_string="of the graph")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rich_model():
    """Initializers on both sides of the limit and of several encodings."""
    model = model_with(
        numpy_helper.from_array(weights(5), "small"),
        numpy_helper.from_array(weights(LARGE, seed=1), "large"),
        helper.make_tensor("as floats", FLOAT, (LARGE,), weights(LARGE, seed=2)),  # float_data, no raw bytes
        numpy_helper.from_array(weights(LARGE, seed=3).reshape(3, -1), "last"))
    model.graph.initializer[3].doc_string = "a doc string after the name"
    return model


@pytest.fixture
def saved(tmp_path):
    def write(model, name="m.onnx"):
        path = tmp_path / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write


def parsed(model, location="m.onnx"):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnx.ModelProto.FromString(skeleton(data, location))


def test_a_loaded_file_with_its_weights_is_what_onnx_reads(saved):
    path = saved(rich_model())
    assert load(path).inlined() == onnx.load(path)


def test_every_weight_reads_back_exactly(saved):
    model = load(saved(rich_model()))
    for tensor, seed, shape in zip(model.proto.graph.initializer[1:], (1, 2, 3), [(-1,), (-1,), (3, -1)], strict=True):
        np.testing.assert_array_equal(model.array(tensor), weights(LARGE, seed=seed).reshape(shape))


def test_only_large_raw_weights_are_left_in_the_file():
    model = rich_model()
    small, large, floats, last = parsed(model).graph.initializer
    assert small == model.graph.initializer[0]
    assert floats == model.graph.initializer[2]
    data = model.SerializeToString()
    for tensor, seed in ((large, 1), (last, 3)):
        place = {e.key: e.value for e in tensor.external_data}
        begin, length = int(place["offset"]), int(place["length"])
        assert (place["location"], length) == ("m.onnx", 4 * LARGE)
        assert data[begin : begin + length] == weights(LARGE, seed=seed).tobytes()
    assert last.doc_string == "a doc string after the name"
    assert len(skeleton(data, "m.onnx")) < len(data) - 8 * LARGE + 400


def test_everything_but_the_weights_is_the_same():
    model = rich_model()
    lean = parsed(model)
    for message in (model, lean):
        message.graph.ClearField("initializer")
    assert lean == model


def test_a_mapped_file_gives_the_same_as_its_bytes(saved):
    data = rich_model().SerializeToString()
    with saved(data).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert skeleton(view, "a") == skeleton(data, "a")


@pytest.mark.parametrize("count", [INLINE_LIMIT // 8, INLINE_LIMIT // 8 + 1, INLINE_LIMIT // 4 - 9, INLINE_LIMIT // 4,
                                   INLINE_LIMIT // 4 + 1])
def test_sizes_around_the_limit_read_back(count, saved):
    path = saved(model_with(numpy_helper.from_array(weights(count), "w")))
    assert load(path).inlined() == onnx.load(path)


@pytest.mark.parametrize("name_length", [1, INLINE_LIMIT])
def test_a_long_name_alone_makes_no_weight_external(name_length):
    tensor = numpy_helper.from_array(weights(4), "w" * name_length)
    assert parsed(model_with(tensor)).graph.initializer[0] == tensor


def test_an_explicit_default_data_location_is_no_obstacle(saved):
    """protobuf takes the last value of a field, so a DEFAULT that is spelled out must not follow the reference."""
    tensor = numpy_helper.from_array(weights(LARGE), "w")
    tensor.data_location = onnx.TensorProto.DEFAULT
    assert b"\x70\x00" in tensor.SerializeToString()  # field 14 is really there
    model = load(saved(model_with(tensor)))
    assert model.proto.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), weights(LARGE))


def test_leftover_references_beside_the_values_do_not_count(saved):
    tensor = numpy_helper.from_array(weights(LARGE), "w")
    tensor.data_location = onnx.TensorProto.DEFAULT
    for key, value in (("location", "gone.bin"), ("offset", "7"), ("length", "9")):
        tensor.external_data.add(key=key, value=value)
    model = load(saved(model_with(tensor)))
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), weights(LARGE))
    assert model.external_files() == ()


def test_tensors_that_are_external_already_keep_their_reference():
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[LARGE], data_location=onnx.TensorProto.EXTERNAL,
                              doc_string="d" * 2 * INLINE_LIMIT)
    tensor.external_data.add(key="location", value="elsewhere.bin")
    assert parsed(model_with(tensor)).graph.initializer[0] == tensor


def test_the_last_of_two_values_counts():
    """As in every protobuf parser: a message may be two that were written one after the other."""
    first, second = (numpy_helper.from_array(weights(LARGE, seed=s), "w").SerializeToString() for s in (1, 2))
    model = model_with()
    graph = model.graph.SerializeToString() + b"\x2a" + varint(len(first + second)) + first + second
    model.ClearField("graph")
    data = model.SerializeToString() + b"\x3a" + varint(len(graph)) + graph
    assert onnx.ModelProto.FromString(data).graph.initializer[0].raw_data == weights(LARGE, seed=2).tobytes()
    place = {e.key: int(e.value) for e in parsed(data).graph.initializer[0].external_data if e.key != "location"}
    assert data[place["offset"] :][: place["length"]] == weights(LARGE, seed=2).tobytes()


def varint(value):
    encoded = []
    while value > 127:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes([*encoded, value])


def test_every_truncation_is_one_clear_error(tmp_path):
    data = rich_model().SerializeToString()
    assert load_bytes(data, tmp_path).proto.graph.node  # the whole file is fine
    near_the_ends = [*range(1, 420), *range(len(data) - 60, len(data))]
    for length in sorted({*near_the_ends, *range(0, len(data), 331)}):
        with pytest.raises(ModelError) as caught:
            load_bytes(data[:length], tmp_path)
        message = str(caught.value)
        assert message.startswith(str(tmp_path / "cut.onnx"))
        assert "\n" not in message


def test_a_truncated_weight_is_noticed_without_reading_it():
    data = rich_model().SerializeToString()
    with pytest.raises(WireError, match=r"needs \d+ more bytes"):
        skeleton(data[: len(data) // 2], "m.onnx")


def load_bytes(data, folder):
    path = folder / "cut.onnx"
    path.write_bytes(data)
    return load(path)


@pytest.mark.parametrize("data", [
    b"\x00", b"\x07", b"\x0b\x0c", b"\xff" * 11, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3a\x05\x2a\x7f",
    b"PK\x03\x04" + b"z" * 40, b"\x89PNG\r\n\x1a\n" + bytes(40), b"<!DOCTYPE html>\n<html>", b"version https://git-lfs"])
def test_what_is_no_protobuf_message_is_refused(data):
    with pytest.raises(WireError):
        skeleton(data, "m.onnx")


MODEL = rich_model().SerializeToString()


@given(data=st.binary(max_size=200))
@example(b"")
@example(b"\x3a\x00")
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_random_bytes_are_refused_or_parsed(data):
    try:
        lean = skeleton(data, "m.onnx")
    except WireError:
        return
    assert lean == data  # nothing in it is large


@given(where=st.integers(0, len(MODEL) - 1), value=st.integers(0, 255), field=st.binary(max_size=4))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_damaged_model_is_refused_or_parsed(where, value, field):
    if where > 700:  # most bytes are weights; aim at the structure, which begins and ends the file
        where = where % 350 if where % 2 else len(MODEL) - 1 - where % 350
    damaged = MODEL[:where] + bytes([value]) + field + MODEL[where + 1 :]
    with contextlib.suppress(WireError, DecodeError):
        onnx.ModelProto.FromString(skeleton(damaged, "m.onnx"))
