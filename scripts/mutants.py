"""Plant known bugs, one at a time, into a copy of the package and see that the tests find each of them.

    python scripts/mutants.py [words]

With words, only the bugs whose description contains one of them are planted. The working tree is never touched: every
bug gets a temporary copy of its own. The exit code is 1 if a bug survives, if its place in the code cannot be found
any more (then its list, in `planted_bugs`, needs care), or if the tests fail without any bug.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "onnxslim1x1"
WORKERS = 2
LIMIT_S = 180  # a bug that makes the tests hang counts as found
BUGS = Path(__file__).with_name("planted_bugs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One planted bug: in `file` of the package, `old` becomes `new`; the `tests` must fail."""

    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def planted() -> list[Mutant]:
    """All bugs of the folder `planted_bugs`, which has a file for each part of the package."""
    return [Mutant(**found | {"tests": tuple(found["tests"])}) for path in sorted(BUGS.glob("*.toml"))
            for found in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]


def copied(folder: Path) -> Path:
    """A copy of the package, the tests, their models and their configuration."""
    for name in (PACKAGE, "tests", "sample_models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def passes(folder: Path, tests: Sequence[str], limit_s: float = LIMIT_S) -> bool:
    """Whether the tests of a copy pass there.

    Raises:
        RuntimeError: pytest could not run them.
    """
    # no .pyc files: two versions of a file may have the same size and the same second
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    try:
        result = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True,
                                timeout=limit_s)
    except subprocess.TimeoutExpired:
        return False
    if result.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.returncode == 0


def verdict(mutant: Mutant) -> tuple[str, float]:
    """What became of one bug, and the seconds that it took: killed, survived, not found or broken."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        file = copied(Path(name)) / PACKAGE / mutant.file
        source = file.read_text(encoding="utf-8")
        if source.count(mutant.old) != 1:
            return f"found {source.count(mutant.old)} times", 0.0
        file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            outcome = "survived" if passes(Path(name), mutant.tests) else "killed"
        except RuntimeError as error:
            outcome = f"broken: {error}"
    return outcome, time.monotonic() - start


def sound(mutants: Sequence[Mutant]) -> bool:
    """Whether all tests that are used pass without a bug, in a copy."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        return passes(copied(Path(name)), sorted({test for mutant in mutants for test in mutant.tests}), 10 * LIMIT_S)


def main(words: Sequence[str]) -> int:
    mutants = [m for m in planted() if not words or any(word in m.why for word in words)]
    if not sound(mutants):
        print("the tests fail without any planted bug: run make test first")
        return 1
    left = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for mutant, (outcome, seconds) in zip(mutants, pool.map(verdict, mutants), strict=True):
            left += outcome != "killed"
            print(f"{outcome:<10} {seconds:5.1f} s  {mutant.file:<24} {mutant.why}", flush=True)
    print(f"{len(mutants) - left} of {len(mutants)} planted bugs were found")
    return 1 if left or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
