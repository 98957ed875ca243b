"""Time whole processes: ours and its peers on generated networks, and ours on graphs of up to 20,000 nodes.

    python scripts/benchmarks/tool_speed.py /tmp/tool-speed

The folder gets the models (scripts/make_model.py), and two virtual environments: the package as a wheel installs it,
and the peers of peers.txt; what is there already is used again. Tools take turns, so that a busy moment hits all of
them; the minimum and the median of the wall time are given, and the largest resident memory of the process. A tool
that takes long on a model runs less often (--patience). The figures go to results/tool_speed.json, the curve to
results/tool_speed.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
PEERS = Path(__file__).with_name("peers.txt")
MODELS = {  # name -> arguments of the generator
    "googlenet": ["googlenet"], "resnet50": ["resnet50"], "vgg16": ["vgg16"],
    "resnet50x5": ["resnet50x5", "--external"],
}
TITLES = {"googlenet": "GoogLeNet, 28 MB", "resnet50": "ResNet-50, 102 MB", "vgg16": "VGG-16, 553 MB",
          "resnet50x5": "ResNet-50 x5, 2.4 GB"}
NODES = (1000, 2000, 5000, 10_000, 20_000)
LIMIT_S = 120.0  # of one process
OURS = "onnxslim1x1"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One tool on one model: `command` is run, with `{out}` for a file to write."""

    task: str
    model: str
    tool: str
    command: list[str]


@dataclass(kw_only=True)
class Figures:
    """What the runs of a case took: seconds of wall and processor time, bytes of resident memory, exit codes."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a run ended with an error, or did not end in time."""
        return any(self.exit_codes)


def run_once(case: Case, figures: Figures) -> None:
    """Run a case as a process of its own and note what the system says about it."""
    with tempfile.TemporaryDirectory(prefix="tool-speed-") as folder:
        command = [word.replace("{out}", str(Path(folder) / "out.onnx")) for word in case.command]
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=os.environ | {"ONNXSLIM1X1_CACHE": "off"})
        timer = Timer(LIMIT_S, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        figures.wall_s.append(time.perf_counter() - start)
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for it again
    figures.cpu_s.append(usage.ru_utime + usage.ru_stime)
    figures.peak_bytes.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    figures.exit_codes.append(process.returncode)


def measured(cases: Sequence[Case], *, runs: int, patience: float) -> list[tuple[Case, Figures]]:
    """Run all cases by turns; one that took more than `patience` seconds in all so far does not run again."""
    found = {id(case): Figures() for case in cases}
    for _ in range(runs):
        for case in cases:
            if sum(found[id(case)].wall_s) <= patience and not found[id(case)].failed:
                run_once(case, found[id(case)])
    return [(case, found[id(case)]) for case in cases]


def cases_for(model: str, path: Path, bins: tuple[Path, Path]) -> list[Case]:
    """Every tool on one model; the largest is only analysed: other rewriters hold all of it in memory."""
    ours, peers = bins
    name = str(path)
    analyze = {
        OURS: [str(ours / OURS), "analyze", "--no-measure", name],
        "onnx-tool": [str(peers / "python"), "-m", "onnx_tool", "-i", name],
        "polygraphy inspect": [str(peers / "polygraphy"), "inspect", "model", name],
        "onnxslim inspect": [str(peers / "onnxslim"), "--inspect", name],
    }
    slim = {
        OURS: [str(ours / OURS), "slim", "--no-validate", name, "-o", "{out}"],
        "onnxslim": [str(peers / "onnxslim"), name, "{out}"],
        "onnxsim": [str(peers / "onnxsim"), name, "{out}"],
    }
    tasks = {"analyze": analyze} if model == "resnet50x5" else {"analyze": analyze, "slim": slim}
    return [Case(task=task, model=model, tool=tool, command=command)
            for task, tools in tasks.items() for tool, command in tools.items()]


def environments(work: Path) -> tuple[Path, Path]:
    """Folders of the programs of both environments, which are made if they are not there."""
    bins = []
    for name, what in (("ours", [str(ROOT)]), ("peers", ["-r", str(PEERS)])):
        folder = work / name
        if not (folder / ".done").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet",
                            "--disable-pip-version-check", *what], check=True)
            (folder / ".done").touch()
        bins.append(folder / "bin")
    return bins[0], bins[1]


def generated(work: Path, name: str, arguments: Iterable[str]) -> Path:
    """The file of a model, made if it is not there."""
    path = work / f"{name}.onnx"
    if not path.exists():
        script = ROOT / "scripts" / "make_model.py"
        architecture, *more = arguments
        subprocess.run([sys.executable, str(script), architecture, str(path), *more], check=True)
    return path


def table(found: Sequence[tuple[Case, Figures]]) -> str:
    """Minimum, median and peak memory, as Markdown."""
    lines = ["| task | model | tool | min s | median s | runs | peak MB |", "|---|---|---|---|---|---|---|"]
    for case, figures in found:
        numbers = (f"{min(figures.wall_s):.2f} | {statistics.median(figures.wall_s):.2f} | {len(figures.wall_s)} | "
                   f"{max(figures.peak_bytes) / 1e6:.0f}")
        failed = f" (exit code {max(figures.exit_codes, key=abs)})" if figures.failed else ""
        lines.append(f"| {case.task} | {TITLES.get(case.model, case.model)} | {case.tool}{failed} | {numbers} |")
    return "\n".join(lines)


def draw(found: Sequence[tuple[Case, Figures]], path: Path) -> None:
    """Seconds against nodes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tool-speed"  # the same file from the same figures
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3))
    for task in dict.fromkeys(case.task for case, _ in found):
        points = [(int(case.model), min(figures.wall_s)) for case, figures in found if case.task == task]
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{task}, one run")
    axes.set(xlabel="nodes", ylabel="seconds, whole process", xlim=(0, None), ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def as_json(found: Sequence[tuple[Case, Figures]]) -> list[dict[str, Any]]:
    return [{"task": case.task, "model": case.model, "tool": case.tool} | asdict(figures) for case, figures in found]


def main() -> None:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    bins = environments(options.work)
    paths = {name: generated(options.work, name, MODELS[name]) for name in options.models}
    chains = {n: generated(options.work, f"blocks{n}", ["blocks", "--nodes", str(n)]) for n in options.nodes}
    if options.prepare:
        return
    cases = [case for name, path in paths.items() for case in cases_for(name, path, bins)]
    curve = [Case(task=task, model=str(n), tool=OURS, command=[str(bins[0] / OURS), *words, str(path), *more])
             for task, words, more in (("analyze", ["analyze", "--no-measure"], []),
                                       ("slim", ["slim", "--no-validate"], ["-o", "{out}"]))
             for n, path in chains.items()]
    for path in (*paths.values(), *chains.values()):  # what is read for the first time would be slower
        for file in (path, path.with_name(f"{path.name}.data")):
            if file.exists():
                subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    by_nodes = measured(curve, runs=options.runs, patience=options.patience)
    by_tool = measured(cases, runs=options.runs, patience=options.patience)
    print(table(by_tool), "\n\n", table(by_nodes), sep="")
    options.json.write_text(json.dumps({
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                    "python": platform.python_version(), "system": platform.system()},
        "peers": [line for line in PEERS.read_text().splitlines() if line and not line.startswith("#")],
        "tools": as_json(by_tool), "nodes": as_json(by_nodes)}, indent=1) + "\n")
    if by_nodes:
        draw(by_nodes, options.json.with_suffix(".svg"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for models and environments (4 GB)")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--nodes", nargs="*", type=int, default=list(NODES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds after which a case does not run again")
    parser.add_argument("--prepare", action="store_true", help="only make the models and the environments")
    parser.add_argument("--json", type=Path, default=RESULTS / "tool_speed.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
