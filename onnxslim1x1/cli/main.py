"""The command `onnxslim1x1` and how errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from onnxslim1x1 import __version__
from onnxslim1x1.cli.commands import COMMANDS
from onnxslim1x1.cli.configured import ConfiguredCommand, blamed
from onnxslim1x1.cli.exits import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, exit_code
from onnxslim1x1.cli.options import Debug
from onnxslim1x1.errors import SlimError

_UsageError: Any = typer.BadParameter.__base__  # typer exports only this kind of usage error by name


def application(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The command line with some of its commands; those that are left out are not loaded."""
    made = typer.Typer(
        name="onnxslim1x1", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]},
        help="Make convolutional ONNX models measurably faster on CPUs with 1x1 reduction bottlenecks.")
    for name in commands:
        made.command(name, cls=ConfiguredCommand)(import_module(f"onnxslim1x1.cli.{name}").command)
    made.callback()(_root)
    return made


def __getattr__(name: str) -> Any:
    """`app`: the whole command line."""
    if name == "app":
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxslim1x1 {__version__}")
        raise typer.Exit


def _root(version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True,
                                                help="Show the version.")] = False) -> None:
    """Make convolutional ONNX models measurably faster on CPUs with 1x1 reduction bottlenecks."""


def main() -> None:
    """Run the command line; every failure is one line on standard error and a documented exit code."""
    asked = sys.argv[1:2]
    try:
        # loading a command and its options takes as long as the work of a quick one
        result = application(asked if asked and asked[0] in COMMANDS else COMMANDS)(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", EXIT_INTERRUPTED)
    except _UsageError as error:
        if len(sys.argv) == 1:  # no command: the message is the help
            typer.echo(error.format_message(), err=True)
            sys.exit(EXIT_USAGE)
        _fail(f"{blamed(error.format_message())} (onnxslim1x1 --help lists commands and options)", EXIT_USAGE)
    except SlimError as error:
        _fail(blamed(str(error)), exit_code(error))
    except MemoryError:
        _fail("out of memory; close other programs or use a machine with more", EXIT_INTERNAL)
    except Exception as error:  # a bug of ours: the user gets one line and the way to the traceback
        _fail(f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}; run again with --debug "
              "and report it", EXIT_INTERNAL)
    sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, code: int) -> None:
    if Debug.enabled:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")  # names from a model may hold line breaks
    sys.exit(code)
