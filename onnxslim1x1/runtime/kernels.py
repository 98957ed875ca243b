"""What the profiler of onnxruntime recorded: the kernels of the main graph, run by run.

The profiler writes one JSON file per session. An event of category ``Node`` is one kernel; ``model_run`` closes a run;
``SequentialExecutor::Execute`` closes one execution of one graph. The body of an If, Loop or Scan is executed inside
the kernel of that node, so its own kernels are left out here: the outer one has their time already.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime.session import create_session, wrapped

Shape = tuple[int, ...]

_KERNEL = "_kernel_time"
_US = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelRun:
    """One kernel in one run.

    Attributes:
        node: name of its node.
        index: number of that node in the session.
        op: operator.
        seconds: how long it took.
        input_shapes: of its inputs without those left out.
        provider: execution provider that it belongs to; empty if the profiler does not tell.
    """

    node: str
    index: int
    op: str
    seconds: float
    input_shapes: tuple[Shape, ...]
    provider: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel over all measured runs: `seconds` is the median of its runs."""

    node: str
    op: str
    seconds: float
    provider: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A session that is being profiled."""

    session: Any
    where: str

    def runs(self) -> tuple[tuple[KernelRun, ...], ...]:
        """End the recording and return the kernels of every run so far, in the order of execution.

        Raises:
            RuntimeFailure: onnxruntime recorded nothing usable.
        """
        with wrapped(self.where, "write its profile"):
            path = Path(self.session.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
        return tuple(runs_of(events))


@contextmanager
def recording(source: bytes | Path, *, options: Any, provider: str | None = None,
              where: str = "model") -> Iterator[Recording]:
    """Load a model into a session that records its kernels; the profile does not stay on the disk.

    Args:
        source: serialized model, or path of one.
        options: `onnxruntime.SessionOptions`; profiling is turned on in them.
        provider: execution provider (None: CPU).
        where: what messages call the model.

    Raises:
        RuntimeFailure: onnxruntime refuses the model.
        OptionError: the provider is not offered.
    """
    with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = create_session(source, options=options, provider=provider, where=where)
        try:
            yield Recording(session=session, where=where)
        finally:
            session.end_profiling()  # closes the file if an error kept `runs` from doing so; else does nothing


def runs_of(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[KernelRun, ...]]:
    """Split a profile into runs and keep the kernels of the main graph.

    Events are recorded when they end. So the kernels of a graph execution are those at the tail of the list that began
    no earlier than it, and what an inner execution took away from the tail is missing when the outer one ends.
    """
    open_kernels: list[Mapping[str, Any]] = []
    executed: list[Mapping[str, Any]] = []
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            open_kernels.append(event)
        elif name == "SequentialExecutor::Execute":
            start = len(open_kernels)
            while start and open_kernels[start - 1]["ts"] >= event["ts"]:
                start -= 1
            executed = open_kernels[start:]
            del open_kernels[start:]
        elif name == "model_run":
            yield tuple(_kernel_run(e) for e in executed)
            open_kernels, executed = [], []


def _kernel_run(event: Mapping[str, Any]) -> KernelRun:
    args = event["args"]
    shapes = (shape for entry in args.get("input_type_shape", ()) for shape in entry.values())
    return KernelRun(node=event["name"].removesuffix(_KERNEL), index=int(args["node_index"]), op=args["op_name"],
                     seconds=event["dur"] * _US, provider=args.get("provider", ""),
                     input_shapes=tuple(tuple(shape) for shape in shapes))


def median_kernels(runs: Sequence[Sequence[KernelRun]], *, where: str = "model") -> tuple[Kernel, ...]:
    """Median over the runs of every kernel, in the order of execution.

    The main graph runs the same nodes in every run, so each kernel has as many values as there are runs.

    Raises:
        RuntimeFailure: there is no run, or none has a kernel.
    """
    times: dict[tuple[int, str, str, str], list[float]] = {}
    for run in runs:
        for kernel in run:
            key = (kernel.index, kernel.node, kernel.op, kernel.provider)
            times.setdefault(key, []).append(kernel.seconds)
    if not times:
        raise RuntimeFailure(f"{where}: the profiler of onnxruntime recorded no kernel; nothing can be measured")
    return tuple(Kernel(node=node, op=op, seconds=statistics.median(seconds), provider=provider)
                 for (_, node, op, provider), seconds in times.items())
