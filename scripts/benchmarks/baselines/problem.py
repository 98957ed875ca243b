"""What all low-rank baselines share: the model, the layers that may change, the budget, and the way back to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxslim1x1.api import DataOptions, RunOptions
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import Layer, constants
from onnxslim1x1.graph.model import Model, load
from onnxslim1x1.graph.prepare import prepare
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.runtime.data import Dataset
from onnxslim1x1.runtime.hardware import channel_block
from onnxslim1x1.runtime.inputs import layers_with_shapes
from onnxslim1x1.search.candidates import eligible_families
from onnxslim1x1.spec import ConvFactor, ConvSpec, Cost, Ineligible
from onnxslim1x1.strategies import Strategy
from onnxslim1x1.strategies.base import chain_cost, spatial_refusal

Array = NDArray[Any]
Factors = tuple[ConvFactor, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One way to rewrite one layer.

    Attributes:
        layer: its name.
        what: family and ranks, for people.
        macs: of the chain; fewer than those of the layer.
        score: what the method judges it by; more is better.
        build: makes the chain.
    """

    layer: str
    what: str
    macs: int
    score: float
    build: Callable[[], Factors] = field(repr=False, compare=False)


Options = Mapping[str, Sequence[Option]]
Choice = Mapping[str, Option]


class Problem:
    """A model to compress to a budget of MACs.

    BatchNormalization is folded first, as `slim` does. The layers that may change are those that `slim` finds a family
    for and that have a spatial kernel: the first convolution, for instance, drops out if it is too narrow.

    Attributes:
        model: prepared.
        layers: that may change, in graph order.
        block: channel block of the runtime, the usual step of the ranks.
        cost: of the original.
        most: MACs that the result may have.
        run: threads and seed.
    """

    def __init__(self, source: Path | onnx.ModelProto, *, budget: float | None = None,
                 calibration: DataOptions | None = None, run: RunOptions | None = None,
                 block: int | None = None) -> None:
        self.run = run or RunOptions()
        self.block = block or channel_block(self.run.provider)
        self.model: Model = prepare(load(source)).model
        self._shapes = self.run.shapes(self.model)
        found = layers_with_shapes(self.model, self._shapes, run=True)
        self.layers = tuple(layer for layer in found if self._may_change(layer))
        self.cost = Cost(params=sum(x.spec.params for x in found), macs=sum(x.spec.macs or 0 for x in found))
        self.most = self.cost.macs if budget is None else self.cost.macs - int(self.cost.macs * (1 - budget))
        self._constants = constants(self.model)
        self._calibration = calibration

    def _may_change(self, layer: Layer) -> bool:
        if layer.ineligible is not None or spatial_refusal(layer.spec) is not None:
            return False
        return not isinstance(eligible_families(layer.spec, self.block), Ineligible)

    @cached_property
    def data(self) -> Dataset:
        """The calibration images.

        Raises:
            ValueError: there are none.
        """
        if self._calibration is None:
            raise ValueError("this method needs calibration images")
        return self._calibration.open(self.model, self._shapes)

    def images(self, most: int) -> Dataset:
        """At most so many of the calibration images, evenly spread."""
        picks = np.linspace(0, len(self.data) - 1, min(most, len(self.data))).round().astype(np.int64)
        return self.data.subset(picks)

    def weight(self, layer: Layer) -> Array:
        """Kernel of a layer."""
        return self.model.array(self._constants[layer.weight])

    def bias(self, layer: Layer) -> Array | None:
        """Bias of a layer, or None."""
        return None if layer.bias is None else self.model.array(self._constants[layer.bias])

    def macs(self, choice: Choice) -> int:
        """MACs of the model with these layers rewritten."""
        own = {layer.name: layer.spec.cost.macs for layer in self.layers}
        return self.cost.macs - sum(own[name] - option.macs for name, option in choice.items())

    def meets(self, choice: Choice) -> bool:
        """Whether the budget holds."""
        return self.macs(choice) <= self.most

    def build(self, choice: Choice) -> Model:
        """The model with these layers rewritten."""
        edit = GraphEdit(self.model)
        for layer in self.layers:
            if layer.name in choice:
                replace_layer(edit, layer, choice[layer.name].build())
        return edit.result()


def steps(strategy: Strategy, spec: ConvSpec, step: int) -> tuple[int, ...]:
    """Ranks of a one-rank family that are multiples of `step` and save MACs."""
    most, limit = strategy.max_ranks(spec)[0], spec.cost.macs
    return tuple(r for r in range(step, most + 1, step) if chain_cost(strategy.chain(spec, (r,))).macs < limit)
