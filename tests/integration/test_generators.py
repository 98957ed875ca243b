"""The generators of well-known architectures give the published sizes and costs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_model.py"


def generate(output: Path, *arguments: str) -> onnx.ModelProto:
    subprocess.run([sys.executable, str(SCRIPT), arguments[0], str(output), *arguments[1:]], check=True)
    return onnx.load(output)


@pytest.fixture(scope="module")
def googlenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("googlenet") / "googlenet.onnx"
    generate(path, "googlenet", "--batch", "N")
    return path


def parameters_and_macs(model: onnx.ModelProto) -> tuple[int, int]:
    """Elements of all initialisers; multiply-accumulates of convolutions and dense layers for one image."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    # Shapes are inferred on a copy whose weights are inputs: inference copies every byte of a model, twice.
    for name, shape in weights.items():
        bare.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph.value_info
    maps = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim[2:]] for value in inferred}
    macs = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            pixels = math.prod(maps[node.output[0]]) if node.op_type == "Conv" else 1
            macs += math.prod(weights[node.input[1]]) * pixels
    return sum(math.prod(shape) for shape in weights.values()), macs


def logits(model: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": images})[0])


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, 224, 224), dtype=np.float32)


@pytest.mark.slow
def test_resnet50(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.onnx"
    model = generate(path, "resnet50")
    onnx.checker.check_model(str(path), full_check=True)
    # Published: 25,557,032 parameters, 26,560 of them scales and as many shifts; folding leaves one bias each.
    assert parameters_and_macs(model) == (25_557_032 - 26_560, 4_089_184_256)
    assert path.stat().st_size == pytest.approx(102e6, rel=0.01)
    names = {node.name for node in model.graph.node}
    assert {"conv1", "layer1.0.conv1", "layer4.2.conv3", "layer2.0.downsample.0", "fc"} <= names
    assert all(tensor.HasField("raw_data") for tensor in model.graph.initializer)
    y = logits(path, images(1))
    assert y.shape == (1, 1000)
    assert np.isfinite(y).all()
    assert y.std() > 0.1


def test_googlenet_has_real_5x5(googlenet: Path) -> None:
    onnx.checker.check_model(str(googlenet), full_check=True)
    model = onnx.load(googlenet)
    parameters, macs = parameters_and_macs(model)
    assert parameters == pytest.approx(7.0e6, rel=0.01)
    assert macs == pytest.approx(1.58e9, rel=0.01)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert sum(shape[2:] == (5, 5) for shape in weights.values()) == 9
    assert weights["inception4e.branch3.1.conv.weight"] == (128, 32, 5, 5)


def test_folding_keeps_the_function_and_the_batch_may_be_free(tmp_path: Path, googlenet: Path) -> None:
    folded = onnx.load(googlenet)
    kept = generate(tmp_path / "kept.onnx", "googlenet", "--batch", "2", "--batch-norm")
    assert not any(node.op_type == "BatchNormalization" for node in folded.graph.node)
    assert sum(node.op_type == "BatchNormalization" for node in kept.graph.node) == 57
    assert folded.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert kept.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    expected = logits(tmp_path / "kept.onnx", images(2))
    np.testing.assert_allclose(logits(googlenet, images(2)), expected, rtol=1e-3, atol=1e-2)


def test_the_seed_decides(tmp_path: Path, googlenet: Path) -> None:
    generate(tmp_path / "same.onnx", "googlenet", "--batch", "N", "--seed", "0")
    generate(tmp_path / "other.onnx", "googlenet", "--batch", "N", "--seed", "1")
    assert (tmp_path / "same.onnx").read_bytes() == googlenet.read_bytes()
    assert (tmp_path / "other.onnx").read_bytes() != googlenet.read_bytes()


@pytest.mark.slow
def test_vgg16(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.onnx"
    model = generate(path, "vgg16")
    assert parameters_and_macs(model) == (138_357_544, 15_470_264_320)
    assert logits(path, images(1)).shape == (1, 1000)


def test_mobilenetv2(tmp_path: Path) -> None:
    path = tmp_path / "mobilenetv2.onnx"
    model = generate(path, "mobilenetv2")
    # Published: 3,504,872 parameters; folding leaves one bias of the 17,056 scales and shifts each.
    folded = 3_504_872 - 17_056
    assert parameters_and_macs(model)[0] == folded + 2 * 35  # the limits of 35 clips
    depthwise = [n for n in model.graph.node if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    assert len(depthwise) == 17
    y = logits(path, images(1))
    assert np.isfinite(y).all()


def test_external_weights_are_the_same(tmp_path: Path, googlenet: Path) -> None:
    generate(tmp_path / "external.onnx", "googlenet", "--batch", "N", "--external")
    assert (tmp_path / "external.onnx").stat().st_size < 100_000
    assert (tmp_path / "external.onnx.data").stat().st_size == pytest.approx(28e6, rel=0.01)
    inline, external = onnx.load(googlenet), onnx.load(tmp_path / "external.onnx")
    for one, other in zip(inline.graph.initializer, external.graph.initializer, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))


@pytest.mark.parametrize("nodes", [10, 11, 57, 1000])
def test_blocks_have_as_many_nodes_as_asked_for(tmp_path: Path, nodes: int) -> None:
    model = generate(tmp_path / "blocks.onnx", "blocks", "--nodes", str(nodes))
    assert len(model.graph.node) == nodes


@pytest.mark.parametrize(
    "arguments", [["blocks", "--nodes", "9"], ["vgg16", "--batch-norm"], ["googlenet", "--batch", "0"],
                  ["googlenet", "--seed", "-1"]]
)
def test_bad_arguments_write_nothing(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "model.onnx"
    command = [sys.executable, str(SCRIPT), arguments[0], str(path), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{arguments[1]}: " in done.stderr
    assert not path.exists()


def test_what_no_single_file_holds_asks_for_two(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "resnet50x5", str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "give --external" in done.stderr
    assert list(tmp_path.iterdir()) == []
