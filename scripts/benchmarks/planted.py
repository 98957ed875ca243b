"""A model that computes the same as another one, a given part slower: an identity convolution is put into its graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.graph.model import Model, load
from onnxslim1x1.graph.shapes import Shapes, infer_shapes
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, LatencyComparison, compare_models
from onnxslim1x1.runtime.inputs import layers_with_shapes, model_inputs
from onnxslim1x1.runtime.session import Feeds, random_feeds

_TRIED = 6  # places that are measured before one is chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a convolution may go: in front of a layer, with a square kernel of odd size, in so many groups."""

    layer: Layer
    kernel: int
    groups: int
    part: float  # of the model's multiplications


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """The slower model and what it was measured to be."""

    model: bytes
    where: str
    measured: LatencyComparison

    @property
    def slower(self) -> float:
        """Time over that of the original."""
        return 1 / self.measured.speedup


def feeds_of(path: Path) -> Feeds:
    """Random inputs of a model, one image."""
    model = load(path)
    return random_feeds(model_inputs(model, infer_shapes(model)))


def plant(path: Path, slowdown: float, *, settings: BenchmarkSettings, feeds: Feeds) -> Planted:
    """Find the place where an identity convolution costs about `slowdown` of the model's time, by measuring some."""
    model = load(path)
    shapes = infer_shapes(model)
    tried = []
    for place in _spread(sorted(_places(model, shapes), key=lambda p: p.part), slowdown):
        made = inserted(onnx.load(path), place)
        found = compare_models(path, made, feeds=feeds, settings=settings)
        where = f"{place.kernel}x{place.kernel} in {place.groups} groups before {place.layer.name}"
        tried.append(Planted(model=made, where=where, measured=found))
    return min(tried, key=lambda one: abs(one.slower - 1 - slowdown))


def _places(model: Model, shapes: Shapes) -> Iterator[Place]:
    layers = layers_with_shapes(model, shapes, run=True)
    total = sum(layer.spec.macs or 0 for layer in layers)
    fed = {info.name for info in model.proto.graph.input}
    for layer in layers:
        shape = layer.in_shape
        if layer.op_type != "Conv" or shape is None or len(shape) != 4 or layer.input in fed or layer.in_body:
            continue
        for kernel in (1, 3, 5):
            for groups in (g for g in range(1, shape[1] + 1) if shape[1] % g == 0):
                macs = shape[1] ** 2 // groups * kernel**2 * shape[2] * shape[3]
                yield Place(layer=layer, kernel=kernel, groups=groups, part=macs / total)


def _spread(places: list[Place], slowdown: float) -> list[Place]:
    """Some that should cost from a fifth of `slowdown` to twice as much: small convolutions are slow for their size."""
    parts = np.array([place.part for place in places])
    wanted = slowdown * np.geomspace(0.2, 1.6, _TRIED)
    return [places[i] for i in sorted({int(np.abs(np.log(parts / part)).argmin()) for part in wanted})]


def inserted(changed: onnx.ModelProto, place: Place) -> bytes:
    """The model with the convolution in front of one layer, which alone reads its result."""
    graph, layer = changed.graph, place.layer
    index = next(i for i, node in enumerate(graph.node) if node.output[0] == layer.output)
    node = graph.node[index]
    weight = next(t for t in graph.initializer if t.name == node.input[1])
    channels = layer.spec.in_channels
    kernel = np.zeros((channels, channels // place.groups, place.kernel, place.kernel))
    middle = place.kernel // 2
    kernel[np.arange(channels), np.arange(channels) % (channels // place.groups), middle, middle] = 1
    dtype = helper.tensor_dtype_to_np_dtype(weight.data_type)
    graph.initializer.append(numpy_helper.from_array(kernel.astype(dtype), "planted_kernel"))
    if any(info.name == node.input[1] for info in graph.input):  # IR version 3 lists weights as inputs, too
        graph.input.append(helper.make_tensor_value_info("planted_kernel", weight.data_type, kernel.shape))
    graph.node.insert(index, helper.make_node(
        "Conv", [node.input[0], "planted_kernel"], ["planted"], name="planted", kernel_shape=[place.kernel] * 2,
        pads=[middle] * 4, group=place.groups))
    graph.node[index + 1].input[0] = "planted"
    return changed.SerializeToString()
