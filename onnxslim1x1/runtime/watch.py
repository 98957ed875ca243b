"""How long onnxruntime may take to load a model, or to run it once on random inputs.

A damaged or hostile file can make a kernel compute for years (a loop, a count, a size), and nothing in onnxruntime
stops a kernel. The command line therefore gives up after a while that grows with the size of the file; the Python API
never does, for it cannot end the process that it lives in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BASE_S = 6.0
PER_MB_S = 1.0
_BUSY = 10.0  # the clock on the wall may show so many times the limit


@dataclass(slots=True)
class Watch:
    """What is done about a call that takes too long.

    Attributes:
        give_up: is told the message; None never gives up.
        limit_s: seconds for one call, 0 for no limit, or None for 6 and one more per MB of the model file.
    """

    give_up: Callable[[str], None] | None = None
    limit_s: float | None = None


WATCH = Watch()


@contextmanager
def watched(where: str, doing: str) -> Iterator[None]:
    """Give up if the block takes longer than it may.

    Args:
        where: path of the model.
        doing: what onnxruntime is doing with it.
    """
    allowed = allowed_s(where)
    if WATCH.give_up is None or not allowed:
        yield
        return
    message = (f"{where}: onnxruntime did not {doing} within {allowed:.3g} s; give smaller shapes with --input-shape, "
               "or more time with --run-limit (0: no limit)")
    done = threading.Event()
    threading.Thread(target=_wait, args=(done, allowed, message), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _wait(done: threading.Event, allowed: float, message: str) -> None:
    """Give up when the process has computed for too long; on a busy machine it mostly waits, but not without end."""
    start, used = time.monotonic(), time.process_time()
    while not done.wait(min(allowed, 0.25)):
        elapsed = time.monotonic() - start
        computed = time.process_time() - used
        if elapsed >= allowed and (computed >= allowed or elapsed >= _BUSY * allowed) and WATCH.give_up:
            WATCH.give_up(message)
            return


def allowed_s(where: str) -> float:
    """Seconds for one call with a model; 0 means that there is no limit, as for models in memory."""
    if WATCH.limit_s is not None:
        return WATCH.limit_s
    path = Path(where)
    try:
        size = sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}.data")) if file.exists())
    except (OSError, ValueError):
        return 0.0
    return BASE_S + PER_MB_S * size / 1e6 if size else 0.0
