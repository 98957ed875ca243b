"""Compare `slim` with published ways to compress a model without training; prints a table, writes the JSON behind it.

    python scripts/benchmarks/compression.py DATA --out scripts/benchmarks/results/compression.json --plot front.svg

Needs the extra `bench`. DATA holds `models/*.onnx` and the images that `CASES` names; a case whose files are missing is
left out and said so. Every method gets the same model, the same calibration images (no labels) and, if it follows one,
the same budget of MACs. It runs in a process of its own with an empty cache, so that seconds and peak memory are its
own and those of a first run. The model that it writes is measured against the original on labelled images, and timed in
rounds that interleave the two.

`ours` also writes its plan, and the rows of its ablation carry that plan out with fewer steps: their seconds are those
of that alone. Plans stand next to the file of --out.

With --out, finished rows are reused by the next run: an interrupted run goes on where it was. A row is measured again
if it was measured under other conditions (images, threads, processor, versions), or with --fresh; a change of the code
is not noticed, so give --fresh with --methods after one. --seeds repeats `ours` with random subsets of the calibration
images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from baselines import table
from baselines.job import Job
from baselines.measure import ChildFailed, Measuring, measure
from baselines.methods import METHODS, Method, by_name
from baselines.ours import OURS
from baselines.store import KEY, Row, Store

from onnxslim1x1 import __version__
from onnxslim1x1.api import DataOptions, RunOptions
from onnxslim1x1.errors import SlimError
from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.preprocess import preprocess


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model and its images, relative to DATA; `most` calibration images are used."""

    name: str
    model: str
    calibration: str
    evaluation: str
    preset: str
    most: int


_CIFAR: dict[str, Any] = {"calibration": "cifar10/calibration.npz", "evaluation": "cifar10/evaluation.npz",
                          "preset": "cifar10", "most": 1024}
_IMAGENET: dict[str, Any] = {"calibration": "imagenet/calibration", "evaluation": "imagenet/evaluation",
                             "preset": "imagenet", "most": 500}
CASES = (
    Case(name="resnet20", model="cifar10_resnet20.onnx", **_CIFAR),
    Case(name="resnet56", model="cifar10_resnet56.onnx", **_CIFAR),
    Case(name="resnet18", model="imagenet_resnet18.onnx", **_IMAGENET),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One row to measure."""

    method: Method
    budget: float | None
    seed: int | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    with TemporaryDirectory(prefix="compression-") as scratch:
        options.scratch = Path(scratch)
        _run(options)


def _run(options: argparse.Namespace) -> None:
    store = Store(options.out)
    store.environment(environment(threads=max(options.threads)))
    for case in (c for c in CASES if c.name in options.models):
        missing = [p for p in (f"models/{case.model}", case.calibration, case.evaluation)
                   if not (options.data / p).exists()]
        if missing:
            print(f"\n{case.name}: left out, {', '.join(missing)} missing")
            continue
        _run_case(case, store, options)
    if options.plot:
        from baselines.plot import plot

        plot([row for row in store.rows if row["model"] in options.models], options.plot)


def _run_case(case: Case, store: Store, options: argparse.Namespace) -> None:
    conditions = _conditions(case, options)
    rows: list[Row] = []
    for task in _tasks(options):
        key = dict(zip(KEY, (case.name, task.budget, task.method.name, task.seed), strict=True))
        row = None if options.fresh else store.find(key, conditions)
        if row is None:
            row = key | {"conditions": conditions} | _figures(case, task, options)
            store.add(row)
        if not rows:
            print(table.head(case.name, row))
        print(table.line(row), flush=True)
        rows.append(row)
    for budget in options.budgets:
        seeded = [r for r in rows if r["seed"] is not None and r["budget"] == budget and "error" not in r]
        if len(seeded) > 1:
            print(table.spread(seeded))


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    """Methods without a budget once, then budget by budget, then the seeds."""
    chosen = [m for m in METHODS if m.name in options.methods]
    yield from (Task(method=m, budget=None) for m in chosen if not m.budgeted)
    for budget in options.budgets:
        yield from (Task(method=m, budget=budget) for m in chosen if m.budgeted)
        yield from (Task(method=by_name(OURS), budget=budget, seed=seed) for seed in options.seeds)


def _figures(case: Case, task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """What is measured, or why nothing is."""
    evaluation = DataOptions(path=(options.data / case.evaluation).resolve(), preprocess=preprocess(case.preset),
                             limit=options.evaluation_limit)
    how = Measuring(evaluation=evaluation, threads=tuple(options.threads), seconds=options.time)
    plans = (options.out.parent if options.out else options.scratch) / "plans"
    with TemporaryDirectory(prefix="compression-") as folder:
        job = Job(method=task.method.name, model=str((options.data / "models" / case.model).resolve()),
                  calibration=str((options.data / case.calibration).resolve()), preset=case.preset, budget=task.budget,
                  seed=task.seed, limit=_limit(case, options), threads=max(options.threads),
                  output=str(Path(folder) / "model.onnx"),
                  plan=None if task.seed is not None else str(plans / f"{case.name}-{task.budget}.json"))
        try:
            return measure(job, task.method, how, latency=task.seed is None)
        except (ChildFailed, SlimError) as error:
            return {"error": str(error).replace(str(options.data.resolve()), "DATA")}


def _limit(case: Case, options: argparse.Namespace) -> int:
    return min(case.most, options.limit or case.most)


def _conditions(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """What two rows must have in common to stand in one table."""
    machine = environment(threads=max(options.threads))
    model = load(options.data / "models" / case.model)
    calibration = DataOptions(path=options.data / case.calibration, preprocess=preprocess(case.preset),
                              limit=_limit(case, options)).open(model, RunOptions().shapes(model))
    return {"sha256": model.sha256(), "calibration_images": len(calibration),
            "evaluation_limit": options.evaluation_limit, "threads": options.threads, "cpu": machine.cpu,
            "block": machine.block, "onnxruntime": machine.onnxruntime, "onnxslim1x1": __version__}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [method.name for method in METHODS]
    parser.add_argument("data", type=Path, help="folder with models and images")
    parser.add_argument("--models", type=_some([c.name for c in CASES]), default=[c.name for c in CASES],
                        help="names, separated by commas; all by default")
    parser.add_argument("--budgets", type=_numbers(float), default=[0.667, 0.5],
                        help="parts of the MACs to keep, separated by commas (default: 0.667,0.5)")
    parser.add_argument("--methods", type=_some(names), default=names, help=f"some of {','.join(names)}")
    parser.add_argument("--seeds", type=_numbers(int), default=[],
                        help=f"repeat {OURS} with a random subset of the calibration images for each of these seeds")
    parser.add_argument("--limit", type=int, help="calibration images at most")
    parser.add_argument("--evaluation-limit", type=int, help="evaluation images at most")
    parser.add_argument("--threads", type=_numbers(int), default=[1, 2],
                        help="counts at which latency is measured; the methods run with the largest (default: 1,2)")
    parser.add_argument("--time", type=float, default=5.0, help="seconds for each latency comparison")
    parser.add_argument("--out", type=Path, help="JSON file with all figures; finished rows in it are reused")
    parser.add_argument("--fresh", action="store_true", help="measure all rows that are asked for again")
    parser.add_argument("--plot", type=Path, help="SVG file: top-1 and KL against latency")
    return parser


def _some(known: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; choose from {', '.join(known)}")
        return found

    return parse


def _numbers(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> list[int | float]:
        try:
            return [kind(part) for part in text.split(",") if part]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: not numbers separated by commas") from error

    return parse


if __name__ == "__main__":
    main()
