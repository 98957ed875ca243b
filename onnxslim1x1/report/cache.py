"""What is kept between runs as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxslim1x1.report.document import document
from onnxslim1x1.report.format import size_bytes
from onnxslim1x1.report.style import Table, named_table
from onnxslim1x1.runtime.store import Entry

_OFF = "nothing is kept between runs ($ONNXSLIM1X1_CACHE is off)"


def cache_report(folder: Path | None, entries: Sequence[Entry], *, removed: bool = False) -> list[str | Table]:
    """Entries by kind, with their size and when they were last used; one line if they were removed."""
    if folder is None:
        return [_OFF]
    if removed:
        return [f"removed {_number(entries)}, {_total(entries)}, from {folder}"]
    rows = [(kind, str(len(found)), _total(found), f"{datetime.fromtimestamp(_newest(found)):%Y-%m-%d %H:%M}")
            for kind, found in _by_kind(entries).items()]
    table: list[str | Table] = [named_table(("kind", "entries", "size", "last used"), rows)] if rows else []
    return [str(folder), *table, f"{_number(entries)}, {_total(entries)}"]


def cache_json(folder: Path | None, entries: Sequence[Entry], *, removed: bool = False) -> dict[str, Any]:
    """The document of the command."""
    kinds = {kind: {"entries": len(found), "size_bytes": sum(e.size_bytes for e in found),
                    "last_used": datetime.fromtimestamp(_newest(found), UTC).isoformat(timespec="seconds")}
             for kind, found in _by_kind(entries).items()}
    return document("cache", {"path": folder, "removed": removed, "entries": len(entries),
                              "size_bytes": sum(e.size_bytes for e in entries), "kinds": kinds})


def _by_kind(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    kinds = sorted({entry.kind for entry in entries})
    return {kind: [entry for entry in entries if entry.kind == kind] for kind in kinds}


def _number(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"


def _total(entries: Sequence[Entry]) -> str:
    return size_bytes(sum(entry.size_bytes for entry in entries))


def _newest(entries: Sequence[Entry]) -> float:
    return max(entry.used_s for entry in entries)
