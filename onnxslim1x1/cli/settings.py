"""What a configuration file may say: every option of every command that runs a model, by its name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from onnxslim1x1.cli.commands import COMMANDS
from onnxslim1x1.cli.discovery import PROJECT_FILE, read
from onnxslim1x1.cli.rivals import overlaid
from onnxslim1x1.errors import OptionError

if TYPE_CHECKING:
    from pydantic import BaseModel

_MARK = "config"  # a command with this option takes its defaults from the file
_NOT_IN_FILES = {"config", "no_config"}
# paths that mean the same to every command; all others are files to write, or arguments
_SHARED_PATHS = {"calibration", "data", "labels", "cache", "baseline"}
# keys at the top of a file that commands call otherwise
_ROLES = {
    "model": "ONNX model before: what analyze, plan and slim read, and what validate compares with.",
    "rewritten": "ONNX model after: what slim writes, and what validate judges.",
}
_ROLE_OF_ARGUMENT = {"model": "model", "original": "model", "rewritten": "rewritten"}
_WRITES_MODEL = ("slim", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One option or argument of a command.

    Attributes:
        key: in the file; for an option its long name without the dashes.
        name: of the parameter.
        kind: its type.
        help: what it means.
        least: smallest value, or None.
        most: largest value, or None.
        top_key: at the top of the file, where one value serves all commands; None for files that a command writes.
    """

    key: str
    name: str
    kind: Any
    help: str
    least: float | None
    most: float | None
    top_key: str | None


def settings_of(command: str, function: Callable[..., None]) -> dict[str, Setting]:
    """What can be set of a command, by key."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(parameter.annotation)[:2]
        if name in _NOT_IN_FILES or not isinstance(info, OptionInfo | ArgumentInfo):
            continue
        key, kind = _key(name, info), _without_none(kind)
        if isinstance(info, ArgumentInfo):
            top_key = _ROLE_OF_ARGUMENT.get(name)
        elif kind is Path and name not in _SHARED_PATHS:
            top_key = "rewritten" if (command, name) == _WRITES_MODEL else None
        else:
            top_key = key
        found[key] = Setting(key=key, name=name, kind=kind, help=info.help or "", least=info.min, most=info.max,
                             top_key=top_key)
    return found


def _key(name: str, info: OptionInfo | ArgumentInfo) -> str:
    spellings = (info.param_decls or ()) if isinstance(info, OptionInfo) else ()
    return next((text.removeprefix("--") for text in spellings if text.startswith("--")), name.replace("_", "-"))


def _without_none(kind: Any) -> Any:
    kinds = [part for part in get_args(kind) if part is not NoneType]
    return kinds[0] if NoneType in get_args(kind) else kind


@cache
def configurable() -> dict[str, dict[str, Setting]]:
    """Commands that take defaults from a file, and what can be set of each."""
    functions = {name: import_module(f"onnxslim1x1.cli.{name}").command for name in COMMANDS}
    return {name: settings_of(name, function) for name, function in functions.items()
            if _MARK in inspect.signature(function).parameters}


def shared() -> dict[str, Setting]:
    """Options that may stand at the top of a file; that of the first command that has it speaks for all."""
    found: dict[str, Setting] = {}
    for setting in (s for settings in configurable().values() for s in settings.values()):
        if setting.top_key == setting.key and setting.key not in _ROLES:
            found.setdefault(setting.key, setting)
    return found


# ---- the structure of the file ----

@cache
def model() -> type[BaseModel]:
    """Parser of configuration files; keys that are no option, and values of another type, are errors."""
    from pydantic import ConfigDict, Field, create_model

    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def fields(settings: Iterable[Setting]) -> dict[str, Any]:
        # with a prefix, since pydantic keeps some names (json, schema, ...) for itself
        return {f"field_{s.name}": (_kind(s), Field(None, alias=s.key, description=s.help)) for s in settings}

    tables: dict[str, Any] = {
        f"table_{name}": (create_model(f"Options of {name}", __config__=strict, **fields(settings.values())),
                          Field(None, alias=name, description=f"Options of {name} alone; they win over those above."))
        for name, settings in configurable().items()}
    roles: dict[str, Any] = {f"role_{key}": (str, Field(None, alias=key, description=text))
                             for key, text in _ROLES.items()}
    return create_model("Configuration", __config__=strict, **roles, **fields(shared().values()), **tables)


def _kind(setting: Setting) -> Any:
    """Type of a value in the file; texts that hold numbers may be written as numbers."""
    from pydantic import Field

    if setting.kind is str:
        return str | float | list[float]
    if setting.kind is Path:
        return str
    if get_origin(setting.kind) is list:
        return list[str]
    if (setting.least, setting.most) == (None, None):
        return setting.kind
    return Annotated[setting.kind, Field(ge=setting.least, le=setting.most)]


def config_schema() -> dict[str, Any]:
    """JSON Schema of configuration files, with the help of the options as descriptions."""
    from onnxslim1x1.search.json_schema import published

    schema = model().model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        for value in part["properties"].values():
            del value["default"]  # what is not there is not null: TOML has no such thing
    return published(schema, "Configuration of onnxslim1x1", ())


# ---- reading one ----

@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """A configuration file that was read.

    Attributes:
        path: of the file.
        values: what it says.
    """

    path: Path
    values: Mapping[str, Any]

    def defaults(self, command: str, given: Collection[str]) -> dict[str, Any]:
        """Values for the parameters of a command by name, as texts, flags and lists of texts.

        Args:
            command: its name.
            given: parameters that were given otherwise: these are left out, and what contradicts them.
        """
        settings = configurable()[command]
        top = {s.name: self.values[s.top_key] for s in settings.values() if s.top_key and s.top_key in self.values}
        own = {settings[key].name: value for key, value in self.values.get(command, {}).items()}
        kinds = {s.name: s.kind for s in settings.values()}
        return {name: self._text(value, kinds[name])
                for name, value in overlaid(given, overlaid(own, top) | own, typed=True).items()}

    def _text(self, value: Any, kind: Any) -> Any:
        """As the command line gives it; paths are relative to the file."""
        if isinstance(value, bool):
            return value
        if kind is Path:
            return value if value == "-" else str(_beside(self.path, value))
        if isinstance(value, list):
            return [str(v) for v in value] if get_origin(kind) is list else ",".join(map(str, value))
        return str(value)


def _beside(file: Path, name: str) -> Path:
    """A path that is relative to the folder of a file, as short as it can be said here."""
    try:
        folder = Path(os.path.relpath(file.parent))
    except ValueError:  # another drive
        folder = file.parent.absolute()
    return folder / name


def load(path: Path) -> Configuration:
    """Read a configuration file.

    Raises:
        OptionError: it cannot be read, or says what it cannot say; the message names file and key.
    """
    from pydantic import ValidationError

    from onnxslim1x1.search.json_schema import explain

    values = read(path)
    if values is None:
        raise OptionError(f"{path}: has no table [tool.onnxslim1x1]; add one, or name another file with --config")
    where = f"{path}: " + ("tool.onnxslim1x1." if path.name == PROJECT_FILE else "")
    _require_places(values, where)
    try:
        model().model_validate(values)
    except ValidationError as error:
        raise OptionError(f"{where}{explain(error, values, model().model_json_schema())}") from error
    return Configuration(path=path, values=values)


def _require_places(values: Mapping[str, Any], where: str) -> None:
    """Options that only one command can have must stand in its table."""
    known = shared().keys() | configurable().keys() | _ROLES.keys()
    for key in values.keys() - known:
        owners = [f"[{name}]" for name, settings in configurable().items() if key in settings]
        if owners:
            raise OptionError(f"{where}{key}: belongs to one command; put it under {' or '.join(owners)}")
