"""Which source node the time of a kernel belongs to, through fusion, inserted casts and layout changes.

1. A kernel *names* the source nodes that the name of its node, or of an output of its node in the saved optimised
   model, mentions (see `onnxslim1x1.runtime.canonical`).
2. Source nodes that no kernel names were fused into one, folded or eliminated. Walking back from the named nodes
   finds those that a kernel absorbed (the convolution before the activation that the kernel is called after); what
   follows a layer directly and can be its epilogue (an activation, the Add of a shortcut) was absorbed by it.
3. The time of a convolution or matrix kernel belongs to the nearest node of that kind that it names or absorbed, that
   of any other kernel to the first node that it names.
4. Kernels that no source node asked for (reorders, inserted transposes and casts) belong to the node whose result they
   convert, or else to the one that they serve.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxslim1x1.runtime.canonical import Canonical
from onnxslim1x1.runtime.kernels import Kernel

if TYPE_CHECKING:
    import onnx

Kind = Literal["compute", "reorder", "cast"]

_REORDERS = {"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"}
_CONVERSIONS: Mapping[str, Kind] = {"Transpose": "reorder", "Cast": "cast"}  # a source may have these, too
_EPILOGUES = {"Add", "Sum", "Sub", "Mul", "Div", "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh",
              "Clip", "HardSigmoid", "HardSwish", "Elu", "Softplus", "Identity", "Dropout", "QuantizeLinear"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A kernel, what it is there for, and the source node that it belongs to (None: it could not be mapped)."""

    kernel: Kernel
    kind: Kind
    node: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """Shares in the order of execution, and for every absorbed source node the one that has its time."""

    shares: tuple[Share, ...]
    absorbed: Mapping[int, int]


def attribute(kernels: Sequence[Kernel], source: Canonical, optimised: onnx.GraphProto) -> Attribution:
    """Map the kernels of a session of ``source.model`` to source nodes.

    Args:
        kernels: of the main graph, in the order of execution.
        source: the canonical copy that the session was made from.
        optimised: graph that onnxruntime saved for that session.
    """
    graph = _Optimised(source, optimised)
    kinds = [_kind(kernel, source) for kernel in kernels]
    named = [graph.named(kernel) for kernel in kernels]
    computing = {k: named[k] for k, kind in enumerate(kinds) if kind == "compute" and named[k]}
    taken = _absorb(computing, kernels, source)
    members = _members(taken, computing)
    owners = {k: _owner(kernels[k], tokens, members[k], source) for k, tokens in computing.items()}
    shares = []
    for k, (kernel, kind) in enumerate(zip(kernels, kinds, strict=True)):
        node = owners.get(k)
        if node is None:
            tokens = named[k] or graph.served(kernel)
            node = next((owners.get(taken.get(i, -1), i) for i in tokens), None)
        shares.append(Share(kernel=kernel, kind=kind, node=node))
    having = set(owners.values())
    absorbed = {i: owners[k] for i, k in sorted(taken.items()) if i not in having}
    return Attribution(shares=tuple(shares), absorbed=absorbed)


class _Optimised:
    """The saved optimised graph: finds what a kernel names and what it serves."""

    def __init__(self, source: Canonical, graph: onnx.GraphProto) -> None:
        self._source = source
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            self._nodes[node.name] = node
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def named(self, kernel: Kernel) -> tuple[int, ...]:
        """Source nodes that a kernel names: by its outputs (the end of what was fused), then by its own name."""
        outputs = self._nodes[kernel.node].output if kernel.node in self._nodes else ()
        return self._mentioned((*outputs, kernel.node))

    def served(self, kernel: Kernel) -> tuple[int, ...]:
        """Source nodes that the nearest kernel behind this one names."""
        pending = deque([self._nodes[kernel.node]] if kernel.node in self._nodes else [])
        seen: set[str] = set()
        while pending:
            node = pending.popleft()
            found = self._mentioned((*node.output, node.name))
            if found:
                return found
            fresh = [name for name in node.output if name and name not in seen]
            seen.update(fresh)
            pending.extend(consumer for name in fresh for consumer in self._consumers.get(name, ()))
        return ()

    def _mentioned(self, names: Iterable[str]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(i for name in names for i in self._source.sources(name)))


def _kind(kernel: Kernel, source: Canonical) -> Kind:
    if kernel.op in _REORDERS:
        return "reorder"
    asked = any(kernel.op in source.ops[i] for i in source.sources(kernel.node))
    if kernel.op in _CONVERSIONS and (not asked or kernel.node.startswith("Inserted")):
        return _CONVERSIONS[kernel.op]
    return "compute"


def layer_family(op: str) -> str:
    """Kind of layer that an operator is (empty: none), the same for what onnxruntime fuses or quantises it into."""
    if "ConvTranspose" in op:
        return "ConvTranspose"
    if "Conv" in op:
        return "Conv"
    return "MatMul" if "MatMul" in op or "Gemm" in op else ""


def _is_layer(i: int, family: str, source: Canonical) -> bool:
    """Whether source node i is, or contains, a layer of a kind (empty: of any kind)."""
    kinds = {layer_family(op) for op in source.ops[i]} - {""}
    return family in kinds if family else bool(kinds)


def _members(taken: Mapping[int, int], kernels: Iterable[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {k: [] for k in kernels}
    for i, k in taken.items():
        members[k].append(i)
    return members


def _walk(start: Iterable[int], source: Canonical, *stops: Container[int]) -> list[int]:
    """`start` and what it depends on, nearest first, without the nodes in `stops` and what is behind them."""
    order = dict.fromkeys(start)
    pending = deque(order)
    while pending:
        for i in source.producers[pending.popleft()]:
            if i not in order and not any(i in stop for stop in stops):
                order[i] = None
                pending.append(i)
    return list(order)


def _absorb(computing: Mapping[int, Sequence[int]], kernels: Sequence[Kernel], source: Canonical) -> dict[int, int]:
    """Kernel that each named or absorbed source node ran in."""
    taken: dict[int, int] = {}
    for k, tokens in computing.items():
        for i in tokens:
            taken.setdefault(i, k)
    layers = {k: family for k in computing if (family := layer_family(kernels[k].op))}
    for k, family in layers.items():  # back to the layer that the kernel must be
        path = _walk(computing[k], source, taken)
        at = next((n for n, i in enumerate(path) if _is_layer(i, family, source)), -1)
        taken |= {i: taken.get(i, k) for i in path[:at + 1]}
    for i, ops in enumerate(source.ops):  # forward: an epilogue runs in the last layer that its operands come from
        ran = [taken[p] for p in source.producers[i] if taken.get(p) in layers]
        if ran and i not in taken and ops[0] in _EPILOGUES:
            taken[i] = max(ran)
    any_layer = {i for i in range(len(source.ops)) if _is_layer(i, "", source)}
    for k, own in _members(taken, computing).items():  # back through the rest: what was folded or moved into the kernel
        simple = k in layers or kernels[k].op in _EPILOGUES  # it has no further layer inside: that one was eliminated
        path = _walk(own, source, taken, any_layer if simple else ())
        taken |= {i: k for i in path if i not in taken}
    return taken


def _owner(kernel: Kernel, tokens: Sequence[int], absorbed: Sequence[int], source: Canonical) -> int:
    """The nearest layer of the kernel's kind among what it names and absorbed, else the first node that it names."""
    family = layer_family(kernel.op)
    near = (i for i in (*tokens, *absorbed) if family and _is_layer(i, family, source))
    return next(near, tokens[0])
