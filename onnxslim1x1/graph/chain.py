"""A chain of factors as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxslim1x1.graph.rewrite import attributes
from onnxslim1x1.spec import ConvFactor


def chain_model(factors: Sequence[ConvFactor]) -> onnx.ModelProto:
    """Model of convolutions in a row with float32 weights, from input ``x`` to output ``y``, for any batch and size."""
    nodes, weights = [], []
    for number, factor in enumerate(factors):
        inputs = ["x" if number == 0 else f"t{number}", f"w{number}"]
        weights.append(numpy_helper.from_array(factor.weight.astype(np.float32), f"w{number}"))
        if factor.bias is not None:
            inputs.append(f"b{number}")
            weights.append(numpy_helper.from_array(factor.bias.astype(np.float32), f"b{number}"))
        output = "y" if number == len(factors) - 1 else f"t{number + 1}"
        nodes.append(helper.make_node("Conv", inputs, [output], **attributes(factor.spec)))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, factors[0].spec.in_channels,
                                                                    *[None] * len(factors[0].spec.kernel)])
    graph = helper.make_graph(nodes, "chain", [x], [helper.make_empty_tensor_value_info("y")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
