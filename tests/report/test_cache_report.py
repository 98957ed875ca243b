"""What is kept between runs, as text; the command is tested with real files."""

from datetime import datetime
from pathlib import Path

from onnxslim1x1.report.cache import cache_json, cache_report
from onnxslim1x1.runtime.store import Entry

FOLDER = Path("folder")


def entry(kind, size, day):
    return Entry(kind=kind, path=FOLDER / kind / "a", size_bytes=size, used_s=datetime(2024, 1, day, 7, 8).timestamp())


def test_kinds_are_summed_and_sorted():
    found = [entry("weighting", 3, 1), entry("latency", 20, 4), entry("weighting", 5, 2)]
    where, table, total = cache_report(FOLDER, found)
    assert (where, total) == ("folder", "3 entries, 28 B")
    assert [list(column.cells) for column in table.columns] == [
        ["latency", "weighting"], ["1", "2"], ["20 B", "8 B"], ["2024-01-04 07:08", "2024-01-02 07:08"]]
    kinds = cache_json(FOLDER, found)["kinds"]
    assert list(kinds) == ["latency", "weighting"]
    assert (kinds["weighting"]["entries"], kinds["weighting"]["size_bytes"]) == (2, 8)
    assert datetime.fromisoformat(kinds["weighting"]["last_used"]) == datetime(2024, 1, 2, 7, 8).astimezone()


def test_one_line_where_there_is_no_table():
    assert cache_report(FOLDER, []) == ["folder", "0 entries, 0 B"]
    assert cache_report(FOLDER, [entry("loss", 2000, 1)], removed=True) == ["removed 1 entry, 2 kB, from folder"]
    assert len(cache_report(None, [], removed=True)) == 1
