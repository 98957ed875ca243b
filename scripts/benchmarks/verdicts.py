"""How far the verdicts of `validate` can be trusted: on this machine, and on a simulated one.

    python scripts/benchmarks/verdicts.py --models DIR --runs 200 --load --slowdown 0.05
    python scripts/benchmarks/verdicts.py --simulate 1000

On this machine each model of DIR is compared with itself, `--runs` times with `--time` seconds: every claim of a
difference is false. With `--load` another process keeps the last core busy meanwhile. With `--slowdown` a model that
computes the same, but takes so much longer by a planted convolution, is compared with it `--tries` times, with
`--long` seconds. Prints tables and writes the figures behind them to `--json`: a row for each model with the machine
that it was measured on. Rows of other models stay in the file; a model that is measured again replaces its row.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from noisy_machine import verdicts
from planted import Planted, feeds_of, plant

from onnxslim1x1.graph.save import write_text
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.runtime.benchmark import BenchmarkSettings, LatencyComparison, compare_models
from onnxslim1x1.runtime.hardware import environment

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
RUNS_PER_PROCESS = 10  # a process has its own places in memory
LIMIT_S = 60  # within which a slower model has to be told apart
MOST_ROUNDS = 5000
CASES = ((1.0, 1.0), (1.0, 5.0), (1.05, 1.0), (1.1, 1.0), (1.05, 5.0), (1.1, 5.0))  # time of B over A, seconds


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that computes all the time, on the last core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        if sys.platform == "linux":
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        try:
            yield
        finally:
            process.kill()


def against_itself(path: Path, settings: BenchmarkSettings) -> tuple[LatencyComparison, float]:
    """One comparison of a model with itself, and the seconds that it took."""
    start = time.perf_counter()
    found = compare_models(path, path, feeds=feeds_of(path), settings=settings)
    return found, time.perf_counter() - start


def false_alarms(path: Path, settings: BenchmarkSettings, runs: int) -> dict[str, Any]:
    """Verdicts on a model and itself."""
    found, seconds = [], []
    while len(found) < runs:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for _ in range(min(RUNS_PER_PROCESS, runs - len(found))):
                one, took = pool.submit(against_itself, path, settings).result()
                found.append(one)
                seconds.append(took)
                _show(f"{path.stem}: {len(found)} of {runs}")
    claims = [jsonable(one) | {"samples": None} for one in found if one.verdict != "no difference shown"]
    ratios = np.array([one.speedup for one in found])
    return {"model": path.stem, "time_s": settings.budget_s, "runs": runs, "claims": len(claims), "claimed": claims,
            "verdicts": Counter(one.verdict for one in found), "seconds": float(np.median(seconds)),
            "speedup_quantiles": np.quantile(ratios, (0, 0.05, 0.5, 0.95, 1)).tolist(),
            "noise_floor_quantiles": np.quantile([one.noise_floor for one in found], (0, 0.5, 1)).tolist(),
            "rounds": float(np.median([one.original.runs for one in found])),
            "sittings": float(np.median([one.sittings for one in found]))}


def detections(path: Path, slowdown: float, settings: BenchmarkSettings, tries: int) -> dict[str, Any]:
    """How often a slower model is told apart in time."""
    feeds = feeds_of(path)
    planted: Planted = plant(path, slowdown, settings=BenchmarkSettings(budget_s=4.0, max_rounds=MOST_ROUNDS,
                                                                        threads=settings.threads), feeds=feeds)
    found, seconds = [], []
    for _ in range(tries):
        start = time.perf_counter()
        found.append(compare_models(path, planted.model, feeds=feeds, settings=settings))
        seconds.append(time.perf_counter() - start)
        _show(f"{path.stem}: {len(found)} of {tries} slowed down by {planted.slower - 1:.1%}")
    hits = sum(one.verdict == "slower" and took <= LIMIT_S for one, took in zip(found, seconds, strict=True))
    return {"model": path.stem, "time_s": settings.budget_s, "planted": planted.where,
            "slower": planted.slower - 1, "tries": tries,
            "detected": hits, "verdicts": Counter(one.verdict for one in found), "seconds": max(seconds),
            "measured": [1 / one.speedup - 1 for one in found],
            "low": [1 / one.speedup_high - 1 for one in found], "high": [1 / one.speedup_low - 1 for one in found],
            "noise_floor": [one.noise_floor - 1 for one in found], "sittings": [one.sittings for one in found]}


def simulated(count: int) -> list[dict[str, Any]]:
    """Verdicts on a simulated machine that is as busy as a shared one."""
    rows = []
    for slower, budget_s in CASES:
        found = verdicts(range(count), BenchmarkSettings(budget_s=budget_s, max_rounds=MOST_ROUNDS), slower=slower)
        rows.append({"slower": slower - 1, "budget_s": budget_s, "comparisons": count, "verdicts": found})
        print(f"{slower - 1:8.0%} slower, {budget_s:3.0f} s: {found['slower'] / count:7.2%} slower, "
              f"{found['faster'] / count:6.2%} faster, {found['no difference shown'] / count:7.2%} no difference shown",
              flush=True)
    return rows


def _show(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")


def _on_this_machine(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    settings = BenchmarkSettings(budget_s=options.time, min_rounds=5, max_rounds=MOST_ROUNDS, warmup_runs=1,
                                 warmup_s=0.05, threads=options.threads)
    paths = [p for p in sorted(options.models.glob("*.onnx")) if not options.only or p.stem in options.only]
    for path in paths if options.runs else ():
        row = false_alarms(path, settings, options.runs)
        low, high = row["speedup_quantiles"][0], row["speedup_quantiles"][-1]
        print(f"{path.stem:26} {row['claims']:3} claims in {row['runs']} comparisons of {row['seconds']:.1f} s, "
              f"ratios {low:.3f} to {high:.3f}, {row['sittings']:.0f} sittings", flush=True)
        yield "against_itself", row
    long = BenchmarkSettings(budget_s=options.long, max_rounds=MOST_ROUNDS, threads=options.threads)
    for path in paths if options.slowdown else ():
        row = detections(path, options.slowdown, long, options.tries)
        print(f"{path.stem:26} {row['detected']:2} of {row['tries']} found: {row['slower']:.1%} slower by "
              f"{row['planted']}, at most {row['seconds']:.0f} s", flush=True)
        yield "slowed_down", row


def main() -> None:
    options = _arguments()
    document = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    if options.simulate:
        document["simulated"] = simulated(options.simulate)
        _write(options.json, document)
    machine = {"environment": jsonable(environment(threads=options.threads)), "load": options.load}
    with ExitStack() as stack:
        if options.load:
            stack.enter_context(busy_core())
        for key, row in _on_this_machine(options) if options.models else ():
            others = [known for known in document.get(key, ()) if known["model"] != row["model"]]
            document[key] = [*others, row | machine]
            _write(options.json, document)


def _write(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = partial(parser.add_argument)
    option("--models", type=Path, help="folder with models")
    option("--only", nargs="*", help="names of models, without .onnx")
    option("--runs", type=int, default=200, help="comparisons of each model with itself")
    option("--time", type=float, default=1.0, help="seconds for each of them")
    option("--load", action="store_true", help="keep the last core busy meanwhile")
    option("--slowdown", type=float, default=0.0, help="plant a convolution that costs about this part, such as 0.05")
    option("--tries", type=int, default=10, help="comparisons with the slowed-down model")
    option("--long", type=float, default=45.0, help="seconds for each of them, loading and warming up not counted")
    option("--threads", type=int, default=1)
    option("--simulate", type=int, default=0, metavar="N", help="comparisons on a simulated machine, for each case")
    option("--json", type=Path, default=RESULTS, help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
