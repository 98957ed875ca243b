"""What a chain of convolutions costs on this machine, measured outside of its model.

What counts are the kernels that the profiler of onnxruntime times between two neighbours, so that a chain is charged
for the layout that it runs in: a 1x1 pooling before and after it takes and gives the blocked layout (NCHWc) wherever
the channels allow it, as the neighbours of a layer in a model mostly do. Reorders at the seams of the chain count (a
rank that is no multiple of 4 forces them), those that only a lone layer would need do not. Weights are random: the
time of a dense kernel does not depend on them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import OptionError, RuntimeFailure
from onnxslim1x1.runtime.benchmark import timing_options
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.kernels import KernelRun, recording
from onnxslim1x1.runtime.session import CPU, Feeds, provider_name, run
from onnxslim1x1.runtime.store import NO_STORE, Store
from onnxslim1x1.spec import EXPLICIT_PADS, ConvSpec, Ints

if TYPE_CHECKING:
    import onnx

Chain = tuple[ConvSpec, ...]
Weights = NDArray[np.float32]

COPIES = ("MemcpyFromHost", "MemcpyToHost")  # kernels that move data to a device and back

_WARMUP_RUNS = 3
_MIN_RUNS = 3
_MAX_RUNS = 400
_RANDOM_VALUES = 1 << 16
_KIND = "latency"
_METHOD = 1  # part of the key of kept figures: raise it when they are no longer comparable
_ELSEWHERE = ("onnx", "python")  # parts of the environment that do not change a figure
_POOL, _ELEMENTWISE = _NEIGHBOURS = ("MaxPool", "Abs")  # onnxruntime fuses neither with a layer

_measured: dict[tuple[tuple[Chain, ...], int, str], tuple[float, ...]] = {}


def time_chain(specs: Sequence[ConvSpec], *, threads: int = 0, provider: str | None = None,
               budget_s: float = 0.04, store: Store = NO_STORE) -> float:
    """Seconds that the kernels of a chain take per run.

    A figure is measured once per process for a chain, number of threads and provider, and with a store once per machine
    and version of onnxruntime; the budget of the first call holds. A layer over tokens, which is a convolution with a
    kernel of ones to us, is timed as a convolution.

    Args:
        specs: layers in the order of execution, each taking what the one before gives.
        threads: intra-op threads (0: as many as onnxruntime chooses).
        provider: execution provider (None: CPU).
        budget_s: seconds for running; a slow chain still runs 3 times after being run once to warm up.
        store: where figures are kept.

    Raises:
        ValueError: there is no layer, an input size is unknown, or two layers do not fit together.
        OptionError: the provider is not offered, or the budget is not positive.
        RuntimeFailure: onnxruntime cannot run the chain.
    """
    _check(specs, budget_s)
    return _timed((tuple(specs),), threads, provider_name(provider), budget_s=budget_s, store=store)[0]


def compare_chain(original: ConvSpec, chain: Sequence[ConvSpec], *, threads: int = 0, provider: str | None = None,
                  budget_s: float = 0.06, store: Store = NO_STORE) -> float:
    """Speed-up (old/new) of replacing a layer by a chain: above 1, the chain is faster.

    Both run by turns, so drift of the machine hits them alike. Arguments, caching and errors are those of
    `time_chain`; the budget is for both together.
    """
    _check((original,), budget_s)
    _check(chain, budget_s)
    old, new = _timed(((original,), tuple(chain)), threads, provider_name(provider), budget_s=budget_s, store=store)
    return old / new


def clear_cache() -> None:
    """Forget the figures of this process; those in a store stay."""
    _measured.clear()


def _check(specs: Sequence[ConvSpec], budget_s: float) -> None:
    if budget_s <= 0:
        raise OptionError(f"budget {budget_s} s: a measurement takes time; give a positive number")
    if not specs:
        raise ValueError("a chain has at least one layer")
    for spec in specs:
        if spec.in_size is None:
            raise ValueError(f"the input size is unknown, and with it the time: {spec}")
    for first, second in pairwise(specs):
        if (first.out_channels, first.out_size, first.batch) != (second.in_channels, second.in_size, second.batch):
            raise ValueError(f"a layer does not take what the one before gives: {first}, then {second}")


def _timed(chains: tuple[Chain, ...], threads: int, provider: str, *, budget_s: float,
           store: Store) -> tuple[float, ...]:
    """Seconds of each chain; measured together, by turns, unless these have been before."""
    key = (chains, threads, provider)
    if key not in _measured:
        kept = {} if store.folder is None else _kept_as(chains, threads, provider)
        found = store.value(_KIND, kept)
        _measured[key] = tuple(found) if found else _measure(chains, threads, provider, budget_s)
        if not found:
            store.put_value(_KIND, kept, _measured[key])
    return _measured[key]


def _kept_as(chains: tuple[Chain, ...], threads: int, provider: str) -> dict[str, Any]:
    """All that decides about a figure: machine, runtime and geometries (padding in numbers)."""
    geometries = [[asdict(spec) | {"pads": spec.explicit_pads, "auto_pad": EXPLICIT_PADS} for spec in chain]
                  for chain in chains]
    return {"method": _METHOD, "machine": machine_key(threads, provider), "chains": geometries}


def machine_key(threads: int, provider: str) -> dict[str, Any]:
    """Part of the key of a kept figure: the machine and the runtime that it holds for."""
    return {k: v for k, v in asdict(environment(threads=threads, provider=provider)).items() if k not in _ELSEWHERE}


def _measure(chains: tuple[Chain, ...], threads: int, provider: str, budget_s: float) -> tuple[float, ...]:
    with ExitStack() as stack:
        recordings = [stack.enter_context(recording(chain_model(chain).SerializeToString(), provider=provider,
                                                    options=timing_options(threads), where="microbenchmark"))
                      for chain in chains]
        feeds = [{"x": random_values((chain[0].batch, chain[0].in_channels, *(chain[0].in_size or ())))}
                 for chain in chains]
        pairs = [(recorded.session, feed) for recorded, feed in zip(recordings, feeds, strict=True)]
        start = time.perf_counter()
        rounds(pairs, budget_s / 3, least=1, most=_WARMUP_RUNS)
        left = start + budget_s - time.perf_counter()
        count = rounds(pairs, left, least=_MIN_RUNS, most=_MAX_RUNS)
        return tuple(_seconds(recorded.runs()[-count:]) for recorded in recordings)


def rounds(pairs: Sequence[tuple[Any, Feeds]], budget_s: float, *, least: int, most: int) -> int:
    """Run every session once per round, for the budget but at least and at most so often; returns how often."""
    deadline = time.perf_counter() + budget_s
    for count in range(1, most + 1):
        for session, feeds in pairs:
            run(session, feeds, where="microbenchmark")
        if count >= least and time.perf_counter() >= deadline:
            return count
    return most


def _seconds(runs: Sequence[Sequence[KernelRun]]) -> float:
    return fastest_quarter(math.fsum(kernel.seconds for kernel in between_neighbours(one)) for one in runs)


def fastest_quarter(seconds: Iterable[float]) -> float:
    """Mean of the fastest quarter of some runs: other processes only ever add to the time of a kernel."""
    totals = sorted(seconds)
    return statistics.fmean(totals[:max(len(totals) // 4, 1)])


def between_neighbours(kernels: Sequence[KernelRun]) -> Sequence[KernelRun]:
    """The kernels of the chain: those after the first neighbour, up to the second (all run one after the other).

    Other providers than the CPU's may compile all of it into one kernel: then it is that one, neighbours included.
    """
    ends = [k for k, kernel in enumerate(kernels) if kernel.op in _NEIGHBOURS]
    if len(ends) != 2 and any(kernel.provider not in ("", CPU) for kernel in kernels):
        return [kernel for kernel in kernels if kernel.op not in COPIES]
    if len(ends) != 2:
        raise RuntimeFailure(f"microbenchmark: onnxruntime ran {[kernel.op for kernel in kernels]}, in which the two "
                             f"neighbours of the chain cannot be told; the time of a chain cannot be measured")
    return kernels[ends[0] + 1:ends[1]]


def chain_model(specs: Sequence[ConvSpec]) -> onnx.ModelProto:
    """A model of the chain between two neighbours, input ``x`` and output ``y``, with seeded random float32 weights."""
    from onnx import TensorProto, helper, numpy_helper

    first, last = specs[0], specs[-1]
    neighbour = (_POOL, {"kernel_shape": (1,) * len(first.kernel)}) if first.kernel else (_ELEMENTWISE, {})
    layers = [neighbour, *map(_operator, specs), neighbour]
    weights = [{}, *map(_weights, specs), {}]
    seams = ["x", *(f"t{k}" for k in range(len(specs) + 1)), "y"]
    nodes = [helper.make_node(op, [seams[k], *(f"{name}{k}" for name in weights[k])], [seams[k + 1]], **attributes)
             for k, (op, attributes) in enumerate(layers)]
    tensors = [numpy_helper.from_array(array, f"{name}{k}")
               for k, own in enumerate(weights) for name, array in own.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (first.batch, first.in_channels, *(first.in_size or ())))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (last.batch, last.out_channels, *(last.out_size or ())))
    graph = helper.make_graph(nodes, "chain", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _weights(spec: ConvSpec) -> dict[str, Weights]:
    weight = random_values(spec.weight_shape) / np.float32(math.sqrt(spec.patch))  # keeps activations at about 1
    return {"w": weight, "b": random_values((spec.out_channels,))} if spec.bias else {"w": weight}


def _operator(spec: ConvSpec) -> tuple[str, dict[str, Any]]:
    """Operator and attributes of a layer."""
    if not spec.kernel:
        return "Gemm", {"transB": 1}
    attributes = {"kernel_shape": spec.kernel, "strides": spec.stride, "dilations": spec.dilation, "group": spec.groups}
    padding = {"pads": spec.pads} if spec.auto_pad == EXPLICIT_PADS else {"auto_pad": spec.auto_pad}
    return "Conv", attributes | padding


def random_values(shape: Ints) -> Weights:
    """Seeded standard-normal numbers; a block of them is repeated, for large weights would take long to draw."""
    values = np.random.default_rng(0).standard_normal(min(math.prod(shape), _RANDOM_VALUES), dtype=np.float32)
    return np.resize(values, shape)
