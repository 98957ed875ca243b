"""Where the command line starts, and its commonest quick question: `analyze --no-measure MODEL`.

The parser of the command line takes longer to load than that question takes to answer, so it is asked only where
there is something to parse. Whatever goes wrong here happens again on the usual way, which says what it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main() -> None:
    """Run the command line."""
    if _answered(sys.argv[1:]):
        return
    from onnxslim1x1.cli import main as whole

    whole.main()


def _answered(arguments: Sequence[str]) -> bool:
    """Whether the arguments were those of the quick question, and its answer was printed."""
    rest = [argument for argument in arguments[1:] if argument != "--no-measure"]
    if arguments[:1] != ["analyze"] or len(arguments) != 3 or len(rest) != 1 or rest[0].startswith("-"):
        return False
    # nothing here multiplies matrices: threads for it are not worth starting
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        if _is_configured():
            return False
        _print_costs(rest[0])
    except (Exception, KeyboardInterrupt):
        return False
    return True


def _is_configured() -> bool:
    """Whether a configuration file may change the question."""
    from pathlib import Path

    from onnxslim1x1.cli.discovery import find

    return find(Path.cwd()) is not None


def _print_costs(path: str) -> None:
    from pathlib import Path

    from onnxslim1x1.cli.output import show
    from onnxslim1x1.graph.model import load
    from onnxslim1x1.report.views import view
    from onnxslim1x1.runtime.options import RunOptions
    from onnxslim1x1.runtime.store import NO_STORE
    from onnxslim1x1.search.inspection import Inspection, inspect

    found = inspect(load(Path(path)), Inspection(measure=False), RunOptions(store=NO_STORE))
    show(view([found], "graph", None))
