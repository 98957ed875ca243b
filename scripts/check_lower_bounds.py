"""Test the package with every dependency of users at exactly its lower bound, in a virtual environment of its own.

    python scripts/check_lower_bounds.py [pytest arguments]

Without arguments the fast tests are run. The exit code is that of pytest, or of pip if the bounds cannot be installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("report",)  # what the fast tests draw with
# what the fast tests import besides: no dependencies of users, so they may be new
TOOLS = ("check-jsonschema", "hypothesis", "jsonschema", "pre-commit", "pytest", "pytest-xdist", "pyyaml", "xmlschema")
FAST = ("-m", "not slow", "-q", "-n", "2", "--dist", "worksteal")


def lower_bound(text: str) -> str:
    """Pin one dependency: ``name>=1.2`` becomes ``name==1.2``.

    Raises:
        ValueError: it has no lower bound, or several.
    """
    requirement = Requirement(text)
    bounds = [s.version for s in requirement.specifier if s.operator in (">=", "==", "~=")]
    if len(bounds) != 1:
        raise ValueError(f"{text}: one lower bound is wanted, not {len(bounds)}")
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}=={bounds[0]}{marker}"


def requirements() -> tuple[list[str], list[str]]:
    """Pinned dependencies of users, and the tools as the dev extra wants them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = [t for t in project["optional-dependencies"]["dev"] if Requirement(t).name in TOOLS]
    wanted = project["dependencies"] + [text for name in EXTRAS for text in project["optional-dependencies"][name]]
    return [lower_bound(text) for text in wanted], tools


def check(folder: Path, arguments: Sequence[str]) -> int:
    """Install and test in `folder`; the exit code of the first command that fails, else 0."""
    pinned, tools = requirements()
    print(f"Python {sys.version.split()[0]}:", *pinned, flush=True)
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    for command in ([*pip, "install", "--quiet", "-e", str(ROOT), *pinned, *tools], [*pip, "list"],
                    [python, "-m", "pytest", *arguments]):
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="lower-bounds-") as folder:
        return check(Path(folder), sys.argv[1:] or FAST)


if __name__ == "__main__":
    sys.exit(main())
