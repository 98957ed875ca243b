"""Losses of models on held-out images, against sums written down here."""

import math

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime.loss import HeldOutLoss


class Images:
    def __init__(self, count):
        self.values = np.random.default_rng(1).standard_normal((count, 3, 4, 5)).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def batches(self, size):
        for start in range(0, len(self), size):
            yield {"x": self.values[start : start + size]}


def scaled(factor, *, batch="N", classes=True):
    tail = "g = GlobalAveragePool(s)\n y = Flatten(g)" if classes else "y = Identity(s)"
    shape = f"{batch},3" if classes else f"{batch},3,4,5"
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch},3,4,5] x) => (float[{shape}] y) {{ s = Mul(x, f)
        {tail} }}""")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "f"))
    return load(proto)


def divergence(images, factor):
    scores = images.astype(np.float64).mean(axis=(2, 3))
    p, q = (np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in (scores, factor * scores))
    return float((p * np.log(p / q)).sum(axis=1).mean())


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("count", [8, 21])
def test_class_scores_diverge(batch, count):
    data = Images(count)
    loss = HeldOutLoss(scaled(1.0, batch=batch), data)
    assert loss(scaled(1.0, batch=batch)) == pytest.approx(0, abs=1e-7)
    assert loss(scaled(3.0, batch=batch)) == pytest.approx(divergence(data.values, 3.0), rel=1e-4)


@pytest.mark.parametrize("batch", ["N", 4])
def test_other_outputs_have_a_squared_error_relative_to_their_variance(batch):
    data = Images(6)
    x = data.values.astype(np.float64)
    loss = HeldOutLoss(scaled(1.0, batch=batch, classes=False), data)
    assert loss(scaled(1.5, batch=batch, classes=False)) == pytest.approx(0.25 * (x**2).mean() / x.var(), rel=1e-5)


def test_an_output_that_is_not_finite_is_an_infinite_loss():
    assert HeldOutLoss(scaled(1.0), Images(3))(scaled(math.inf)) == math.inf
