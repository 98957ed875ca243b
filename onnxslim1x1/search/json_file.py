"""Reading JSON files of one kind: what is no such file is refused in one line, with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxslim1x1 import __version__
from onnxslim1x1.errors import SlimError


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """One kind of JSON file, and how messages speak of it.

    Attributes:
        noun: what it is.
        maker: the command that writes one.
        again: what to do about one that is useless.
        version: the `schema_version` that is understood.
        error: what is raised.
    """

    noun: str
    maker: str
    again: str
    version: int
    error: type[SlimError]

    def read(self, path: Path) -> str:
        """Text of a file.

        Raises:
            SlimError: of the kind `error`: it is missing, no text or empty.
        """
        try:
            if not path.exists():
                raise self.error(f"{path}: no such file; {self.maker} writes one")
            if path.is_dir():
                raise self.error(f"{path}: is a directory, not a {self.noun}; name the .json file in it")
            text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
        except OSError as error:
            raise self.error(f"{path}: cannot be read ({error.strerror or error})") from error
        except UnicodeDecodeError as error:
            raise self.error(f"{path}: is no text, but a {self.noun} is a JSON file; give the file that {self.maker} "
                             "wrote") from error
        if not text.strip():
            raise self.error(f"{path}: the file is empty; {self.again} with {self.maker}")
        return text

    def parse(self, text: str, where: str) -> Any:
        """The document in a text; of its structure, the version alone is looked at.

        Raises:
            SlimError: of the kind `error`: it is no JSON, or of another version.
        """
        try:
            document = json.loads(text, object_pairs_hook=_without_twins)
        except json.JSONDecodeError as error:
            raise self.error(f"{where}: line {error.lineno}, column {error.colno}: is not valid JSON "
                             f"({error.msg})") from error
        except ValueError as error:  # twins, or a number of thousands of digits, about which Python says too much
            raise self.error(f"{where}: is no {self.noun} ({str(error).partition(';')[0]})") from error
        except RecursionError as error:
            raise self.error(f"{where}: is no {self.noun} (thousands of brackets in one another)") from error
        self._require_version(document, where)
        return document

    def _require_version(self, document: Any, where: str) -> None:
        """A file of another version is not read at all: its keys may mean something else."""
        if not isinstance(document, dict):
            return
        if "schema_version" not in document:
            raise self.error(f"{where}: schema_version: is missing; give a file that {self.maker} wrote")
        version = document["schema_version"]
        if isinstance(version, bool) or not isinstance(version, int) or version == self.version:
            return
        newer = version > self.version
        raise self.error(
            f"{where}: schema_version: {version} is {'newer than' if newer else 'not'} {self.version}, which "
            f"onnxslim1x1 {__version__} reads; {'upgrade onnxslim1x1' if newer else self.again}")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ; the later of two would win silently.

    Raises:
        ValueError: two are the same.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin} stands twice in one object")
    return found
