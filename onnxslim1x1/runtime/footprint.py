"""What a model takes up besides time: seconds to load, memory, size; and whether denormal numbers slow it down.

All but the size is measured in a process of its own, which has nothing else in memory and whose threads may be set to
treat denormal numbers as zero without doing so to anybody else.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime.benchmark import timing_options
from onnxslim1x1.runtime.evidence import Footprint
from onnxslim1x1.runtime.session import Feeds, create_session, fed, run

_FEWEST_LOADS, _MOST_LOADS = 3, 9
_LOADING_S = 1.0  # after which there are no more loads than the fewest
_PROBE_S = 0.5
_FEWEST_PROBES = 3
_STATUS = Path("/proc/self/status")
_HELD = "mem_arena_held"  # what onnxruntime's profile calls the bytes of its arena, from 1.27 or so on
_FLUSH = "session.set_denormal_as_zero"


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What the process is to measure: a model on feeds, with so many threads, on an execution provider."""

    path: Path
    feeds: Feeds
    threads: int = 0
    provider: str | None = None


def measure_footprint(errand: Errand, *, file_bytes: int) -> Footprint:
    """Load and run a model in a process of its own.

    Args:
        errand: what to load and run.
        file_bytes: size of the file with its external data.

    Raises:
        RuntimeFailure: the process fails, though its parent could run the model.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]  # -P: not from the current folder
    done = subprocess.run(command, input=pickle.dumps(errand), capture_output=True, check=False,
                          env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeFailure(f"{errand.path}: its memory cannot be measured, because a process of its own cannot run "
                             f"it ({said[-1][:400]}); free some memory")
    return Footprint(**json.loads(done.stdout), file_bytes=file_bytes)


def main() -> None:
    """In the process: an `Errand` comes in, fields of a `Footprint` go out; what libraries print is no part of them."""
    out = os.dup(1)
    os.dup2(2, 1)
    errand = pickle.load(sys.stdin.buffer)
    with os.fdopen(out, "w", encoding="utf-8") as stream:
        json.dump(footprint_here(errand), stream)


def footprint_here(errand: Errand) -> dict[str, float | int | None]:
    """The same in this process, which should have done nothing else, as fields of a `Footprint`."""
    flushing = flushing_thread()
    before = resident_bytes()
    session = _session(errand)
    run(session, errand.feeds)
    run(session, errand.feeds)  # memory patterns, which the first run finds out, are used from the second on
    after = resident_bytes()
    resident = None if before is None or after is None else max(0, after - before)
    slowdown = _denormal_slowdown(errand, session, flushing)
    del session
    return {"load_s": _load_s(errand), "arena_bytes": _arena_bytes(errand), "resident_bytes": resident,
            "denormal_slowdown": slowdown}


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell (only Linux does)."""
    if not _STATUS.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def flushing_thread() -> ThreadPoolExecutor:
    """A thread that treats denormal numbers as zero, in a process that has had no session yet; no other does so.

    The first session of a process decides it, for the thread that makes it and from then on; later ones decide it for
    their worker threads only (`onnxruntime_session_options_config_keys.h`).
    """
    pool = ThreadPoolExecutor(1)
    pool.submit(_first_session).result()
    return pool


def _first_session() -> None:
    """Load and run a model of one operator, so that the libraries are in memory before anything is counted."""
    import numpy as np
    import onnx

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        first (float[1, 16, 8, 8] x, float[16, 16, 1, 1] w) => (float[1, 16, 8, 8] y) { y = Conv(x, w) }""")
    session = create_session(model.SerializeToString(), options=_options(1, flush=True))
    run(session, {"x": np.ones((1, 16, 8, 8), np.float32), "w": np.ones((16, 16, 1, 1), np.float32)})


def _options(threads: int, *, flush: bool = False) -> Any:
    options = timing_options(threads)
    if flush:
        options.add_session_config_entry(_FLUSH, "1")
    return options


def _session(errand: Errand, options: Any = None) -> Any:
    return create_session(errand.path, options=options or _options(errand.threads), provider=errand.provider)


def _load_s(errand: Errand) -> float:
    """Median seconds to create a session; the file is in the cache of the system by now."""
    seconds: list[float] = []
    while len(seconds) < _FEWEST_LOADS or (len(seconds) < _MOST_LOADS and sum(seconds) < _LOADING_S):
        begin = time.perf_counter()
        session = _session(errand)
        seconds.append(time.perf_counter() - begin)
        del session
    return median(seconds)


def _arena_bytes(errand: Errand) -> int | None:
    """Most bytes that the arena held at the end of any operator, by onnxruntime's profile; None if it says nothing."""
    with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
        options = _options(errand.threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = _session(errand, options)
        run(session, errand.feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    held = [int(event["args"][_HELD]) for event in events if _HELD in event.get("args", {})]
    return max(held, default=None)


def _denormal_slowdown(errand: Errand, session: Any, flushing: ThreadPoolExecutor) -> float:
    """Time of a run over that of one with denormal numbers as zero, of several by turns.

    The lesser of two ratios, that of the quickest runs and the median of neighbours: denormal numbers raise both, a
    busy machine often but one of them (1.5 of ResNet-56, which has no such numbers, at a load of 12 on 2 cores).
    """
    inputs = fed(errand.feeds)
    flushed = flushing.submit(_session, errand, _options(errand.threads, flush=True)).result()

    def seconds(of: Any) -> float:
        begin = time.perf_counter()
        of.run(None, inputs)
        return time.perf_counter() - begin

    flushing.submit(seconds, flushed).result()
    usual, zero, start = list[float](), list[float](), time.perf_counter()
    while len(usual) < _FEWEST_PROBES or time.perf_counter() - start < _PROBE_S:
        usual.append(seconds(session))
        zero.append(flushing.submit(seconds, flushed).result())
    return min(min(usual) / min(zero), median(a / b for a, b in zip(usual, zero, strict=True)))
