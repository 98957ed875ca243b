"""MACs and parameters agree with what is published for well-known networks."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE
from onnxslim1x1.search.inspection import Inspection, inspect

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_model.py"
SPEC = importlib.util.spec_from_file_location("make_model", SCRIPT)
make_model = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_model)

# exact where the papers or torchvision give all digits
EXACT = {
    "resnet50": (4_089_184_256, 25_557_032), "vgg16": (15_470_264_320, 138_357_544),
    "googlenet": (1_583_000_000, 7_000_000),  # of the paper: to three digits
    "mobilenetv2": (300_774_272, 3_504_872),
}
# published parameters include scale and shift of every normalization; folded, one bias is left of the two
FOLDED = {"resnet50": 26_560, "vgg16": 0, "googlenet": 0, "mobilenetv2": 17_056}
PUBLISHED = {"resnet50": ("4.09", "25.6"), "vgg16": ("15.5", "138"), "googlenet": ("1.58", "7"),
             "mobilenetv2": ("0.30", "3.5")}


def nothing(_name, shape):
    """Weights that take no memory."""
    return np.broadcast_to(np.float32(1), shape)


def elsewhere(values, name):
    """A reference to weights that are nowhere: counting must not read them."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=values.shape,
                              data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="nowhere.bin")
    return tensor


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts(name, monkeypatch):
    monkeypatch.setattr(make_model, "seeded_parameters", lambda _seed: nothing)
    model = load(make_model.make_model(name, store=elsewhere))
    found = inspect(model, Inspection(measure=False), RunOptions(store=NO_STORE))
    macs, params = EXACT[name]
    tolerance = 1e-3 if name == "googlenet" else 0
    assert found.macs == pytest.approx(macs, rel=tolerance)
    counted = found.params + FOLDED[name]
    assert counted == pytest.approx(params, rel=tolerance)
    for value, unit, text in zip((found.macs, counted), (1e9, 1e6), PUBLISHED[name], strict=True):
        digits = len(text.partition(".")[2])
        assert f"{value / unit:.{digits}f}" == text
