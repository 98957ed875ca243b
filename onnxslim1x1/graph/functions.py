"""Model-local functions: their nodes take the place of every call, so that layers in them are layers like others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner

from onnxslim1x1.graph.operators import operator
from onnxslim1x1.graph.scopes import bodies

_NUMBERED = re.compile(r"__\d+$")  # what the inliner of onnx adds to names


def inlined_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every function that holds layers inlined, as onnxruntime runs it; itself if there is none.

    A node keeps the name that it has in the function if that is unique. A model that onnx cannot inline stays as it is:
    layers in its functions are not found then.
    """
    wanted = _with_layers(proto)
    if not wanted:
        return proto
    try:
        found: onnx.ModelProto = onnx.inliner.inline_selected_functions(proto, wanted)
    except Exception:  # the inliner raises RuntimeError and others; onnxruntime will say what is wrong
        return proto
    plain = [_NUMBERED.sub("", node.name) for node in found.graph.node]
    counts, taken = Counter(plain), {node.name for node in found.graph.node}
    for node, name in zip(found.graph.node, plain, strict=True):
        if name and counts[name] == 1 and name not in taken:
            node.name = name
    return found


def _with_layers(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """Domain and name of the functions that hold a layer, or call one that does."""
    found: dict[tuple[str, str], None] = {}
    while True:
        fresh = {key: None for f in proto.functions if (key := (f.domain, f.name)) not in found
                 and any(operator(node) or (node.domain, node.op_type) in found for node in _nodes(f.node))}
        if not fresh:
            return list(found)
        found |= fresh


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, those in their bodies included."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _nodes(body.node)
