"""Files that onnxruntime cannot run, or hardly: `analyze` says what it can, `slim` rewrites what it may."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxslim1x1 import api
from onnxslim1x1.errors import DataError, RuntimeFailure
from onnxslim1x1.runtime.store import NO_STORE

HEAD = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>\n'
RUN = api.RunOptions(threads=1, store=NO_STORE)
CUSTOM = """g (float[1,16,9,11] x) => (float[A,B,C,D] y) {
    [seen] a = Conv<pads = [1,1,1,1]>(x, w)  z = mine.Thing(a)  [hidden] y = Conv(z, v) }"""


def saved(folder, text, **shapes):
    rng = np.random.default_rng(17)
    proto = onnx.parser.parse_model(HEAD + text)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) * 0.1
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def custom(tmp_path):
    return saved(tmp_path, CUSTOM, w=(16, 16, 3, 3), v=(16, 16, 3, 3))


def test_a_custom_operator_is_survived_and_told(custom):
    found = api.analyze(custom, run=RUN)
    assert [(p.layer.name, p.macs is None, p.time_s) for p in found.layers] == [
        ("seen", False, None), ("hidden", True, None)]
    assert (found.profile, found.environment) == (None, None)
    (why,) = [w for w in found.warnings if "nothing was measured" in w]
    assert "mine:Thing" in why
    assert "\n" not in why
    assert any("1 layers are not counted" in w for w in found.warnings)


def test_what_cannot_be_fed_is_survived_and_told(tmp_path):
    path = saved(tmp_path, """g (seq(float[1,16,9,11]) s) => (float[P,Q,R,S] y) <int64 i = {0}> {
        x = SequenceAt(s, i)  y = Conv(x, w) }""", w=(16, 16, 3, 3))
    found = api.analyze(path, run=RUN)
    assert [p.layer.spec.macs for p in found.layers] == [16 * 16 * 9 * 7 * 9]
    assert any("input s is no tensor" in w for w in found.warnings)


def test_an_invalid_model_is_refused(tmp_path):
    path = saved(tmp_path, "g (float[1,16,9,11] x) => (float[A] y) { y = StringNormalizer(x) }")
    with pytest.raises(RuntimeFailure, match="cannot load this model"):
        api.analyze(path, run=RUN)


def test_a_model_with_a_custom_operator_is_rewritten_unchecked(custom, tmp_path):
    budget = api.Budget(ranks={"seen": 4})
    with pytest.raises(RuntimeFailure, match=r"--no-validate skips that"):
        api.slim(custom, tmp_path / "out.onnx", budget=budget, run=RUN)
    assert not (tmp_path / "out.onnx").exists()
    result = api.slim(custom, tmp_path / "out.onnx", budget=budget, run=RUN, check=None)
    assert [p.layer for p in result.rewrite.applied] == ["seen"]
    ops = [n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node]
    assert ops == ["Conv", "Conv", "Thing", "Conv"]


FREE = "g (float[1,16,N,M] x) => (float[A,B] y) <int64[2] s = {16, 15}> { c = Conv(x, w)  y = Reshape(c, s) }"


def test_sizes_that_were_assumed_are_doubted_where_the_model_does_not_run(tmp_path):
    path = saved(tmp_path, FREE, w=(16, 16, 3, 3))
    advice = "; the sizes that were assumed may not suit it, so give those of real inputs with --input-shape or --dim"
    assert [w.endswith(advice) for w in api.analyze(path, run=RUN).warnings if "nothing was measured" in w] == [True]
    with pytest.raises(RuntimeFailure, match=f"{advice}; what cannot be run cannot be compared"):
        api.slim(path, tmp_path / "out.onnx", budget=api.Budget(max_error=0.5), run=RUN)
    given = api.RunOptions(dims={"N": 5, "M": 7}, threads=1)
    assert not any("nothing was measured" in w for w in api.analyze(path, run=given).warnings)
    wrong = api.RunOptions(dims={"N": 6, "M": 7}, threads=1)  # what the user gave is not doubted
    why, = (w for w in api.analyze(path, run=wrong).warnings if "nothing was measured" in w)
    assert advice not in why


def test_data_of_the_user_is_not_blamed_on_the_comparison(tmp_path):
    plain = saved(tmp_path, "g (float[1,16,9,11] x) => (float[A,B,C,D] y) { y = Conv(x, w) }", w=(16, 16, 3, 3))
    check = api.Check(data=api.DataOptions(path=tmp_path / "nowhere"))
    with pytest.raises(DataError) as caught:
        api.slim(plain, tmp_path / "out.onnx", budget=api.Budget(ranks={"y": 4}), run=RUN, check=check)
    assert "--no-validate" not in str(caught.value)


MIXED = """g (float[1,16,9,11] x, bool c) => (float[1,16,9,11] y, seq(float[1,16,9,11]) parts) <float high = {6}> {
    [wide] a = Conv<pads = [1,1,1,1]>(x, w,)
    k = Clip(a, , high)
    y = If(c) <then_branch = t () => (float[1,16,9,11] u) { [inner] u = Conv<pads = [1,1,1,1]>(k, w) },
               else_branch = e () => (float[1,16,9,11] v) { v = Neg(k) }>
    parts = SequenceConstruct(k, x) }"""


def test_bodies_sequences_and_empty_inputs_survive_a_rewrite(tmp_path):
    """The body keeps reading the weight of the layer outside, so that one is shared and left alone."""
    path = saved(tmp_path, MIXED, w=(16, 16, 3, 3))
    found = {p.layer.name: p.declined.code for p in api.analyze(path, run=RUN, measure=False).layers}
    assert found == {"wide": "shared_weight", "y/inner": "in_body"}
    own = saved(tmp_path, MIXED.replace("Conv<pads = [1,1,1,1]>(k, w)", "Conv<pads = [1,1,1,1]>(k, z)"),
                w=(16, 16, 3, 3), z=(16, 16, 3, 3))
    result = api.slim(own, tmp_path / "out.onnx", budget=api.Budget(ranks={"wide": 16}), run=RUN)
    assert [p.layer for p in result.rewrite.applied] == ["wide"]
    assert result.validation is not None
    assert {d.name for d in result.validation.outputs} == {"y", "parts"}
    for flag in (False, True):
        feeds = {"x": np.random.default_rng(1).standard_normal((1, 16, 9, 11)).astype(np.float32),
                 "c": np.array(flag)}
        before, after = (onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, feeds)
                         for p in (own, tmp_path / "out.onnx"))
        np.testing.assert_allclose(after[0], before[0], atol=1e-5)
        np.testing.assert_allclose(np.stack(after[1]), np.stack(before[1]), atol=1e-5)
