"""Write a well-known architecture as an ONNX file with seeded random weights.

    python scripts/make_model.py resnet50 resnet50.onnx
    python scripts/make_model.py resnet50x5 big.onnx --external     # 2.4 GB, one layer of it in memory
    python scripts/make_model.py blocks long.onnx --nodes 20000

The files have the layers, sizes and costs of the published networks, so they serve to time and exercise tools
at a realistic size; they classify nothing. `resnet50x5` is ResNet-50 with five times the channels (and 25 times the
weights), `blocks` as many nodes as are asked for. Needs numpy and onnx only.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Parameters = Callable[[str, tuple[int, ...]], Floats]  # name and shape of a parameter -> its values
Batch = int | str  # a number, or the name of a free axis
Store = Callable[[Floats, str], onnx.TensorProto]  # values and name -> how the model refers to them

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


def data_file(file: BinaryIO, location: str) -> Store:
    """Store that appends the values to a file of external data, each at a multiple of 64 bytes."""

    def store(values: Floats, name: str) -> onnx.TensorProto:
        file.write(bytes(-file.tell() % 64))
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape,
                                  data_location=TensorProto.EXTERNAL)  # fmt: skip
        for key, value in (("location", location), ("offset", file.tell()), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        file.write(values.astype("<f4", copy=False).data)
        return tensor

    return store


class GraphBuilder:
    """Appends named nodes to a graph; every method takes and returns tensor names.

    `parameters` is asked for weights under torch's names, such as `layer1.0.bn1.running_mean`. With `batch_norm`
    false, normalisations are folded into the convolution before them: another graph, the same function.
    """

    def __init__(
        self, name: str, parameters: Parameters, *, batch_norm: bool, store: Store = numpy_helper.from_array
    ) -> None:  # fmt: skip
        self._name = name
        self._parameters = parameters
        self._batch_norm = batch_norm
        self._store = store
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

    def conv_norm(  # noqa: PLR0913  (all but two are named)
        self, x: str, name: str, channels: int, kernel: int, *,
        norm: str, stride: int = 1, gain: float = 1.0, depthwise: bool = False,
    ) -> str:  # fmt: skip
        """A convolution without bias, then the batch normalisation `norm` with its scale times `gain`."""
        inputs = 1 if depthwise else self._channels[x]
        weight = self._parameters(f"{name}.weight", (channels, inputs, kernel, kernel))
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

    def relu6(self, x: str, name: str) -> str:
        """The part between 0 and 6."""
        limits = [self._initializer(f"{name}.{limit}", np.float32(limit)) for limit in (0, 6)]
        return self._add("Clip", name, [x, *limits], self._channels[x])

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
        """The model whose only output is the matrix `x`, renamed to `output`."""
        self._nodes[-1].output[0] = output
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, self._channels[x]])
        graph = helper.make_graph(self._nodes, self._name, self._inputs, [value], self._initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _conv(self, x: str, name: str, weight: Floats, bias: Floats | None, stride: int) -> str:
        kernel = weight.shape[2]
        groups = self._channels[x] // weight.shape[1]
        inputs = [x, self._initializer(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self._initializer(f"{name}.bias", bias))
        return self._add(
            "Conv", name, inputs, weight.shape[0],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4,
            **({"group": groups} if groups > 1 else {}),
        )  # fmt: skip

    def _initializer(self, name: str, values: Floats) -> str:
        contiguous = np.ascontiguousarray(values, np.float32).reshape(values.shape)
        self._initializers.append(self._store(contiguous, name))
        return name

    def _add(self, op: str, name: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        y = f"{name}_output"
        self._nodes.append(helper.make_node(op, inputs, [y], name=name, **attributes))
        self._channels[y] = channels
        return y


def resnet50(net: GraphBuilder, x: str, times: int = 1) -> str:
    """ResNet-50 with the stride on the 3x3 as in torchvision (4.09 GMAC; on the first 1x1 it would be 3.86).

    `times` multiplies all channels but those of the input and the output.
    """
    x = net.relu(net.conv_norm(x, "conv1", 64 * times, 7, stride=2, norm="bn1"), "relu")
    x = net.max_pool(x, "maxpool", 3, 2, pad=1)
    for stage, (base, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        width = base * times
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


# Expansion, output channels, number and first stride of the inverted residuals of one width.
_MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                 (6, 320, 1, 1))  # fmt: skip


def mobilenetv2(net: GraphBuilder, x: str) -> str:
    """MobileNetV2 at width 1 (Sandler et al. 2018, table 2), named as in torchvision."""

    def unit(x: str, name: str, channels: int, kernel: int, *, stride: int = 1, depthwise: bool = False) -> str:
        y = net.conv_norm(
            x, f"{name}.0", channels, kernel, stride=stride, norm=f"{name}.1", depthwise=depthwise
        )  # fmt: skip
        return net.relu6(y, f"{name}.2")

    x, before, index = unit(x, "features.0", 32, 3, stride=2), 32, 0
    for expansion, channels, number, first in _MOBILENET_V2:
        for stride in (first, *[1] * (number - 1)):
            index += 1
            name, wide = f"features.{index}.conv", before * expansion
            y = x if expansion == 1 else unit(x, f"{name}.0", wide, 1)
            y = unit(y, f"{name}.1", wide, 3, stride=stride, depthwise=True)
            y = net.conv_norm(y, f"{name}.2", channels, 1, norm=f"{name}.3")
            x = net.add(x, y, f"features.{index}.add") if stride == 1 and before == channels else y
            before = channels
    x = unit(x, "features.18", 1280, 1)
    return net.dense(net.flatten(net.global_pool(x, "avgpool"), "flatten"), "classifier.1", 1000)


def blocks(net: GraphBuilder, x: str, nodes: int) -> str:
    """Residual blocks of 8 channels, and so many nodes (at least 10) in all: shows what a tool needs for each."""
    x = net.max_pool(net.conv(x, "stem", 8, 3), "pool", 8, 8)
    left = nodes - 5
    for block in range(left // 4):
        y = net.relu(net.conv(x, f"block{block}.conv1", 8, 3), f"block{block}.relu")
        x = net.add(net.conv(y, f"block{block}.conv2", 8, 1), x, f"block{block}.add")
    for number in range(left % 4):
        x = net.relu(x, f"relu{number}")
    return net.dense(net.flatten(net.global_pool(x, "avgpool"), "flatten"), "fc", 1000)


ARCHITECTURES: dict[str, Callable[[GraphBuilder, str], str]] = {
    "resnet50": resnet50, "resnet50x5": partial(resnet50, times=5), "vgg16": vgg16, "googlenet": googlenet,
    "mobilenetv2": mobilenetv2,
}  # fmt: skip
PLAIN = ("vgg16", "blocks")  # without normalisation


def make_model(
    architecture: str, *, batch: Batch = 1, batch_norm: bool = False, seed: int = 0, nodes: int = 1000,
    store: Store = numpy_helper.from_array,
) -> onnx.ModelProto:  # fmt: skip
    """Build `architecture` for input `input` batch x 3 x 224 x 224 and output `logits` batch x 1000."""
    net = GraphBuilder(architecture, seeded_parameters(seed), batch_norm=batch_norm, store=store)
    x = net.input("input", batch, (3, 224, 224))
    made = blocks(net, x, nodes) if architecture == "blocks" else ARCHITECTURES[architecture](net, x)
    return net.build(made, "logits", batch)


def write_model(path: Path, architecture: str, *, external: bool = False, **options: Any) -> onnx.ModelProto:
    """Make a model and save it, with `external` all weights in `<name>.data` beside it; the file is checked."""
    with ExitStack() as stack:
        if external:
            location = f"{path.name}.data"
            options["store"] = data_file(stack.enter_context(path.with_name(location).open("wb")), location)
        model = make_model(architecture, **options)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    return model


def _batch(text: str) -> Batch:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text.isidentifier():
        return text
    raise argparse.ArgumentTypeError(f"{text}: neither a positive number nor a name")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an architecture with seeded random weights as ONNX.")
    parser.add_argument("architecture", choices=sorted([*ARCHITECTURES, "blocks"]))
    parser.add_argument("output", type=Path, help="path of the .onnx file")
    parser.add_argument("--batch", type=_batch, default=1, help="size, or a name for a free axis (default: 1)")
    parser.add_argument("--batch-norm", action="store_true", help="keep BatchNormalization nodes unfolded")
    parser.add_argument("--external", action="store_true", help="weights in OUTPUT.data (needed beyond 2 GB)")
    parser.add_argument("--nodes", type=int, default=1000, help="of `blocks` (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.batch_norm and options.architecture in PLAIN:
        parser.error(f"--batch-norm: {options.architecture} has no batch normalisation")
    if options.seed < 0:
        parser.error("--seed: must not be negative")
    if options.nodes < 10:
        parser.error("--nodes: must be at least 10")
    if options.architecture == "resnet50x5" and not options.external:
        parser.error("resnet50x5: holds more than fits into one file; give --external")
    model = write_model(
        options.output, options.architecture, external=options.external, batch=options.batch,
        batch_norm=options.batch_norm, seed=options.seed, nodes=options.nodes,
    )  # fmt: skip
    count = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    data = options.output.with_name(f"{options.output.name}.data")
    size = options.output.stat().st_size + (data.stat().st_size if options.external else 0)
    print(f"{options.output}: {options.architecture}, {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
