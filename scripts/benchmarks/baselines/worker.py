"""The child process: makes one model, and tells how long it took and how much memory it had at most.

    python -m baselines.worker JOB REPORT

JOB is a `Job` as JSON, REPORT the file to write. Each method runs in a process of its own, so peak memory is its own.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path

from .job import Job
from .methods import by_name

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Largest resident size of this process so far.

    From Linux's VmHWM: ru_maxrss also counts what the parent had in memory when it started the child.
    """
    if _STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main() -> None:
    job, report = Job.loads(sys.argv[1]), Path(sys.argv[2])
    make = by_name(job.method).make
    if make is None:
        raise SystemExit(f"{job.method}: makes no model")
    start = time.perf_counter()
    note = make(job)
    seconds = time.perf_counter() - start
    report.write_text(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "note": note}))


if __name__ == "__main__":
    main()
