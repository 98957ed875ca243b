"""Model-local functions: their nodes take the place of every call, so that layers in them are layers like others."""

from __future__ import annotations

import re
from collections import Counter

import onnx
import onnx.inliner

_NUMBERED = re.compile(r"__\d+$")  # what the inliner of onnx adds to names


def inlined_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, as onnxruntime runs it; the model itself if it has none.

    A node keeps the name that it has in the function if that is unique. A model that onnx cannot inline stays as it is:
    layers in its functions are not found then.
    """
    if not proto.functions:
        return proto
    try:
        found: onnx.ModelProto = onnx.inliner.inline_local_functions(proto)
    except Exception:  # the inliner raises RuntimeError and others; onnxruntime will say what is wrong
        return proto
    plain = [_NUMBERED.sub("", node.name) for node in found.graph.node]
    counts, taken = Counter(plain), {node.name for node in found.graph.node}
    for node, name in zip(found.graph.node, plain, strict=True):
        if name and counts[name] == 1 and name not in taken:
            node.name = name
    return found
