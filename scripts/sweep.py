"""Send every test case of the installed onnx package through `analyze` and `slim`, and print what became of them.

    python scripts/sweep.py [--only WORDS] [--every N] [--json sweep.json]

Each case goes through ``analyze``, through ``slim --max-error 1e-6``, and through a rewrite at full rank of every layer
and family that allows it; rewritten models must give the outputs of the original on the data of the case. Node cases
with weights are there twice: frozen ones have them as weights instead of inputs. All of it runs in child processes.
The exit code is 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from trials.cases import Case, find_cases, generate
from trials.pool import HANG_S, Answer, Worker, spread

PATIENCE = {"light": 12.0}  # whole networks: to measure VGG-19 takes longer than a hang
GOOD = ("ok", "unmeasured", "declined", "cannot run", "nothing eligible")
STEPS = ("analyze", "slim", "outputs", "full rank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What became of one step of a case: an outcome, the line that explains it, and the seconds that it took."""

    step: str
    outcome: str
    line: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All steps of a case."""

    kind: str
    name: str
    steps: tuple[Step, ...]

    @property
    def bad(self) -> list[Step]:
        """Steps that are not as they should be."""
        return [s for s in self.steps if s.outcome not in GOOD]


def judge(step: str, answer: Answer) -> Step:
    """Outcome of a command: ok, unmeasured, declined, traceback, crash, hang, code N, or noise on standard error."""
    lines = [line for line in answer.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    outcome, line = "ok", ""
    if answer.kind != "done":
        outcome, line = answer.kind, " ".join(lines[-1:]) or str(answer.code)
    elif answer.code in (2, 3) and len(errors) == 1 and lines[-1:] == errors:
        outcome, line = "declined", errors[0]
    elif answer.code != 0:
        outcome, line = f"code {answer.code}", " ".join(lines[-1:])
    elif strange := [x for x in lines if not x.startswith(("note: ", "warning: "))]:
        outcome, line = "noise", strange[0]
    elif unmeasured := [x for x in lines if "nothing was measured" in x]:
        outcome, line = "unmeasured", unmeasured[0]
    return Step(step=step, outcome=outcome, line=line, seconds=answer.seconds)


def of_call(step: str, answer: Answer) -> list[Step]:
    """Steps of verdicts: one for every kind of outcome, with the first line of it."""
    if answer.kind != "done":
        return [Step(step=step, outcome=answer.kind, line=answer.err.strip().rpartition("\n")[2])]
    verdicts = [answer.result] if isinstance(answer.result, str) else answer.result
    if not verdicts:
        return [Step(step=step, outcome="nothing eligible")]
    found: dict[str, str] = {}
    for verdict in verdicts:
        word = next((w for w in ("differs", "cannot run", "declined") if f"{w}: " in verdict), "ok")
        found.setdefault(word, verdict)
    return [Step(step=step, outcome=word, line=line) for word, line in found.items()]


def trial(worker: Worker, case: Case, *, folder: Path, validate: bool) -> Result:
    """All steps of one case; `slim` compares the models itself, too, if it is to validate."""
    checking = ("--time", "0.1") if validate else ("--no-validate",)
    worker.patience = PATIENCE.get(case.kind, 1.0)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        output, shared = Path(name) / "slim.onnx", ("--threads", "1", "--cache", folder / "cache")
        steps = [judge("analyze", worker.command("analyze", case.model, *shared)),
                 judge("slim", worker.command("slim", case.model, "-o", output, "--max-error", "1e-6", *checking,
                                              *shared))]
        if output.exists():
            steps += of_call("outputs", worker.call("trials.cases:compare", original=str(case.model),
                                                    rewritten=str(output)))
        steps += of_call("full rank", worker.call("trials.cases:rewrite_fully", model=str(case.model), folder=name))
    return Result(kind=case.kind, name=case.name, steps=tuple(steps))


def tally(results: Sequence[Result]) -> str:
    """Table: outcomes by step and by kind of case."""
    kinds = sorted({r.kind for r in results})
    counts = Counter((s.step, s.outcome, r.kind) for r in results for s in r.steps)
    rows = sorted({(s, o) for s, o, _ in counts}, key=lambda row: (STEPS.index(row[0]), row[1] not in GOOD, row[1]))
    lines = [f"{'step':<10} {'outcome':<17}" + "".join(f"{k:>19}" for k in kinds) + f"{'all':>8}"]
    for step, outcome in rows:
        cells = [counts[step, outcome, kind] for kind in kinds]
        lines.append(f"{step:<10} {outcome:<17}" + "".join(f"{c:>19}" for c in cells) + f"{sum(cells):>8}"
                     + ("" if outcome in GOOD else "  <- wrong"))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Send the test cases of the onnx package through analyze and slim.")
    parser.add_argument("--data", type=Path, help="folder for the generated cases (default: a temporary one)")
    parser.add_argument("--shipped", action="store_true", help="only cases that need not be generated")
    parser.add_argument("--only", help="cases whose kind/name holds this text")
    parser.add_argument("--every", type=int, default=1, help="take every N-th case")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hang", type=float, default=HANG_S, help="seconds after which a step counts as a hang")
    parser.add_argument("--validate", action="store_true", help="let slim validate its result, too (a second a case)")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        data = None if options.shipped else options.data or Path(name) / "data"
        if data and not (data / "node").exists():
            generate(data)
        cases = [c for c in find_cases(data) if not options.only or options.only in f"{c.kind}/{c.name}"]
        start, results = time.monotonic(), []
        task = partial(trial, folder=Path(name), validate=options.validate)
        for result in spread(task, cases[::options.every], workers=options.workers, hang_s=options.hang):
            results.append(result)
            for step in result.bad:
                print(f"{result.kind}/{result.name}: {step.step}: {step.outcome}: {step.line[:300]}", flush=True)
    print(tally(results))
    bad = sum(bool(r.bad) for r in results)
    print(f"{len(results)} cases in {time.monotonic() - start:.0f} s, {bad} with something wrong")
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1), encoding="utf-8")
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main())
