"""Where the time of a model goes: seconds of every source node, measured with all optimisations of onnxruntime on.

Two sessions run by turns: a plain one for the latency that a user sees, and one whose kernels the profiler records
(slower between the kernels, for it notes an event for each). `onnxslim1x1.runtime.attribution` maps kernels to nodes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime.attribution import Attribution, Share, attribute
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, Latency, Progress, timing_options
from onnxslim1x1.runtime.canonical import Canonical, canonical_copy
from onnxslim1x1.runtime.kernels import Kernel, Recording, Shape, median_kernels, recording
from onnxslim1x1.runtime.session import CPU, Feeds, create_session, provider_name, run

if TYPE_CHECKING:
    import onnx

PROFILE_SETTINGS = BenchmarkSettings(budget_s=2.0, min_rounds=5, max_rounds=50, warmup_runs=3, warmup_s=0.0)

_BESIDE_FROM = 1 << 30  # bytes of weights from which they go to a file beside the model (a message holds 2 GiB)
_OPTIMISED = "optimised.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTime:
    """What one source node costs.

    Attributes:
        index: of the node in ``model.graph.node``.
        op: its operator.
        seconds: of the kernels that compute it and what was fused into them, per run; 0 if it was absorbed, folded or
            eliminated.
        inserted_s: of the reorders, transposes and casts that onnxruntime put in for it, per run.
        absorbed_into: index of the node whose `seconds` contain this one, or None.
        kernels: operators of the kernels that computed it, in the order of execution.
        providers: execution providers of these kernels, each once; of a node without kernels the one that all kernels
            have that could not be mapped, since it may have run in them (some providers compile parts of the graph).
        input_shapes: of its inputs without those left out, as seen in a run without optimisations (so without padded
            channels or folded pads); empty for a call of a function.
    """

    index: int
    op: str
    seconds: float
    inserted_s: float
    absorbed_into: int | None
    kernels: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelProfile:
    """Where the time of a model goes. Seconds are per run: each kernel counts with the median over the runs.

    Attributes:
        nodes: one entry per node of the main graph, in its order.
        end_to_end: latency of the plain session.
        profiled_s: median seconds of a run of the profiled session.
        total_kernel_s: of all kernels; the sum of `by_op`, and of `mapped_s` and `unmapped`.
        mapped_s: of the kernels that belong to a source node, the inserted ones included.
        reorder_s: of all layout reorders, inserted transposes and device copies.
        cast_s: of all inserted casts.
        by_op: operator and seconds of all kernels, the most expensive first.
        unmapped: name, operator and seconds of kernels that could not be mapped.
        feed_shapes: name and shape of what the model was fed.
    """

    nodes: tuple[NodeTime, ...]
    end_to_end: Latency
    profiled_s: float
    total_kernel_s: float
    mapped_s: float
    reorder_s: float
    cast_s: float
    by_op: tuple[tuple[str, float], ...]
    unmapped: tuple[tuple[str, str, float], ...]
    feed_shapes: tuple[tuple[str, Shape], ...]

    @property
    def overhead_s(self) -> float:
        """Seconds of a plain run outside of the kernels: what onnxruntime does between them, and the feeding.

        Negative where the profiler slows the kernels themselves down by more than that.
        """
        return self.end_to_end.median_s - self.total_kernel_s

    @property
    def profiling_s(self) -> float:
        """Seconds that the profiler adds to a run."""
        return self.profiled_s - self.end_to_end.median_s


def profile_model(model: onnx.ModelProto, feeds: Feeds, *, settings: BenchmarkSettings = PROFILE_SETTINGS,
                  progress: Progress | None = None, where: str = "model") -> ModelProfile:
    """Measure what every node of the main graph costs.

    One run without optimisations (for the shapes) comes first, then `settings.warmup_runs` unmeasured runs of the
    plain and of the profiled session, then as many rounds of both as fit into `settings.budget_s`.

    Args:
        model: with its weights inside.
        feeds: for every input that is not also an initializer.
        settings: how long and with how many threads; the seed is not used.
        progress: is told the fraction done, in (0, 1].
        where: what messages call the model.

    Raises:
        RuntimeFailure: onnxruntime refuses the model or fails while running it.
        OptionError: the provider is not offered.
    """
    source = canonical_copy(model)
    with TemporaryDirectory(prefix="onnxslim1x1-") as name:
        loadable = _loadable(source, Path(name))
        shapes = _input_shapes(source, loadable, feeds=feeds, settings=settings, where=where)
        plain = create_session(loadable, options=timing_options(settings.threads), provider=settings.provider,
                               where=where)
        with _recorded(loadable, Path(name), settings, where) as profiled:
            walls = _alternate((plain, profiled.session), feeds, settings=settings, progress=progress, where=where)
            runs = profiled.runs()[-len(walls[0]):]  # the warm-up comes before them
        result = attribute(median_kernels(runs, where=where), source, _optimised_graph(Path(name)))
    latency = _latency(walls[0], provider=plain.get_providers()[0], threads=settings.threads)
    return _profile(result, _node_times(result, source, shapes), latency=latency,
                    profiled_s=statistics.median(walls[1]), feeds=feeds)


def observed_input_shapes(model: onnx.ModelProto, feeds: Feeds, *,
                          where: str = "model") -> dict[int, tuple[Shape, ...]]:
    """Shapes that the inputs of every node of the main graph really have, found by one run without optimisations.

    Works where shape inference does not (operators that ONNX does not know, shapes that depend on values).
    Inputs that are left out are left out here, too.

    Returns:
        index in ``model.graph.node`` -> shapes; a node that did not run, or that is a function, is missing.

    Raises:
        RuntimeFailure: onnxruntime refuses the model or fails while running it.
    """
    source = canonical_copy(model)
    with TemporaryDirectory(prefix="onnxslim1x1-") as name:
        loadable = _loadable(source, Path(name))
        return _input_shapes(source, loadable, feeds=feeds, settings=PROFILE_SETTINGS, where=where)


def _input_shapes(source: Canonical, loadable: bytes | Path, *, feeds: Feeds, settings: BenchmarkSettings,
                  where: str) -> dict[int, tuple[Shape, ...]]:
    import onnxruntime as ort

    options = timing_options(settings.threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # a packed weight has no shape to report
    with recording(loadable, options=options, provider=settings.provider, where=where) as recorded:
        run(recorded.session, feeds, where=where, limited=True)
        (kernels,) = recorded.runs()
    indices = {f"{source.mark}{i}": i for i in range(len(source.ops))}
    return {indices[kernel.node]: kernel.input_shapes for kernel in kernels if kernel.node in indices}


def _loadable(source: Canonical, folder: Path) -> bytes | Path:
    """What a session can be made from: the serialized model, or a path in `folder` where the weights are too large."""
    import onnx

    if _weight_bytes(source.model) < _BESIDE_FROM:
        return source.model.SerializeToString()
    path = folder / "model.onnx"
    onnx.save_model(source.model, str(path), save_as_external_data=True, location="model.bin")
    return path


def _weight_bytes(model: onnx.ModelProto) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    return sum(math.prod(t.dims) * tensor_dtype_to_np_dtype(t.data_type).itemsize for t in model.graph.initializer)


@contextmanager
def _recorded(loadable: bytes | Path, folder: Path, settings: BenchmarkSettings, where: str) -> Iterator[Recording]:
    """A session that is being profiled and has saved its optimised graph in `folder`, if its provider can do that."""
    with ExitStack() as stack:
        options = timing_options(settings.threads)
        options.optimized_model_filepath = str(folder / _OPTIMISED)
        if isinstance(loadable, Path):
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.bin")
        try:
            found = stack.enter_context(recording(loadable, options=options, provider=settings.provider, where=where))
        except RuntimeFailure:
            if provider_name(settings.provider) == CPU:
                raise
            # providers that compile parts of the graph cannot save it
            found = stack.enter_context(recording(loadable, options=timing_options(settings.threads),
                                                  provider=settings.provider, where=where))
        yield found


def _optimised_graph(folder: Path) -> onnx.GraphProto:
    """The graph that was saved, or an empty one."""
    import onnx

    path = folder / _OPTIMISED
    return onnx.load(str(path), load_external_data=False).graph if path.is_file() else onnx.GraphProto()


def _alternate(sessions: Sequence[Any], feeds: Feeds, *, settings: BenchmarkSettings, progress: Progress | None,
               where: str) -> tuple[list[float], ...]:
    """Seconds of every measured run of each session; they run by turns, so drift of the machine hits all alike."""
    for _ in range(settings.warmup_runs):
        for session in sessions:
            run(session, feeds, where=where, limited=True)
    walls: tuple[list[float], ...] = tuple([] for _ in sessions)
    start, done = time.perf_counter(), 0.0
    while done < 1.0:
        for session, seconds in zip(sessions, walls, strict=True):
            begin = time.perf_counter()
            run(session, feeds, where=where)
            seconds.append(time.perf_counter() - begin)
        done = settings.fraction_done(len(walls[0]), time.perf_counter() - start)
        if progress is not None:
            progress(done)
    return walls


def _latency(seconds: Sequence[float], *, provider: str, threads: int) -> Latency:
    p10, median, p90 = np.quantile(seconds, (0.1, 0.5, 0.9)).tolist()
    return Latency(median_s=median, p10_s=p10, p90_s=p90, runs=len(seconds), provider=provider, threads=threads)


def _node_times(result: Attribution, source: Canonical,
                shapes: Mapping[int, tuple[Shape, ...]]) -> tuple[NodeTime, ...]:
    own: dict[int | None, list[Share]] = {}
    for share in result.shares:
        own.setdefault(share.node, []).append(share)
    lost = _providers(share.kernel for share in own.get(None, ()))
    times = []
    for i, ops in enumerate(source.ops):
        computing = [share.kernel for share in own.get(i, ()) if share.kind == "compute"]
        inserted = [share.kernel for share in own.get(i, ()) if share.kind != "compute"]
        times.append(NodeTime(index=i, op=ops[0], seconds=math.fsum(k.seconds for k in computing),
                              inserted_s=math.fsum(k.seconds for k in inserted),
                              absorbed_into=result.absorbed.get(i), kernels=tuple(k.op for k in computing),
                              providers=_providers(computing) or (lost if len(lost) == 1 else ()),
                              input_shapes=shapes.get(i, ())))
    return tuple(times)


def _providers(kernels: Iterable[Kernel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kernel.provider for kernel in kernels if kernel.provider))


def _profile(result: Attribution, nodes: tuple[NodeTime, ...], *, latency: Latency, profiled_s: float,
             feeds: Feeds) -> ModelProfile:
    def total(shares: Iterable[Share]) -> float:
        return math.fsum(share.kernel.seconds for share in shares)

    by_op = {op: total(s for s in result.shares if s.kernel.op == op) for op in {s.kernel.op for s in result.shares}}
    return ModelProfile(
        nodes=nodes, end_to_end=latency, profiled_s=profiled_s, total_kernel_s=total(result.shares),
        mapped_s=total(s for s in result.shares if s.node is not None),
        reorder_s=total(s for s in result.shares if s.kind == "reorder"),
        cast_s=total(s for s in result.shares if s.kind == "cast"),
        by_op=tuple(sorted(by_op.items(), key=lambda item: (-item[1], item[0]))),
        unmapped=tuple((s.kernel.node, s.kernel.op, s.kernel.seconds) for s in result.shares if s.node is None),
        feed_shapes=tuple((name, tuple(array.shape)) for name, array in feeds.items()),
    )
