"""The roofline of a machine: the best rate and the best bandwidth that onnxruntime reaches on it.

A layer of intensity I (MACs per byte that it must move) can reach ``min(peak, bandwidth * I)`` (Williams, Waterman and
Patterson 2009). Left of the ridge ``peak / bandwidth`` it is bound by memory, right of it by arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onnxslim1x1.runtime.benchmark import timing_options
from onnxslim1x1.runtime.kernels import KernelRun, recording
from onnxslim1x1.runtime.microbench import (
    COPIES,
    between_neighbours,
    chain_model,
    fastest_quarter,
    machine_key,
    random_values,
    rounds,
)
from onnxslim1x1.runtime.session import provider_name
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.spec import ConvSpec

if TYPE_CHECKING:
    import onnx

Bound = Literal["compute", "memory"]

LAYERS = {  # wide ones that keep their shape; the larger ones occupy many cores, the others are seldom interrupted
    "3x3 convolution, 64 channels": ConvSpec.make(64, 64, kernel=(3, 3), pads=(1, 1, 1, 1), in_size=(56, 56)),
    "3x3 convolution, 256 channels": ConvSpec.make(256, 256, kernel=(3, 3), pads=(1, 1, 1, 1), in_size=(28, 28)),
    "1x1 convolution, 256 channels": ConvSpec.make(256, 256, kernel=(1, 1), in_size=(28, 28)),
    "dense layer, 1024 channels": ConvSpec.make(1024, 1024, kernel=(), in_size=(), batch=128),
}
MOVERS = {"Add": 2, "Abs": 1}  # elementwise operators and how many tensors they read; each writes one

_KIND = "roofline"
_METHOD = 1  # part of the key of kept figures: raise it when they are no longer comparable
_ELEMENTS = 1 << 21  # float32 per tensor: 8 MiB, short enough that many an operator runs without being interrupted
_OPERATORS = 8  # in a row, each on tensors of its own: together those exceed most caches
_BUDGET_S = 0.25
_LEAST_RUNS, _MOST_RUNS, _WARMUP_RUNS = 1, 50, 1  # of `_OPERATORS` each

_measured: dict[tuple[str, int, str], float] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class RoofPlace:
    """Where a layer is under the roofline.

    Attributes:
        bound: what limits a layer of its intensity.
        limit: MACs per second that are attainable at its intensity.
        fraction: achieved MACs per second over `limit`. It may exceed 1: tensors that stay in a cache move faster than
            memory does.
    """

    bound: Bound
    limit: float
    fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofline:
    """Measured limits of a machine.

    Attributes:
        peak: MACs per second of the fastest of a few well-shaped layers, in float32.
        bandwidth: bytes per second that large elementwise operators read and write, from and to memory.
        provider: execution provider.
        threads: intra-op threads that were asked for; 0 leaves the choice to onnxruntime.
        cases: name and rate of everything that was timed, in MACs or in bytes per second.
    """

    peak: float
    bandwidth: float
    provider: str
    threads: int
    cases: tuple[tuple[str, float], ...] = ()

    @property
    def ridge(self) -> float:
        """Intensity in MACs per byte from which on arithmetic is the limit."""
        return self.peak / self.bandwidth

    def place(self, *, macs: int | None, moved_bytes: int | None, seconds: float | None) -> RoofPlace | None:
        """Where a layer is that does `macs` on `moved_bytes` in `seconds`; None if one of them is unknown or 0."""
        if not macs or not moved_bytes or not seconds:
            return None
        intensity = macs / moved_bytes
        limit = min(self.peak, self.bandwidth * intensity)
        return RoofPlace(bound="compute" if intensity >= self.ridge else "memory", limit=limit,
                         fraction=macs / seconds / limit)


def measured_roofline(*, threads: int = 0, provider: str | None = None, store: Store = NO_STORE) -> Roofline:
    """Measure the limits of this machine, which takes about two seconds, or take them from the store.

    Kernels alone are timed, as the profiler records them. A layer counts batch * O * prod(out_size) * n * C MACs, an
    elementwise operator 4 bytes per value that it reads or writes (not what a cache fetches before it writes). Of each
    the mean of the fastest quarter counts: other processes only ever add to the time of a kernel.

    Args:
        threads: intra-op threads (0: as many as onnxruntime chooses).
        provider: execution provider (None: CPU).
        store: where figures are kept, by machine, version of onnxruntime, threads and provider.

    Raises:
        OptionError: the provider is not offered.
        RuntimeFailure: onnxruntime cannot run the layers.
    """
    name = provider_name(provider)
    layers = {case: spec.cost.macs / _seconds(case, threads, name, store) for case, spec in LAYERS.items()}
    movers = {op: 4 * _ELEMENTS * (reads + 1) / _seconds(op, threads, name, store) for op, reads in MOVERS.items()}
    return Roofline(peak=max(layers.values()), bandwidth=max(movers.values()), provider=name, threads=threads,
                    cases=(*layers.items(), *movers.items()))


def _seconds(case: str, threads: int, provider: str, store: Store) -> float:
    """Seconds of one operator; measured once per process, and with a store once per machine."""
    known = _measured.get((case, threads, provider))
    if known is None:
        key: dict[str, Any] = {} if store.folder is None else {
            "method": _METHOD, "machine": machine_key(threads, provider), "case": case}
        known = store.value(_KIND, key)
        if known is None:
            known = _measure(case, threads, provider)
            store.put_value(_KIND, key, known)
        _measured[case, threads, provider] = known
    return known


def _measure(case: str, threads: int, provider: str) -> float:
    """Mean of the fastest quarter of operators that run one after the other, many times."""
    spec = LAYERS.get(case)
    model = _mover(case) if spec is None else chain_model((spec,) * _OPERATORS)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    feeds = {name: random_values(tuple(shape)) for name, shape in shapes.items()}
    with recording(model.SerializeToString(), options=timing_options(threads), provider=provider,
                   where="microbenchmark") as recorded:
        pairs = [(recorded.session, feeds)]
        rounds(pairs, 0.0, least=_WARMUP_RUNS, most=_WARMUP_RUNS)
        count = rounds(pairs, _BUDGET_S, least=_LEAST_RUNS, most=_MOST_RUNS)
        runs = [between_neighbours(run) if spec else run for run in recorded.runs()[-count:]]
    return fastest_quarter(seconds for run in runs for seconds in _each(run))


def _each(kernels: Sequence[KernelRun]) -> list[float]:
    """Of each operator in a run; providers that compile all of them into one kernel share its time among them."""
    own = [kernel.seconds for kernel in kernels if kernel.op not in COPIES]
    return own if len(own) == _OPERATORS else [math.fsum(own) / _OPERATORS]


def _inputs(op: str) -> list[list[str]]:
    """Names of what each operator in a row reads."""
    return [[f"x{number}_{k}" for k in range(MOVERS[op])] for number in range(_OPERATORS)]


def _mover(op: str) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    def values(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, (_ELEMENTS,)) for name in names]

    groups, outputs = _inputs(op), [f"y{number}" for number in range(_OPERATORS)]
    nodes = [helper.make_node(op, group, [output]) for group, output in zip(groups, outputs, strict=True)]
    graph = helper.make_graph(nodes, "mover", values([name for group in groups for name in group]), values(outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
