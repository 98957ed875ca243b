"""The child process: runs what it is told on standard input, one request a line, and answers each with one line.

A request is the JSON of ``{"argv": [...]}`` (a command of onnxslim1x1, run by its own `main` in this process) or of
``{"call": "module:function", "args": {...}}``. Whatever is printed meanwhile, by C++ code too, is part of the answer.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

MEMORY_LIMIT = 6 << 30  # bytes: what wants more than this must not take the machine down
_MARK = "ready"


def _command(argv: list[str]) -> int:
    from onnxslim1x1.cli.main import main
    from onnxslim1x1.cli.options import Debug
    from onnxslim1x1.cli.output import give_up
    from onnxslim1x1.runtime.watch import WATCH

    Debug.enabled, WATCH.give_up = False, give_up
    sys.argv = ["onnxslim1x1", *argv]
    try:
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    return 0


def _call(target: str, arguments: dict[str, Any]) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def _peak_bytes(*, forget: bool = False) -> int:
    """Largest resident size since it was last forgotten (Linux; 0 elsewhere)."""
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    _peak_bytes(forget=True)
    start = time.monotonic()
    answer: dict[str, Any] = {"code": None, "result": None, "traceback": None}
    try:
        if "argv" in request:
            answer["code"] = _command(request["argv"])
        else:
            answer["result"] = _call(request["call"], request["args"])
    except Exception:
        answer["traceback"] = traceback.format_exc()
    return answer | {"seconds": time.monotonic() - start, "peak_bytes": _peak_bytes()}


def _limit_memory() -> None:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = MEMORY_LIMIT if limit == resource.RLIM_INFINITY else min(limit, MEMORY_LIMIT)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, limit))


def serve() -> None:
    """Answer requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    _limit_memory()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:  # noqa: PTH123
        for source, target in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(source.fileno(), target)
        print(_MARK, file=answers, flush=True)
        for line in requests:
            for file in (out, err):
                file.seek(0)
                file.truncate()
            answer = _answer(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            answer |= {"out": _text(out), "err": _text(err)}
            print(json.dumps(answer), file=answers, flush=True)


def _text(file: Any) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode("utf-8", errors="replace")


if __name__ == "__main__":
    serve()
