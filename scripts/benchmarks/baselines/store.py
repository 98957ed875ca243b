"""Rows in a JSON file, kept from run to run: what was measured under the same conditions is not measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnxslim1x1.graph.save import write_text
from onnxslim1x1.report.document import jsonable

SCHEMA_VERSION = 1
KEY = ("model", "budget", "method", "seed")

Row = dict[str, Any]


class Store:
    """Finished rows by model, budget, method and seed.

    Attributes:
        rows: of this run and of earlier ones.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._environment: Any = None
        self.rows: list[Row] = []
        if path is not None and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("schema_version") == SCHEMA_VERSION:
                self.rows, self._environment = found["rows"], found["environment"]

    def find(self, key: Mapping[str, Any], conditions: Mapping[str, Any]) -> Row | None:
        """The row with this key, if it was finished under these conditions."""
        wanted = jsonable(dict(conditions))
        return next((r for r in self._with(key) if r.get("conditions") == wanted and "error" not in r), None)

    def add(self, row: Row) -> None:
        """Take a row in place of an older one with its key, and write the file."""
        old = [id(r) for r in self._with(row)]
        self.rows = [r for r in self.rows if id(r) not in old] + [jsonable(row)]
        self._write()

    def environment(self, environment: Any) -> None:
        """Note the machine that new rows are measured on."""
        self._environment = jsonable(environment)

    def _with(self, key: Mapping[str, Any]) -> Iterator[Row]:
        return (r for r in self.rows if all(r.get(k) == key.get(k) for k in KEY))

    def _write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema_version": SCHEMA_VERSION, "environment": self._environment, "rows": self.rows}
        write_text(self._path, json.dumps(document, indent=1) + "\n")
