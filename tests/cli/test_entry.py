"""The program contains crashes of native code, passes exit codes and signals on, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

CODE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs the tests in the background ignores
from onnxslim1x1.cli import entry, main
main.main = lambda: {}
entry.run()
"""


def run(body, **options):
    return subprocess.run([sys.executable, "-c", CODE.format(body)], capture_output=True, text=True, timeout=60,
                          check=False, **options)


@pytest.mark.parametrize("code", [0, 3, 130])
def test_exit_codes_and_text_pass_through(code):
    done = run(f'(print("data"), print("said", file=sys.stderr), sys.exit({code}))')
    assert (done.returncode, done.stdout, done.stderr) == (code, "data\n", "said\n")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
def test_a_crash_is_one_line_and_exit_code_3(name):
    done = run(f"os.kill(os.getpid(), signal.{name})")
    assert done.returncode == 3
    assert done.stderr == (f"error: onnxruntime or onnx crashed ({name}); the model is damaged, or needs another "
                           "version of them\n")


def test_being_killed_by_the_system_is_told_as_want_of_memory():
    done = run("os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 3
    assert "memory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def started(body):
    process = subprocess.Popen([sys.executable, "-c", CODE.format(body)], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def ended(pid):
    """Whether a process is gone, or becomes so soon."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_the_program_ends_the_command(number):
    process, child = started("(print(os.getpid(), flush=True), time.sleep(60))")
    with process:
        assert child != process.pid
        process.send_signal(number)
        assert process.wait(timeout=20) == -number
    assert ended(child)


INTERRUPTIBLE = ("(print(os.getpid(), flush=True), "
                 "setattr(main, 'application', lambda *_: lambda **_: time.sleep(60)), real())")


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interrupt_reaches_the_command_once(whole_group):
    """From a terminal it goes to both processes, from another program to the first one only."""
    code = CODE.replace("main.main = ", "real = main.main\nmain.main = ").format(INTERRUPTIBLE)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        child = int(process.stdout.readline())
        time.sleep(1.0)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "error: interrupted\n"
    assert ended(child)


def test_giving_up_is_one_line_exit_code_3_and_leaves_no_temporary_folder(tmp_path):
    body = ("(__import__('tempfile').mkdtemp, setattr(main, 'kept', __import__('tempfile').TemporaryDirectory()), "
            "__import__('threading').Timer(0.1, __import__('onnxslim1x1.runtime.watch').runtime.watch.WATCH.give_up, "
            "('m.onnx: too long',)).start(), time.sleep(60))")
    done = run(body, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "error: m.onnx: too long\n")
    assert not list(tmp_path.iterdir())
