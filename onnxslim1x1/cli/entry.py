"""The program: the command runs in a child process, so that a crash of a native library is an error like others.

onnx and onnxruntime are C++ libraries that read files of unknown origin. What takes their process down (a signal, an
exhausted stack) leaves the parent, which reports it in one line. Forking costs about a millisecond, because nothing is
imported yet. Where there is no fork (Windows), the command runs in this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

_TERMINAL_S = 0.5
_EXIT_UNUSABLE = 3  # as in `onnxslim1x1.cli.exits`, which would import everything


def run() -> None:
    """Run the command line and leave with its exit code."""
    if not hasattr(os, "fork"):
        _command()
        return
    alive = os.pipe()  # the parent never writes: the end of the pipe tells the child that it is gone
    child = os.fork()
    if child == 0:
        os.close(alive[1])
        threading.Thread(target=_end_with_parent, args=(alive[0],), daemon=True).start()
        _command()
        return
    sys.exit(_exit_code(_wait(child)))


def _command() -> None:
    from onnxslim1x1.cli.output import give_up
    from onnxslim1x1.cli.quick import main
    from onnxslim1x1.runtime.watch import WATCH

    WATCH.give_up = give_up
    main()


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(child: int) -> int:
    """Status of the child when it has ended; what the parent is told to do meanwhile, the child is told, too."""
    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    def pass_on_later(number: int, _: object) -> None:
        later = threading.Timer(_TERMINAL_S, pass_on, (number, None))
        later.daemon = True
        later.start()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    signal.signal(signal.SIGINT, pass_on_later)  # a terminal sends it to the child as well, which leaves by itself
    return os.waitpid(child, 0)[1]


def _exit_code(status: int) -> int:
    """Exit code for the status of the child; a signal that nobody sent to end it is a crash."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if -code in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    name = signal.Signals(-code).name
    reason = ("the system ended the command, most likely for want of memory; give smaller shapes with --input-shape"
              if -code == signal.SIGKILL else
              f"onnxruntime or onnx crashed ({name}); the model is damaged, or needs another version of them")
    sys.stderr.write(f"error: {reason}\n")
    return _EXIT_UNUSABLE
