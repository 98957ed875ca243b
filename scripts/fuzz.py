"""Damage model files in many ways and see that the command line takes each of them, or declines it in one line.

    python scripts/fuzz.py MODEL_OR_FOLDER... [--count 20000] [--seed 0] [--keep FOLDER]

Every file goes through ``analyze --no-measure``, or if it is small through ``analyze`` or ``slim``. What is wanted:
success, or exit code 2 or 3 with one line; no traceback, no hang over 10 s, no more than 1 GB. A crash of a native
library is counted, and the same command is run once more as a user would: it has to say so in one line, with exit code
3. File N of a seed is always the same: ``--only N`` makes it again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sweep import judge
from trials.cases import find_cases, generate
from trials.mutate import mutated
from trials.pool import Answer, Worker, spread

MOST_BYTES = 10**9
GOOD = ("ok", "unmeasured", "declined", "crash contained")
_SMALL = 200_000  # bytes: to measure a larger model takes longer than what counts as a hang
COMMANDS = (("analyze", "--no-measure"),) * 3 + (("analyze",), ("slim", "-o", "{out}", "--no-validate"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of one file."""

    number: int
    model: str
    mutation: str
    command: str
    outcome: str
    line: str
    seconds: float
    peak_bytes: int


def damaged(number: int, models: Sequence[Path], seed: int) -> tuple[Path, str, bytes, tuple[str, ...]]:
    """Model, mutation, bytes and command of file `number`."""
    rng = random.Random(f"{seed} {number}")
    model = rng.choice(models)
    name, data = mutated(model.read_bytes(), rng)
    return model, name, data, rng.choice(COMMANDS) if model.stat().st_size <= _SMALL else COMMANDS[0]


def trial(worker: Worker, number: int, *, models: Sequence[Path], seed: int, folder: Path, keep: Path | None) -> Trial:
    """Write one damaged file and run a command on it."""
    model, name, data, command = damaged(number, models, seed)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        file = Path(own) / "model.onnx"
        file.write_bytes(data)
        (Path(own) / "link").symlink_to("/etc/passwd")
        (Path(own) / "folder").mkdir()
        first, *rest = (part.format(out=Path(own) / "out.onnx") for part in command)
        arguments = [first, str(file), *rest, "--threads", "1", "--cache", str(folder / "cache")]
        answer = worker.command(*arguments)
        outcome, line = _outcome(answer, arguments, own)
    if keep and outcome not in GOOD:
        (keep / f"{number}.onnx").write_bytes(data)
    return Trial(number=number, model=model.name, mutation=name, command=" ".join(command[:2]), outcome=outcome,
                 line=line, seconds=answer.seconds, peak_bytes=answer.peak_bytes)


def _outcome(answer: Answer, arguments: Sequence[str], folder: str) -> tuple[str, str]:
    if answer.kind == "crash":
        done = subprocess.run([sys.executable, "-m", "onnxslim1x1", *arguments], capture_output=True, text=True,
                              check=False, cwd=folder, timeout=120)
        step = judge("", Answer(kind="done", code=done.returncode, out=done.stdout, err=done.stderr))
        return ("crash contained" if step.outcome in GOOD else f"crash: {step.outcome}"), step.line
    if answer.kind == "done" and answer.peak_bytes > MOST_BYTES:
        return "memory", f"{answer.peak_bytes / 1e9:.1f} GB"
    step = judge("", answer)
    return step.outcome, step.line if answer.kind != "traceback" else answer.err


def tally(trials: Sequence[Trial]) -> str:
    """Table: outcomes by command, then by mutation where they are wrong."""
    commands = sorted({t.command for t in trials})
    counts = Counter((t.outcome, t.command) for t in trials)
    lines = [f"{'outcome':<22}" + "".join(f"{c:>22}" for c in commands) + f"{'all':>8}"]
    for outcome in sorted({o for o, _ in counts}, key=lambda o: (o not in GOOD, o)):
        cells = [counts[outcome, c] for c in commands]
        lines.append(f"{outcome:<22}" + "".join(f"{c:>22}" for c in cells) + f"{sum(cells):>8}"
                     + ("" if outcome in GOOD else "  <- wrong"))
    slowest, largest = max(trials, key=lambda t: t.seconds), max(trials, key=lambda t: t.peak_bytes)
    lines += [f"slowest: {slowest.seconds:.1f} s (file {slowest.number}); most memory: "
              f"{largest.peak_bytes / 1e6:.0f} MB (file {largest.number})"]
    return "\n".join(lines)


def models_in(paths: Sequence[Path], largest: int) -> list[Path]:
    """Model files, those in folders included, up to a size."""
    files = [f for p in paths for f in (sorted(p.rglob("*.onnx")) if p.is_dir() else [p])]
    return [f for f in files if f.stat().st_size <= largest]


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage model files and see that the command line copes.")
    parser.add_argument("models", type=Path, nargs="+", help="models, or folders of them")
    parser.add_argument("--generated", action="store_true", help="and the test cases of the onnx package")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--largest", type=int, default=2_000_000, help="bytes of a model at most")
    parser.add_argument("--keep", type=Path, help="folder for the files that were not taken well")
    parser.add_argument("--only", type=int, help="write file N to --keep and do nothing else")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        if options.generated:
            generate(Path(name) / "cases")
        cases = [c.model for c in find_cases(Path(name) / "cases")] if options.generated else []
        return run(options, models_in([*options.models, *cases], options.largest), Path(name))


def run(options: argparse.Namespace, models: Sequence[Path], folder: Path) -> int:
    """Try all files, print what became of them, and return the exit code."""
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    if options.only is not None:
        model, name, data, command = damaged(options.only, models, options.seed)
        path = (options.keep or Path()) / f"{options.only}.onnx"
        path.write_bytes(data)
        print(f"{path}: {name} of {model}, for {' '.join(command)}")
        return 0
    start, trials = time.monotonic(), []
    task = partial(trial, models=models, seed=options.seed, folder=folder, keep=options.keep)
    for found in spread(task, range(options.first, options.first + options.count), workers=options.workers):
        trials.append(found)
        if found.outcome not in GOOD:
            print(f"{found.number}: {found.command} {found.model} {found.mutation}: {found.outcome}: "
                  f"{found.line[-1500:]}", flush=True)
    print(tally(trials))
    bad = sum(t.outcome not in GOOD for t in trials)
    print(f"{len(trials)} files over {len(models)} models in {time.monotonic() - start:.0f} s, seed {options.seed}: "
          f"{bad} not taken well")
    if options.json:
        options.json.write_text(json.dumps([{k: getattr(t, k) for k in Trial.__slots__} for t in trials]),
                                encoding="utf-8")
    return 1 if bad or not trials else 0


if __name__ == "__main__":
    sys.exit(main())
