"""Names that are no text and unknown types are found when the model is loaded, wherever they are."""

import onnx
import onnx.parser
import pytest

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.model import load

TEXT = """<ir_version: 8, opset_import: ["" : 17, "ODOM" : 1],
producer_name: "OPRODUCER", metadata_props: ["OKEY": "OVALUE"]>
OGRAPH (bool OFLAG, float[OSIZE] OINPUT) => (float[OOUTSIZE] OOUTPUT) <float OWEIGHT = {1}> {
    [ONODE] OTENSOR = Add(OINPUT, OWEIGHT)
    r = LeakyRelu<alpha = 0.5>(OTENSOR)
    f = ODOM.OFUNCTION(r)
    OOUTPUT = If(OFLAG) <then_branch = a () => (float[n] OINNER) { OINNER = Neg(f) },
                         else_branch = b () => (float[n] e) { e = Abs(f) }> }
<opset_import: ["" : 17], domain: "ODOM"> OFUNCTION (x) => (y) { y = OFOREIGN(x) }"""
WORDS = ("OPRODUCER", "OKEY", "OVALUE", "OGRAPH", "OFLAG", "OSIZE", "OINPUT", "OOUTPUT", "OWEIGHT", "ONODE", "OTENSOR",
         "ODOM", "OFUNCTION", "OINNER", "OFOREIGN", "alpha", "LeakyRelu")


def test_the_model_is_sound_as_it_is(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    assert load(path).proto.producer_name == "OPRODUCER"


@pytest.mark.parametrize("word", WORDS)
def test_a_name_that_is_no_text(word, tmp_path):
    raw = onnx.parser.parse_model(TEXT).SerializeToString()
    assert word.encode() in raw
    path = tmp_path / "m.onnx"
    path.write_bytes(raw.replace(word.encode(), b"\xf4" + word.encode()[1:]))
    with pytest.raises(ModelError, match=r"m\.onnx: a name is not valid UTF-8; export or copy the model again$"):
        load(path)


@pytest.mark.parametrize("kind", [0, 99])
def test_a_weight_of_no_known_type(kind):
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer[0].data_type = kind
    with pytest.raises(ModelError, match=rf"^model: tensor OWEIGHT has elements of the unknown type {kind}; export"):
        load(proto)
