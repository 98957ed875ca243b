"""The pieces of a file are what protobuf writes, and no weight that lies in a file is read for them."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.pieces import beside, byte_count, whole
from onnxslim1x1.graph.stored import Place

UNKNOWN = b"\xf2\x7f\x02hi"  # a field that no version of ONNX knows


def weights(count, seed):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def rich_model():
    """Fields on both sides of everything that is taken out and put back, weights of many sizes and encodings."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "me">
        g (float[2] x, bool c) => (float[2] y) {
            k = Constant<value = float[2] {1, 2}>()
            z = If(c) <then_branch = t () => (float[2] r) <float[2] v = {3, 5}> { r = Add(v, k) },
                       else_branch = e () => (float[2] s) { s = Add(x, x) }>
            y = local.twice(z)
        }
        <domain: "local", opset_import: ["" : 17]>
        twice (a) => (b) { b = Add(a, a) }""")
    graph = proto.graph
    graph.doc_string = "behind the weights"
    graph.initializer.extend([
        numpy_helper.from_array(weights(5, 1), "small"), numpy_helper.from_array(weights(3000, 2), "large"),
        helper.make_tensor("as floats", onnx.TensorProto.FLOAT, (3000,), weights(3000, 3)),
        numpy_helper.from_array(weights(400_000, 4).reshape(4, -1), "larger"),
        numpy_helper.from_array(weights(2000, 5), "behind a gap"),
        numpy_helper.from_array(np.zeros(0, np.float32), "empty")])
    graph.initializer[1].doc_string = "behind the values"
    helper.set_model_props(proto, {"key": "value"})
    return proto


def joined(pieces):
    return b"".join(piece if isinstance(piece, bytes) else piece.read() for piece in pieces)


@pytest.fixture(params=["memory", "file", "unknown fields", "external", "external everywhere"])
def model(request, tmp_path):
    path, proto = tmp_path / "m.onnx", rich_model()
    if request.param == "memory":
        return load(proto)
    if request.param.startswith("external"):
        whole_of_it = request.param == "external everywhere"
        for tensor in (proto.graph.node[0].attribute[0].t, proto.graph.node[1].attribute[0].g.initializer[0]):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        onnx.save_model(proto, path, save_as_external_data=True, location="w", convert_attribute=whole_of_it,
                        size_threshold=0 if whole_of_it else 1024)
    else:
        path.write_bytes(proto.SerializeToString() + (UNKNOWN if request.param == "unknown fields" else b""))
    return load(path)


def test_one_file_is_what_protobuf_writes(model):
    expected = model.inlined()
    assert onnx.ModelProto.FromString(joined(whole(model))) == expected
    assert joined(whole(model)) == expected.SerializeToString()
    assert byte_count(whole(model)) == expected.ByteSize()


def test_two_files_hold_the_same(model, tmp_path):
    message, data = beside(model, "n.data")
    (tmp_path / "n.onnx").write_bytes(joined(message))
    (tmp_path / "n.data").write_bytes(joined(data))
    found = onnx.load(tmp_path / "n.onnx")
    onnx.checker.check_model(str(tmp_path / "n.onnx"))
    for tensor in found.graph.initializer:
        tensor.ClearField("data_location")
    assert found == model.inlined()
    places = {t.name: {e.key: e.value for e in t.external_data}
              for t in onnx.load(tmp_path / "n.onnx", load_external_data=False).graph.initializer if t.external_data}
    assert set(places) == {"large", "larger", "behind a gap"}
    assert int(places["larger"]["offset"]) % 4096 == 0  # onnxruntime maps it
    assert int(places["large"]["offset"]) % 64 == 0


def test_nothing_is_read(model, monkeypatch):
    if model.path is not None:
        small = {t.name for t in model.proto.graph.initializer if np.prod(t.dims) < 1000}
        read = Place.read
        monkeypatch.setattr(Place, "read", lambda place: read(place) if place.length < 100 else pytest.fail("read"))
        assert small == {"small", "empty"}
    for pieces in (whole(model), *beside(model, "n.data")):
        assert byte_count(pieces) > 0


def test_the_same_model_gives_the_same_bytes(model):
    for _ in range(2):
        assert joined(whole(model)) == joined(whole(load(model.path) if model.path else model))
        message, data = beside(model, "n.data")
        again = beside(load(model.path) if model.path else model, "n.data")
        assert (joined(message), joined(data)) == (joined(again[0]), joined(again[1]))
