"""What nodes read, and the graphs inside of them (the bodies of If, Loop and Scan)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs among the attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, those of the outer graph that its sub-graphs read included."""
    names = set(node.input)
    for body in bodies(node):
        names.update(o.name for o in body.output)
        for inner in body.node:
            names |= reads(inner)
    return names
