"""Output weightings against gradients written down by hand."""

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.gradients import output_weightings

HEAD = np.random.default_rng(4).standard_normal((5, 4)).astype(np.float32)


class Images:
    def __init__(self, count):
        self.values = np.random.default_rng(1).standard_normal((count, 3, 6, 7)).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, size):
        for start in range(0, len(self), size):
            yield {"x": self.values[start : start + size]}


def network(*, batch="N", tail="", middle="Identity"):
    last = "y = Softmax(s)" if tail == "softmax" else "y = Identity(s)"
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch},3,6,7] x) => (float[{batch},5] y) {{
            c = Conv <pads = [1, 0, 1, 0]> (x, w)
            m = {middle}(c)
            a = GlobalAveragePool(m)
            f = Flatten(a)
            s = Gemm <transB = 1> (f, head)
            {last} }}""")
    w = np.random.default_rng(3).standard_normal((4, 3, 3, 2)).astype(np.float32)
    for name, values in {"w": w, "head": HEAD}.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return load(proto)


def found(model, data, **options):
    shapes = infer_shapes(model).tensors
    layers = [x for x in find_layers(model, shapes) if x.output == "c"]
    return output_weightings(model, layers, data, shapes=shapes, **options)


def fisher(model, data):
    """Expected outer product of the gradient over labels drawn from the softmax, summed over the 6x6 positions."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.source if isinstance(model.source, bytes)
                                           else model.proto.SerializeToString())
    y = session.run(["y"], {"x": data.values})[0].astype(np.float64)
    p = y if np.allclose(y.sum(axis=1), 1) else np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    by_score = np.mean([np.diag(row) - np.outer(row, row) for row in p], axis=0)
    return HEAD.T @ by_score @ HEAD / 36


@pytest.mark.parametrize("tail", ["scores", "softmax"])
def test_the_covariance_approaches_the_fisher_information(tail):
    model, data = network(tail=tail), Images(1500)
    result = found(model, data)["c"].covariance
    expected = fisher(model, data)
    # 3000 draws of labels: a few percent
    assert np.linalg.norm(result - expected) < 0.1 * np.linalg.norm(expected)


def test_the_seed_decides_and_progress_ends_at_one():
    model, data, told = network(), Images(9), []
    first, again, other = (found(model, data, seed=s, progress=told.append)["c"].covariance for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert told[-1] == 1.0
    assert sorted(told[: len(told) // 3]) == told[: len(told) // 3]


@pytest.mark.parametrize("count", [1, 5])
def test_a_fixed_batch_is_filled_but_what_fills_it_does_not_count(count, monkeypatch):
    from onnxslim1x1.runtime import gradients

    def seed(output, _rng, _parts):  # no draws: rows that fill the batch would otherwise shift those of the images
        return np.ones_like(output)

    monkeypatch.setattr(gradients, "_seed", seed)
    data = Images(count)
    fixed, free = (found(network(batch=b, middle="Sigmoid"), data)["c"].covariance for b in (4, "N"))
    np.testing.assert_allclose(fixed, free, rtol=1e-4, atol=1e-9)


def test_layers_behind_unknown_operators_are_left_out():
    assert found(network(middle="Erf"), Images(3)) == {}
