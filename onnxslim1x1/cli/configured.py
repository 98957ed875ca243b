"""Commands whose defaults come from a configuration file; the command line overrides it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typer.core import TyperCommand

from onnxslim1x1.cli.discovery import find
from onnxslim1x1.cli.output import note
from onnxslim1x1.errors import OptionError

if TYPE_CHECKING:
    from onnxslim1x1.cli.settings import Configuration


class Source:
    """Where options of this run come from besides the command line; read by `blamed`."""

    path: Path | None = None
    names: ClassVar[set[str]] = set()


class ConfiguredCommand(TyperCommand):
    """A command; if it has the option --config, what it is not given comes from the nearest configuration file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was given, with the file as its defaults.

        Raises:
            OptionError: the file cannot be used.
        """
        Source.path, Source.names = None, set()
        if any(p.name == "config" for p in self.params):
            values = self.make_parser(ctx).parse_args(list(args))[0]
            given = {name: value for name, value in values.items() if value is not None}
            found = None if "help" in given else _configuration(given.get("config"), ignored="no_config" in given)
            if found is not None:
                ctx.default_map = found.defaults(str(ctx.info_name), given.keys())
                Source.path, Source.names = found.path, set(ctx.default_map)
        return super().parse_args(ctx, args)


def _configuration(named: str | None, *, ignored: bool) -> Configuration | None:
    """The file that was named, or the nearest one."""
    if ignored and named is not None:
        raise OptionError(f"--config {named}: contradicts --no-config; drop one of the two")
    path = None if ignored else find(Path.cwd()) if named is None else Path(named)
    if path is None:
        return None
    from onnxslim1x1.cli.settings import load

    loaded = load(_short(path))
    note(f"options from {loaded.path}")
    return loaded


def _short(path: Path) -> Path:
    """Relative to here if it lies here or below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def blamed(message: str) -> str:
    """A message about an option, with the file if that is where it stands."""
    option = re.search(r"--([a-z][a-z-]*)", message)
    if option is None or option[1].replace("-", "_") not in Source.names:
        return message
    return f"{message} ({Source.path} sets it)"
