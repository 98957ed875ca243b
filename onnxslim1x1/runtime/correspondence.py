"""Which tensor of a rewritten model stands for which of the original: by name, else by value.

Rewriting keeps the names of tensors, so most pairs are found by name. Where the rewritten model was exported or
optimised in another way, tensors without a partner are matched by their values on a few images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxslim1x1.graph.model import Model
from onnxslim1x1.graph.scopes import reads

Fetch = Callable[[Model, Sequence[str]], Mapping[str, "Print"]]

_NO_TENSORS = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "StringNormalizer", "TfIdfVectorizer")
_SAMPLES = 4096  # values of a tensor that are compared
_ALIKE = 0.5  # relative error up to which two tensors may stand for each other


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two tensors that stand for each other; `by_name` where they have the same name."""

    original: str
    rewritten: str

    @property
    def by_name(self) -> bool:
        """Whether the name was kept."""
        return self.original == self.rewritten


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Print:
    """What a tensor is told by.

    Attributes:
        shape: of it.
        kind: numpy's kind of dtype.
        values: at most 4,096 of its values, of the same places for tensors of the same size.
    """

    shape: tuple[int, ...]
    kind: str
    values: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Print:
        """Of a tensor."""
        flat = values.ravel()
        places = np.linspace(0, flat.size - 1, min(_SAMPLES, flat.size)).astype(np.int64)
        return cls(shape=values.shape, kind=values.dtype.kind, values=flat[places].astype(np.float64))


def producers(model: Model) -> dict[str, onnx.NodeProto]:
    """The node that writes each tensor that depends on what the model is fed, in the order of computation."""
    graph = model.proto.graph
    fixed = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    alive = {i.name for i in graph.input} - fixed
    found: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if alive.isdisjoint(reads(node)):
            continue
        alive.update(filter(None, node.output))
        if not node.op_type.startswith(_NO_TENSORS):
            found.update((name, node) for name in node.output if name)
    return found


def correspond(original: Model, rewritten: Model, fetch: Fetch) -> tuple[Pair, ...]:
    """Pairs of tensors, in the order in which the original computes them.

    Args:
        original: the model before.
        rewritten: the model after.
        fetch: what tensors of a model are told by, on the same images for both; those that are no tensors are left out.
    """
    before, after = producers(original), producers(rewritten)
    named = [name for name in before if name in after]
    first, second = fetch(original, list(before)), fetch(rewritten, list(after))
    pairs = {name: name for name in named if name in first and name in second and _fits(first[name], second[name])}
    free = [name for name in second if name not in pairs.values()]
    for name in (n for n in first if n not in pairs):
        best = min(((_distance(first[name], second[other]), place) for place, other in enumerate(free)
                    if _fits(first[name], second[other])), default=(np.inf, -1))
        if best[0] <= _ALIKE:
            pairs[name] = free.pop(best[1])
    return tuple(Pair(original=name, rewritten=pairs[name]) for name in before if name in pairs)


def comparable(first: Mapping[str, Print]) -> int:
    """How many tensors of fractions there are."""
    return sum(one.kind == "f" for one in first.values())


def _fits(one: Print, other: Print) -> bool:
    return one.kind == other.kind == "f" and one.shape == other.shape


def _distance(one: Print, other: Print) -> float:
    """Relative error of the sampled values; infinite for a tensor of zeros, which fits everything and nothing."""
    if not (np.isfinite(one.values).all() and np.isfinite(other.values).all()):
        return np.inf
    norm = float(np.linalg.norm(one.values))
    return float(np.linalg.norm(one.values - other.values)) / norm if norm else np.inf
