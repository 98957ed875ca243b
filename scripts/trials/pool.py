"""Child processes that are reused, killed when they hang, and replaced when they die."""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

HANG_S = 10.0
_BUSY = 10.0  # the clock on the wall may show so many times the limit
_START_S = 120.0
_PATIENCE_S = 300.0
_RENEW = 400  # requests after which a child is replaced, so that what libraries keep cannot add up
_SCRIPTS = Path(__file__).resolve().parents[1]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request.

    Attributes:
        kind: ``done``, ``traceback``, ``hang`` or ``crash``.
        code: exit code of a command, or the signal that ended the child.
        out: standard output.
        err: standard error, or the traceback.
        result: what a function returned.
        seconds: that it took.
        peak_bytes: largest resident size meanwhile, 0 where that cannot be measured.
    """

    kind: str
    code: int | None = None
    out: str = ""
    err: str = ""
    result: Any = None
    seconds: float = 0.0
    peak_bytes: int = 0


class Worker:
    """One child process; requests follow one another.

    Attributes:
        patience: factor on the seconds after which a command counts as hanging.
    """

    def __init__(self, *, hang_s: float = HANG_S, folder: Path | None = None) -> None:
        self.patience = 1.0
        self._hang_s, self._folder = hang_s, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def command(self, *argv: str | Path) -> Answer:
        """Run a command of onnxslim1x1."""
        return self._ask({"argv": [str(a) for a in argv]}, self._hang_s * self.patience)

    def call(self, target: str, **arguments: Any) -> Answer:
        """Call ``module:function`` with arguments that JSON can hold; checks of ours may take longer than commands."""
        return self._ask({"call": target, "args": arguments}, _PATIENCE_S)

    def stop(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: dict[str, Any], limit_s: float) -> Answer:
        if self._process is None or self._served >= _RENEW:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._served += 1
        start = time.monotonic()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._line(limit_s)
        if line is None:
            self.stop()
            return Answer(kind="hang", seconds=time.monotonic() - start)
        if not line:
            self._process.communicate()  # waits, and closes its pipes
            code, self._process = self._process.returncode, None
            return Answer(kind="crash", code=code, seconds=time.monotonic() - start)
        found = json.loads(line)
        trace = found.pop("traceback")
        if trace:
            return Answer(kind="traceback", **(found | {"err": trace}))
        return Answer(kind="done", **found)

    def _start(self) -> None:
        self.stop()
        path = os.pathsep.join(filter(None, (str(_SCRIPTS), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
        self._process = subprocess.Popen([sys.executable, "-m", "trials.worker"], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, env=environment, cwd=self._folder)
        self._served = 0
        if not self._line(_START_S):
            raise RuntimeError("a child process does not start: run python -m trials.worker in scripts/")

    def _line(self, limit_s: float) -> bytes | None:
        """The next line of the child, empty if it died, None if it takes too long.

        What counts is the time that it computes, for on a busy machine a child mostly waits; but not without end.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        handle, text = self._process.stdout.fileno(), b""
        start, used = time.monotonic(), _cpu_s(self._process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(min(limit_s, 1.0)):
                    elapsed = time.monotonic() - start
                    if elapsed > limit_s and (_cpu_s(self._process.pid) - used > limit_s or elapsed > _BUSY * limit_s):
                        return None
                    continue
                piece = os.read(handle, 1 << 20)
                if not piece:
                    return b""
                text += piece
        return text


def _cpu_s(pid: int) -> float:
    """Seconds that a process has computed (Linux; elsewhere the clock on the wall)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(task: Callable[[Worker, T], R], items: Iterable[T], *, workers: int = 2, hang_s: float = HANG_S,
           folder: Path | None = None) -> Iterator[R]:
    """Do a task for every item, each in one of several children; results come as they are ready."""
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[R | BaseException] = queue.SimpleQueue()
    count = 0
    for item in items:
        todo.put(item)
        count += 1

    def work() -> None:
        with Worker(hang_s=hang_s, folder=folder) as worker:
            while True:
                try:
                    item = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put(task(worker, item))
                except BaseException as error:  # the main thread raises it
                    done.put(error)
                    return

    for _ in range(min(workers, count)):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(count):
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        yield result
