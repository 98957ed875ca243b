"""Editing a model with onnx-graphsurgeon while everything that is not edited stays byte for byte what it was.

graphsurgeon drops node metadata, attributes of rare types and the details of graph inputs and outputs when it exports
a whole graph. So only nodes and constants that changed are exported; all else is copied from the original message.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.scopes import bodies, reads
from onnxslim1x1.graph.shapes import fed_inputs

G_LOGGER.severity = logging.CRITICAL  # its remarks are about exports that are not used here

_FIRST_IR_WITH_FREE_INITIALIZERS = 4


class GraphEdit:
    """One editing session: change `graph` through graphsurgeon, then take the `result`.

    Attributes:
        model: the model as it was.
        graph: the graphsurgeon graph.

    Raises:
        ModelError: graphsurgeon cannot import the model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph: Any = _imported(model)
        self._pristine = dict(zip(map(id, self.graph.nodes), model.proto.graph.node, strict=True))
        self._kept = list(self.graph.nodes)  # keeps every id alive, so it is not reused
        self._names = _all_names(model.proto.graph)
        self._written = {t.name: t for node in self.graph.nodes for t in node.outputs}
        self._spliced: dict[int, list[Any]] = {}

    def node_of(self, output: str) -> Any:
        """Node that writes a tensor.

        Raises:
            KeyError: none does.
        """
        writers = self._written[output].inputs
        if not writers:
            raise KeyError(output)
        return writers[0]

    def unique(self, wanted: str) -> str:
        """`wanted`, or with a number behind it if the graph has the name already; reserved from now on."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def values(self, tensor: Any) -> NDArray[Any] | None:
        """Values of a constant tensor (initializer or output of a Constant node), None if it is computed."""
        if isinstance(tensor, gs.Constant):
            lazy = tensor._values  # the public property would read external data from the wrong folder
            return self.model.array(lazy.tensor) if isinstance(lazy, LazyValues) else np.asarray(lazy)
        if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
            value = tensor.inputs[0].attrs.get("value")
            return None if value is None else self.values(value)
        return None

    def constant(self, wanted: str, values: NDArray[Any]) -> Any:
        """New constant tensor with a unique name."""
        return gs.Constant(self.unique(wanted), np.ascontiguousarray(values))

    def splice(self, node: Any, replacement: list[Any]) -> None:
        """Put nodes in the place of one, in order; connections are the caller's business."""
        self._spliced[id(node)] = replacement  # moving all nodes behind it each time would be quadratic
        self._kept += replacement

    def _settle(self) -> None:
        """Carry out what was spliced, replacements of replacements included."""
        settled, waiting = [], list(reversed(self.graph.nodes))
        while waiting:
            node = waiting.pop()
            if id(node) in self._spliced:
                waiting += reversed(self._spliced[id(node)])
            else:
                settled.append(node)
        self.graph.nodes[:] = settled
        self._spliced.clear()

    def result(self, metadata: Mapping[str, str] | None = None) -> Model:
        """The edited model; weights that were only initial values of graph inputs become constants.

        Raises:
            ModelError: a changed node cannot be exported.
        """
        self._settle()
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        graph = proto.graph
        nodes, constants = self._export()
        stale = {name for node in self._removed() for name in (*node.input, *node.output)}
        used = {name for node in nodes for name in reads(node)} | {o.name for o in graph.output}
        nodes = [n for n in nodes if n.op_type != "Constant" or n.output[0] in used or n.output[0] not in stale]
        fed = fed_inputs(self.model.proto.graph)
        kept = [t for t in self.model.proto.graph.initializer if t.name in used or t.name not in stale]
        infos = [v for v in self.model.proto.graph.value_info if v.name in used or v.name not in stale]
        for field, items in (("node", nodes), ("initializer", [*kept, *constants]), ("input", fed),
                             ("value_info", infos)):
            graph.ClearField(field)
            getattr(graph, field).extend(items)
        proto.ir_version = max(proto.ir_version, _FIRST_IR_WITH_FREE_INITIALIZERS)
        _add_metadata(proto, metadata or {})
        return Model(proto=proto, path=None, home=self.model.home)

    def _export(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        nodes, constants = [], {}
        known = {t.name for t in self.model.proto.graph.initializer}
        for node in self.graph.nodes:
            pristine = self._pristine.get(id(node))
            if pristine is not None and _same_wiring(node, pristine):
                nodes.append(pristine)
                continue
            try:
                nodes.append(OnnxExporter.export_node(node))
            except Exception as error:  # graphsurgeon raises its own and onnx's helpers theirs
                raise ModelError(f"{self.model.where}: node {node.name} cannot be exported ({error})") from error
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and tensor.name not in known:
                    constants[tensor.name] = OnnxExporter.export_tensor_proto(tensor)
        return nodes, list(constants.values())

    def _removed(self) -> list[onnx.NodeProto]:
        """Original nodes that are gone or were rewired."""
        current = {id(n): n for n in self.graph.nodes}
        return [p for i, p in self._pristine.items() if i not in current or not _same_wiring(current[i], p)]


def _imported(model: Model) -> Any:
    try:
        return gs.import_onnx(model.proto)
    except Exception as error:  # graphsurgeon raises its own and whatever it stumbles over
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{model.where}: cannot be edited ({type(error).__name__}: {reason})") from error


def _same_wiring(node: Any, proto: onnx.NodeProto) -> bool:
    return [t.name for t in node.inputs] == list(proto.input) and [t.name for t in node.outputs] == list(proto.output)


def _all_names(graph: onnx.GraphProto) -> set[str]:
    """Names of tensors and nodes; those of sub-graphs too, which must not reuse a name of the graph around them."""
    names = {i.name for i in (*graph.input, *graph.value_info)} | {t.name for t in graph.initializer}
    names |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
        for body in bodies(node):
            names |= _all_names(body)
    return names


def _add_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        entry = next((e for e in proto.metadata_props if e.key == key), None) or proto.metadata_props.add(key=key)
        entry.value = value
