"""The command `cache`: what it lists, what it removes, and that other commands use the folder it shows."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxslim1x1.cli.main import app
from onnxslim1x1.runtime.store import Store


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with three entries, the youngest used on 5 January 2024, named by the environment."""
    monkeypatch.setenv("COLUMNS", "80")
    store = Store(tmp_path / "cache")
    store.put_value("latency", {"n": 1}, [1.5])
    store.put_value("latency", {"n": 2}, [2.5])
    store.put_arrays("moments", {"n": 1}, {"x": np.zeros(10**6)})
    for number, entry in enumerate(store.entries()):
        os.utime(entry.path, (1704451200 - 86400 * number,) * 2)
    monkeypatch.setenv("ONNXSLIM1X1_CACHE", str(store.folder))
    monkeypatch.setenv("TZ", "UTC")
    return store.folder


def test_it_lists_kinds_with_number_size_and_age(folder):
    text = run("cache")
    assert "".join(text.split()).startswith(str(folder))  # a long path takes several lines
    header, _, latency, moments, total = (line.split() for line in text.splitlines()[-5:])
    assert header == ["kind", "entries", "size", "last", "used"]
    assert (latency[:2], moments[:4]) == (["latency", "2"], ["moments", "1", "8", "MB"])
    assert {latency[-2], moments[-2]} <= {"2024-01-03", "2024-01-04", "2024-01-05"}
    assert total[:2] == ["3", "entries,"]


def test_the_document_tells_the_same(folder):
    found = json.loads(run("cache", "--json"))
    assert (found["command"], found["path"], found["entries"], found["removed"]) == ("cache", str(folder), 3, False)
    assert {kind: one["entries"] for kind, one in found["kinds"].items()} == {"latency": 2, "moments": 1}
    assert found["size_bytes"] == sum(one["size_bytes"] for one in found["kinds"].values()) > 8_000_000
    assert all(one["last_used"].startswith("2024-01-0") for one in found["kinds"].values())
    assert all(one["last_used"].endswith("+00:00") for one in found["kinds"].values())


def test_clearing_empties_it(folder):
    (folder / "mine.txt").write_text("mine")
    assert run("cache", "--clear").startswith("removed 3 entries, 8 MB, from")
    assert run("cache").split()[-4:] == ["0", "entries,", "0", "B"]
    assert json.loads(run("cache", "--clear", "--json"))["removed"] is True
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_the_option_names_another_folder(folder, tmp_path):
    assert run("cache", "--cache", str(tmp_path / "other"), "--clear").startswith("removed 0 entries")
    assert len(Store(folder).entries()) == 3


def test_it_says_that_there_is_none(monkeypatch):
    monkeypatch.setenv("ONNXSLIM1X1_CACHE", "off")
    assert run("cache") == run("cache", "--clear") == "nothing is kept between runs ($ONNXSLIM1X1_CACHE is off)\n"
    assert json.loads(run("cache", "--json"))["path"] is None
