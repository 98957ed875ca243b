"""Where error enters a network and how it grows, and which tensors stand for each other."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime import layer_errors
from onnxslim1x1.runtime.correspondence import Print, correspond, producers
from onnxslim1x1.runtime.data import load_dataset
from onnxslim1x1.runtime.layer_errors import compare_layers
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.runtime.session import create_session, input_specs
from onnxslim1x1.runtime.validate import ValidationSettings

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[{batch}, 3, 9, 6] image) => (float[{batch}, 5] logits)
{{
  stem = Conv <pads = [1, 1, 1, 1]> (image, stem_w, stem_b)
  stem_active = Relu(stem)
  left = Conv <pads = [1, 1, 1, 1]> (stem_active, left_w)
  left_active = Relu(left)
  right = Conv(stem_active, right_w)
  sum = Add(left_active, right)
  pooled = GlobalAveragePool(sum)
  flat = Flatten(pooled)
  logits = Gemm <transB = 1> (flat, head_w)
}}"""
SHAPES = {"stem_w": (6, 3, 3, 3), "stem_b": (6,), "left_w": (6, 6, 3, 3), "right_w": (6, 6, 1, 1), "head_w": (5, 6)}
ORDER = ["stem", "stem_active", "left", "left_active", "right", "sum", "pooled", "flat", "logits"]
SETTINGS = ValidationSettings(measure_latency=False)


def weights():
    rng = np.random.default_rng(12)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def network(batch="N", text=TEXT, rename=None, **changes):
    model = onnx.parser.parse_model(text.format(batch=batch))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(w, np.float32), n)
                                   for n, w in (weights() | changes).items())
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
        for names in (node.input, node.output):
            names[:] = [(rename or {}).get(name, name) for name in names]
    return model


@pytest.fixture
def compared(tmp_path):
    def compare(original, rewritten, data=None, **options):
        for name, model in (("a.onnx", original), ("b.onnx", rewritten)):
            onnx.save(model, tmp_path / name)
        paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
        if data is not None:
            np.save(tmp_path / "d.npy", data)
            data = load_dataset(tmp_path / "d.npy", preprocess=preprocess("raw"),
                                inputs=input_specs(create_session(paths[0])))
        return compare_layers(paths, dataset=data, settings=SETTINGS, **options)
    return compare


def images(count):
    return np.random.default_rng(3).standard_normal((count, 3, 9, 6)).astype(np.float32)


def by_tensor(found):
    return {one.tensor: one for one in found.layers}


def test_equal_models_have_no_error(compared):
    found = compared(network(), network())
    assert [one.tensor for one in found.layers] == ORDER
    assert {one.rel_error for one in found.layers} == {0.0}
    assert {one.growth for one in found.layers} == {None}
    assert {one.rewritten for one in found.layers} == {False}
    assert (found.tensors, found.by_name) == (9, 9)


def test_a_wrong_bias_enters_at_its_layer(compared):
    bias = weights()["stem_b"].copy()
    bias[4] += 1.5
    found = by_tensor(compared(network(), network(stem_b=bias), images(10)))
    assert [n for n, one in found.items() if one.growth == math.inf] == ["stem"]
    assert all(one.rel_error > 0 for one in found.values())


def test_an_error_beside_the_others_enters_there(compared):
    found = by_tensor(compared(network(), network(right_w=1.1 * weights()["right_w"]), images(10)))
    assert [n for n, one in found.items() if one.rel_error == 0.0] == ["stem", "stem_active", "left", "left_active"]
    assert found["right"].growth == math.inf
    assert found["right"].rel_error == pytest.approx(0.1, rel=1e-4)
    assert found["sum"].growth == pytest.approx(found["sum"].rel_error / found["right"].rel_error)
    assert found["sum"].growth < 1  # what is added is right


@pytest.mark.parametrize("batch", ["N", 4])
def test_errors_are_those_of_the_activations(batch, compared):
    """Also where the last batch is filled up with copies of the last image."""
    data, wrong = images(10), 1.2 * weights()["left_w"]
    found = by_tensor(compared(network(batch), network(batch, left_w=wrong), data))
    models = network(), network(left_w=wrong)
    for model in models:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info("sum"))
    old, new = (onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        ["sum"], {"image": data})[0].astype(np.float64) for m in models)
    assert found["sum"].rel_error == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-5)
    assert found["sum"].snr_db == pytest.approx(-20 * math.log10(found["sum"].rel_error))


CHAIN = TEXT.replace("left = Conv <pads = [1, 1, 1, 1]> (stem_active, left_w)",
                     "narrow = Conv(stem_active, first_w)\n  left = Conv <pads = [1, 1, 1, 1]> (narrow, second_w)")


def chain(rank=3):
    weight = weights()["left_w"].transpose(1, 0, 2, 3).reshape(6, -1)  # (C, O * 9)
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    second = (values[:rank, None] * right[:rank]).reshape(rank, 6, 3, 3).transpose(1, 0, 2, 3)
    return network(text=CHAIN, first_w=left[:, :rank].T[:, :, None, None], second_w=second)


def test_a_chain_in_the_place_of_a_layer_is_rewritten(compared):
    found = by_tensor(compared(network(), chain(), images(10)))
    assert [n for n, one in found.items() if one.rewritten] == ["left"]
    assert found["left"].growth == math.inf
    assert (found["left"].node, found["left"].op_type) == ("node2", "Conv")


def test_other_names_are_matched_by_value(compared):
    rename = {name: f"t{number}" for number, name in enumerate(reversed(ORDER[:-1]))}
    found = compared(network(), network(rename=rename), images(5))
    assert {one.tensor: one.counterpart for one in found.layers} == rename | {"logits": "logits"}
    assert found.by_name == 1
    assert found.note.startswith("per layer: 9 of 9 intermediate tensors were compared (1 matched by name, 8 by value)")


def test_a_model_that_onnxruntime_has_fused(compared, tmp_path):
    """Activations are part of the convolutions before them; what is left is matched, and nothing seems rewritten."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(network().SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(tmp_path / "fused.onnx")
    assert "FusedConv" in {node.op_type for node in fused.graph.node}
    found = compared(network(), fused, images(5))
    assert {"stem_active", "pooled", "logits"} <= by_tensor(found).keys()
    assert len(found.layers) < found.tensors == 9
    assert max(one.rel_error for one in found.layers) < 1e-5
    assert not any(one.rewritten for one in found.layers)


def test_a_name_with_another_shape_is_no_match(compared):
    rename = {"right": "pooled", "pooled": "right"}
    found = by_tensor(compared(network(), network(rename=rename), images(5)))
    assert (found["right"].counterpart, found["pooled"].counterpart) == ("pooled", "right")


def test_an_error_goes_through_tensors_without_a_counterpart(compared):
    """A fused activation: what the layer behind it reads has no partner, but its error is known."""
    text = TEXT.replace("  stem_active = Relu(stem)\n", "").replace("stem_active", "stem").replace(
        "stem = Conv", "raw = Conv").replace("left = Conv", "stem = Relu(raw)\n  left = Conv", 1)
    assert "stem = Relu(raw)" in text
    found = compared(network(), network(text=text, stem_w=1.1 * weights()["stem_w"]), images(10))
    values = by_tensor(found)
    assert values["left"].growth is not None
    assert not math.isinf(values["left"].growth)


def test_only_so_many_images_are_run_in_the_order_of_the_data(compared, monkeypatch):
    monkeypatch.setattr(layer_errors, "IMAGES", 7)
    told = []
    found = compared(network(), network(right_w=1.1 * weights()["right_w"]), images(40),
                     progress=lambda stage, done: told.append((stage, done)))
    assert found.images == 7
    assert {stage for stage, _ in told} == {"layers"}
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1][1] == 1.0


def test_waves_change_nothing(compared, monkeypatch):
    wrong = network(stem_w=1.1 * weights()["stem_w"])
    whole = compared(network(), wrong, images(6))
    monkeypatch.setattr(layer_errors, "_LIMIT", 1)
    waves = compared(network(), wrong, images(6))
    assert [one.tensor for one in waves.layers] == ORDER
    # onnxruntime fuses other nodes when it is asked for other tensors: the last digits differ
    assert [one.rel_error for one in waves.layers] == pytest.approx([one.rel_error for one in whole.layers], rel=1e-4)


# which tensors there are


def test_constants_are_no_tensors_of_the_network():
    model = network(text=TEXT.replace("logits = Gemm", "c = Constant <value = float[1] {{2}}> ()\n  c2 = Neg(c)\n  "
                                      "logits = Gemm"))
    assert list(producers(load(model))) == ORDER


def test_no_tensor_stands_for_two():
    models = load(network()), load(network(rename={"left": "l", "left_active": "m"}))
    one = Print.of(np.ones((2, 3), np.float32))

    def fetch(_, tensors):
        return dict.fromkeys(tensors, one)

    pairs = correspond(*models, fetch)
    assert len({p.rewritten for p in pairs}) == len({p.original for p in pairs}) == len(pairs) == 9


def test_what_is_far_off_is_no_match():
    models = load(network()), load(network(rename={"left": "l"}))
    prints = {"left": Print.of(np.ones(4, np.float32)), "l": Print.of(np.array([9, -9, 9, 9], np.float32))}
    pairs = correspond(*models, lambda _, tensors: {t: prints.get(t, prints["left"]) for t in tensors})
    assert "left" not in {p.original for p in pairs}
