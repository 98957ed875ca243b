"""Write a well-known architecture as an ONNX file with seeded random weights.

    python scripts/make_model.py resnet50 resnet50.onnx

The files have the layers, sizes and costs of the published networks, so they serve to time and exercise tools
at a realistic size; they classify nothing. Needs numpy and onnx only.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Parameters = Callable[[str, tuple[int, ...]], Floats]  # name and shape of a parameter -> its values
Batch = int | str  # a number, or the name of a free axis

OPSET = 17
IR_VERSION = 8  # the oldest one that carries opset 17: readable by every onnxruntime of the last years
NORM_EPSILON = 1e-5


def seeded_parameters(seed: int) -> Parameters:
    """He-initialised weights and plausible normalisation statistics.

    Each parameter has a generator of its own, drawn from the seed and its name, so that its values do not
    depend on what else the network holds.
    """

    def parameter(name: str, shape: tuple[int, ...]) -> Floats:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(shape) > 1:
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
            return values
        if name.endswith("running_var") or name.endswith(".weight"):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return rng.normal(0.0, 0.1, shape).astype(np.float32)

    return parameter


class GraphBuilder:
    """Appends named nodes to a graph; every method takes and returns tensor names.

    `parameters` is asked for weights under torch's names, such as `layer1.0.bn1.running_mean`. With `batch_norm`
    false, normalisations are folded into the convolution before them: another graph, the same function.
    """

    def __init__(self, name: str, parameters: Parameters, *, batch_norm: bool) -> None:
        self._name = name
        self._parameters = parameters
        self._batch_norm = batch_norm
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._channels: dict[str, int] = {}
        self._inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, batch: Batch, shape: Sequence[int]) -> str:
        """An input of the graph, `batch` x `shape`."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))
        self._channels[name] = shape[0]
        return name

    def conv(self, x: str, name: str, channels: int, kernel: int) -> str:
        """A convolution with a bias, stride 1 and 'same' padding."""
        weight = self._parameters(f"{name}.weight", (channels, self._channels[x], kernel, kernel))
        return self._conv(x, name, weight, self._parameters(f"{name}.bias", (channels,)), 1)

    def conv_norm(
        self, x: str, name: str, channels: int, kernel: int, *,
        norm: str, stride: int = 1, gain: float = 1.0,
    ) -> str:  # fmt: skip
        """A convolution without bias, then the batch normalisation `norm` with its scale times `gain`."""
        weight = self._parameters(f"{name}.weight", (channels, self._channels[x], kernel, kernel))
        scale, shift, mean, var = (
            self._parameters(f"{norm}.{part}", (channels,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale * np.float32(gain)
        if not self._batch_norm:
            factor = scale / np.sqrt(var + np.float32(NORM_EPSILON))
            return self._conv(x, name, weight * factor[:, None, None, None], shift - mean * factor, stride)
        y = self._conv(x, name, weight, None, stride)
        parts = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": var}
        names = [self._initializer(f"{norm}.{part}", values) for part, values in parts.items()]
        return self._add("BatchNormalization", norm, [y, *names], channels, epsilon=NORM_EPSILON)

    def relu(self, x: str, name: str) -> str:
        """The positive part."""
        return self._add("Relu", name, [x], self._channels[x])

    def add(self, x: str, y: str, name: str) -> str:
        """The sum of two tensors of one shape."""
        return self._add("Add", name, [x, y], self._channels[x])

    def concat(self, tensors: Sequence[str], name: str) -> str:
        """The channels of all tensors, one after the other."""
        return self._add("Concat", name, tensors, sum(self._channels[t] for t in tensors), axis=1)

    def max_pool(
        self, x: str, name: str, kernel: int, stride: int, *, pad: int = 0, ceil: bool = False
    ) -> str:  # fmt: skip
        """Maxima over square windows."""
        return self._add(
            "MaxPool", name, [x], self._channels[x],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=int(ceil),
        )  # fmt: skip

    def global_pool(self, x: str, name: str) -> str:
        """The mean of each channel."""
        return self._add("GlobalAveragePool", name, [x], self._channels[x])

    def flatten(self, x: str, name: str, pixels: int = 1) -> str:
        """One row per image; `pixels` is what is left of each channel."""
        return self._add("Flatten", name, [x], self._channels[x] * pixels, axis=1)

    def dense(self, x: str, name: str, outputs: int) -> str:
        """A fully connected layer."""
        weight = self._parameters(f"{name}.weight", (outputs, self._channels[x]))
        bias = self._parameters(f"{name}.bias", (outputs,))
        inputs = [x, self._initializer(f"{name}.weight", weight), self._initializer(f"{name}.bias", bias)]
        return self._add("Gemm", name, inputs, outputs, transB=1)

    def build(self, x: str, output: str, batch: Batch) -> onnx.ModelProto:
        """The checked model whose only output is the matrix `x`, renamed to `output`."""
        self._nodes[-1].output[0] = output
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, self._channels[x]])
        graph = helper.make_graph(self._nodes, self._name, self._inputs, [value], self._initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _conv(self, x: str, name: str, weight: Floats, bias: Floats | None, stride: int) -> str:
        kernel = weight.shape[2]
        inputs = [x, self._initializer(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self._initializer(f"{name}.bias", bias))
        return self._add(
            "Conv", name, inputs, weight.shape[0],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4,
        )  # fmt: skip

    def _initializer(self, name: str, values: Floats) -> str:
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def _add(self, op: str, name: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        y = f"{name}_output"
        self._nodes.append(helper.make_node(op, inputs, [y], name=name, **attributes))
        self._channels[y] = channels
        return y


def resnet50(net: GraphBuilder, x: str) -> str:
    """ResNet-50 with the stride on the 3x3 as in torchvision (4.09 GMAC; on the first 1x1 it would be 3.86)."""
    x = net.relu(net.conv_norm(x, "conv1", 64, 7, stride=2, norm="bn1"), "relu")
    x = net.max_pool(x, "maxpool", 3, 2, pad=1)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            y = net.relu(net.conv_norm(x, f"{name}.conv1", width, 1, norm=f"{name}.bn1"), f"{name}.relu1")
            y = net.conv_norm(y, f"{name}.conv2", width, 3, stride=stride, norm=f"{name}.bn2")
            y = net.relu(y, f"{name}.relu2")
            # Sixteen random branches of full size would add up to activations in the hundreds.
            y = net.conv_norm(y, f"{name}.conv3", 4 * width, 1, norm=f"{name}.bn3", gain=0.25)
            if block == 0:
                down = f"{name}.downsample"
                x = net.conv_norm(x, f"{down}.0", 4 * width, 1, stride=stride, norm=f"{down}.1")
            x = net.relu(net.add(y, x, f"{name}.add"), f"{name}.relu")
    return net.dense(net.flatten(net.global_pool(x, "avgpool"), "flatten"), "fc", 1000)


def vgg16(net: GraphBuilder, x: str) -> str:
    """VGG-16 (configuration D)."""
    index = 0  # torchvision counts every convolution, ReLU and pool of `features`
    for channels, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            x = net.relu(net.conv(x, f"features.{index}", channels, 3), f"features.{index + 1}")
            index += 2
        x = net.max_pool(x, f"features.{index}", 2, 2)
        index += 1
    x = net.flatten(x, "flatten", pixels=7 * 7)
    x = net.relu(net.dense(x, "classifier.0", 4096), "classifier.1")
    x = net.relu(net.dense(x, "classifier.3", 4096), "classifier.4")
    return net.dense(x, "classifier.6", 1000)


# Channels of one inception module: 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection.
_GOOGLENET: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet(net: GraphBuilder, x: str) -> str:
    """GoogLeNet with batch normalisation in place of LRN, without auxiliary heads; its 5x5 really are 5x5."""

    def unit(x: str, name: str, channels: int, kernel: int, stride: int = 1) -> str:
        y = net.conv_norm(x, f"{name}.conv", channels, kernel, stride=stride, norm=f"{name}.bn")
        return net.relu(y, f"{name}.relu")

    x = net.max_pool(unit(x, "conv1", 64, 7, 2), "maxpool1", 3, 2, ceil=True)
    x = unit(unit(x, "conv2", 64, 1), "conv3", 192, 3)
    for module, (one, reduce3, three, reduce5, five, pool) in _GOOGLENET.items():
        if module.endswith("a"):
            x = net.max_pool(x, f"maxpool{int(module[0]) - 1}", 3, 2, ceil=True)
        name = f"inception{module}"
        branches = [
            unit(x, f"{name}.branch1", one, 1),
            unit(unit(x, f"{name}.branch2.0", reduce3, 1), f"{name}.branch2.1", three, 3),
            unit(unit(x, f"{name}.branch3.0", reduce5, 1), f"{name}.branch3.1", five, 5),
            unit(net.max_pool(x, f"{name}.branch4.0", 3, 1, pad=1), f"{name}.branch4.1", pool, 1),
        ]
        x = net.concat(branches, f"{name}.concat")
    return net.dense(net.flatten(net.global_pool(x, "avgpool"), "flatten"), "fc", 1000)


ARCHITECTURES: dict[str, Callable[[GraphBuilder, str], str]] = {
    "resnet50": resnet50, "vgg16": vgg16, "googlenet": googlenet,
}  # fmt: skip


def make_model(
    architecture: str, *, batch: Batch = 1, batch_norm: bool = False, seed: int = 0
) -> onnx.ModelProto:  # fmt: skip
    """Build `architecture` for input `input` batch x 3 x 224 x 224 and output `logits` batch x 1000."""
    net = GraphBuilder(architecture, seeded_parameters(seed), batch_norm=batch_norm)
    x = net.input("input", batch, (3, 224, 224))
    return net.build(ARCHITECTURES[architecture](net, x), "logits", batch)


def _batch(text: str) -> Batch:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text.isidentifier():
        return text
    raise argparse.ArgumentTypeError(f"{text}: neither a positive number nor a name")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an architecture with seeded random weights as ONNX.")
    parser.add_argument("architecture", choices=sorted(ARCHITECTURES))
    parser.add_argument("output", type=Path, help="path of the .onnx file")
    parser.add_argument("--batch", type=_batch, default=1, help="size, or a name for a free axis (default: 1)")
    parser.add_argument("--batch-norm", action="store_true", help="keep BatchNormalization nodes unfolded")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.batch_norm and options.architecture == "vgg16":
        parser.error("--batch-norm: vgg16 has no batch normalisation")
    if options.seed < 0:
        parser.error("--seed: must not be negative")
    model = make_model(
        options.architecture, batch=options.batch, batch_norm=options.batch_norm, seed=options.seed
    )  # fmt: skip
    onnx.save_model(model, options.output)
    count = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    size = options.output.stat().st_size
    print(f"{options.output}: {options.architecture}, {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
