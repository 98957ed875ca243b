"""What is kept comes back exactly or not at all, whatever happens to the files and whoever else writes them."""

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import onnxslim1x1
from onnxslim1x1.errors import OutputError
from onnxslim1x1.runtime import store as module
from onnxslim1x1.runtime.store import NO_STORE, Store, user_store

KEY = {"model": "a1", "ranks": [16, 8], "size": (7, 5), "error": 0.1, "bias": None}
RNG = np.random.default_rng(5)
ARRAYS = {"mean": RNG.standard_normal(7).astype(np.float32), "covariance": RNG.standard_normal((7, 5)).astype(">f4"),
          "count": np.array(2**40), "double": RNG.standard_normal((2, 3, 4)).T, "none": np.zeros((0, 3))}


@pytest.fixture
def store(tmp_path):
    """A store that must not have anything to complain about."""
    return Store(tmp_path / "new" / "cache", warn=pytest.fail)


def assert_arrays(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def files(store):
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


def only_file(store):
    (path,) = files(store)
    return path


# ---- what is kept ----

@pytest.mark.parametrize("value", [
    1.1e-17, -3, "text \u2603", True, [0.1, [2, None]], {"b": {"a": [1.5]}, "a": "c"}, [], {}, 0, "", float("inf")])
def test_values_come_back_as_they_were(value, store):
    store.put_value("loss", KEY, value)
    found = Store(store.folder).value("loss", dict(reversed(KEY.items())))  # the order of a key is no matter
    assert found == value
    assert type(found) is type(value)


def test_arrays_come_back_bit_by_bit(store):
    store.put_arrays("moments", KEY, ARRAYS)
    assert_arrays(Store(store.folder).arrays("moments", KEY), ARRAYS)
    store.put_arrays("moments", KEY, {})
    assert store.arrays("moments", KEY) == {}  # which is not the same as absent
    assert store.arrays("moments", {}) is None


def test_the_last_value_holds(store):
    for value in (1, 2):
        store.put_value("loss", KEY, value)
    assert store.value("loss", KEY) == 2
    assert len(store.entries()) == 1


@pytest.mark.parametrize("other", [
    {}, KEY | {"model": "a2"}, KEY | {"ranks": [8, 16]}, KEY | {"error": 0.1 + 1e-16}, KEY | {"more": 1},
    {k: v for k, v in KEY.items() if k != "bias"}])
def test_other_keys_are_other_entries(other, store):
    store.put_value("loss", KEY, 1)
    store.put_arrays("loss", KEY, ARRAYS)
    assert store.value("loss", other) is store.arrays("loss", other) is store.value("gain", KEY) is None


def test_a_key_counts_sequences_alike_and_must_be_json(store):
    store.put_value("loss", {"size": (1, 2)}, 1)
    assert store.value("loss", {"size": [1, 2]}) == 1
    with pytest.raises(TypeError):
        store.put_value("loss", {"size": np.int64(1)}, 1)
    with pytest.raises(TypeError):
        store.put_value("loss", KEY, np.zeros(2))
    with pytest.raises(ValueError, match="only arrays of numbers"):
        store.put_arrays("loss", KEY, {"x": np.array([None])})


def test_another_schema_is_another_entry(store, monkeypatch):
    store.put_value("loss", KEY, 1)
    monkeypatch.setattr(module, "_SCHEMA", module._SCHEMA + 1)
    assert store.value("loss", KEY) is None


def test_only_the_arrays_of_one_entry_are_read(store, monkeypatch):
    for layer in range(3):
        store.put_arrays("moments", {"layer": layer}, {"x": np.full(4, layer)})
    read, real = [], np.load
    monkeypatch.setattr(np, "load", lambda file, **options: read.append(file.name) or real(file, **options))
    np.testing.assert_array_equal(store.arrays("moments", {"layer": 1})["x"], np.full(4, 1))
    assert len(read) == 1


def test_no_store_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NO_STORE.put_value("loss", KEY, 1)
    NO_STORE.put_arrays("moments", KEY, ARRAYS)
    assert NO_STORE.value("loss", KEY) is NO_STORE.arrays("moments", KEY) is None
    assert (NO_STORE.entries(), NO_STORE.clear(), list(tmp_path.iterdir())) == ([], [], [])


def test_looking_makes_no_folder(store):
    assert (store.value("loss", KEY), store.arrays("loss", KEY), store.entries()) == (None, None, [])
    assert not store.folder.exists()


def test_stores_travel_to_other_processes(tmp_path):
    store = pickle.loads(pickle.dumps(Store(tmp_path, limit_bytes=7)))
    assert store == Store(tmp_path, limit_bytes=7) != Store(tmp_path)


# ---- damage ----

def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1:]


@pytest.mark.parametrize("damage", [
    lambda _content: b"", lambda content: content[:-1], lambda content: content[:len(content) // 2],
    lambda content: flip(content, len(content) // 2), lambda _content: b"\x80\x04N.", lambda _content: b"\x93NUMPY",
    lambda content: b"PK\x03\x04" + content[:9], lambda _content: b"[]", lambda _content: b"{}"])
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_damaged_entry_is_absent_and_removed(damage, suffix, store):
    def get():
        return store.value("loss", KEY) if suffix == "json" else store.arrays("loss", KEY)

    if suffix == "json":
        store.put_value("loss", KEY, [12345.678] * 9)
    else:
        store.put_arrays("loss", KEY, {"x": np.arange(4000.0)})
    path = only_file(store)
    assert get() is not None
    path.write_bytes(damage(path.read_bytes()))
    assert get() is None
    assert not path.exists()


def test_pickles_are_not_executed(store, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    store.put_arrays("moments", KEY, {"x": np.zeros(3)})
    np.savez(only_file(store), x=np.array([Bomb()], dtype=object))
    assert store.arrays("moments", KEY) is None
    assert (files(store), (tmp_path / "exploded").exists()) == ([], False)


def test_a_process_killed_while_writing_leaves_no_entry(store):
    """The draft of the dead process is removed an hour later."""
    code = f"""
import os, numpy as np
from pathlib import Path
from onnxslim1x1.runtime import store
store._write_arrays = lambda file, arrays: (file.write(b"PK half"), file.flush(), os._exit(9))
store.Store(Path({str(store.folder)!r})).put_arrays("moments", {{}}, {{"x": np.zeros(3)}})"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    draft = only_file(store)
    assert draft.name.startswith(".")
    assert (store.arrays("moments", {}), store.entries()) == (None, [])
    store.put_value("loss", KEY, 1)  # the first one looks around
    assert draft.exists()
    hours_ago = time.time() - 4000
    os.utime(draft, (hours_ago, hours_ago))
    Store(store.folder).put_value("loss", KEY, 2)
    assert not draft.exists()
    assert len(files(store)) == 1


def test_an_interrupted_write_leaves_nothing(store, monkeypatch):
    def interrupted(file, _arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_arrays", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put_arrays("moments", KEY, ARRAYS)
    assert files(store) == []


# ---- several processes ----

def work(folder, seed):
    """Keep and fetch the same entries as others do; whatever is found is whole."""
    rng = np.random.default_rng(seed)
    store = Store(Path(folder), limit_bytes=400_000)
    for _ in range(40):
        key = {"n": int(rng.integers(3))}
        size = int(rng.integers(1, 20_000))
        store.put_arrays("moments", key, {"x": np.full(size, seed), "size": np.array(size)})
        store.put_value("loss", key, [seed] * 50)
        found, value = store.arrays("moments", key), store.value("loss", key)
        if found is not None:
            assert found["x"].shape == (int(found["size"]),)
            assert len(set(found["x"].tolist())) == 1
        if value is not None:
            assert len(value) == 50
            assert len(set(value)) == 1
    return True


def test_processes_that_write_the_same_entries(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(work, [str(tmp_path)] * 2, [1, 2])) == [True, True]
    assert list(tmp_path.rglob(".*")) == []  # no drafts
    assert {len(entry.path.stem) for entry in Store(tmp_path).entries()} == {64}


# ---- places that cannot be written ----

def test_a_place_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    told = []
    store = Store(tmp_path / "file" / "cache", warn=told.append)
    for number in range(3):
        store.put_value("loss", {"n": number}, 1)
        store.put_arrays("loss", {"n": number}, ARRAYS)
        assert store.value("loss", {"n": number}) is None
    (message,) = told
    assert message == (f"cache {tmp_path / 'file' / 'cache'}: cannot be written (Not a directory); what is measured is "
                       "not kept from here on")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_the_right_to_write(store):
    store.put_value("loss", KEY, 1)
    told = []
    other = Store(store.folder, warn=told.append)
    places = [store.folder, store.folder / "loss"]
    for place in places:
        place.chmod(0o500)
    try:
        other.put_value("loss", {}, 1)
        assert (len(told), other.value("loss", KEY)) == (1, 1)
    finally:
        for place in places:
            place.chmod(0o700)


def test_a_store_that_can_only_be_read_still_serves(store, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    store.put_value("loss", KEY, 1)
    store.put_arrays("moments", KEY, ARRAYS)
    told = []
    other = Store(store.folder, warn=told.append)
    for name in ("utime", "mkdir", "replace", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    assert other.value("loss", KEY) == 1
    assert_arrays(other.arrays("moments", KEY), ARRAYS)
    other.put_value("loss", {}, 1)
    assert len(told) == 1
    assert "Read-only file system" in told[0]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_full_disk_is_told_once_and_leaves_nothing(tmp_path):
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from onnxslim1x1.runtime.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = Store(Path({str(tmp_path)!r}), warn=print)
store.put_value("loss", {{}}, 1)
for n in range(2):
    store.put_arrays("moments", {{"n": n}}, {{"x": np.zeros(20_000)}})
print(store.value("loss", {{}}), store.arrays("moments", {{"n": 0}}))"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (len(lines), lines[1], done.stderr) == (2, "1 None", "")
    assert "File too large" in lines[0]
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".json"]


def test_without_a_listener_python_warns(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        Store(tmp_path / "file").put_value("loss", KEY, 1)


# ---- the size limit ----

def age(store, kind, key, seconds, suffix="npz"):
    when = time.time() - seconds
    os.utime(store._path(kind, key, suffix), (when, when))


def test_those_go_first_that_were_not_used_for_longest(tmp_path):
    store = Store(tmp_path, limit_bytes=10_000)
    keys = [{"n": n} for n in range(4)]
    for number, key in enumerate(keys):
        store.put_arrays("moments", key, {"x": np.full(300, number)})  # 2.4 kB and a header each
        age(store, "moments", key, 100 - number)
    assert [entry.size_bytes > 2400 for entry in store.entries()] == [True] * 3  # the first has gone already
    assert store.arrays("moments", keys[0]) is None
    assert store.arrays("moments", keys[1]) is not None  # reading counts as use
    store.put_arrays("moments", keys[0], {"x": np.zeros(300)})
    assert store.arrays("moments", keys[2]) is None
    assert [store.arrays("moments", keys[n]) is None for n in (0, 1, 3)] == [False] * 3
    assert sum(entry.size_bytes for entry in store.entries()) <= 9000


def test_what_exceeds_the_limit_alone_is_not_kept(tmp_path):
    store = Store(tmp_path, limit_bytes=1000)
    store.put_value("loss", KEY, 1)
    store.put_arrays("moments", KEY, {"x": np.zeros(200)})
    assert (store.arrays("moments", KEY), store.value("loss", KEY)) == (None, 1)


def test_the_default_limit_is_4_gib():
    assert user_store().limit_bytes == Store(None).limit_bytes == 4 * 2**30


# ---- listing and clearing ----

def test_entries_tell_kind_size_and_last_use(store):
    before = time.time() - 1
    store.put_value("loss", KEY, 1)
    store.put_arrays("moments", KEY, {"x": np.zeros(100)})
    age(store, "moments", KEY, 1000)
    moments, loss = store.entries()
    assert (moments.kind, loss.kind) == ("moments", "loss")
    assert (moments.size_bytes > 800, loss.size_bytes) == (True, loss.path.stat().st_size)
    assert moments.used_s < before <= loss.used_s
    assert json.loads(loss.path.read_text())["key"]["model"] == "a1"  # for people who wonder what it is


def test_clearing_removes_entries_and_nothing_else(store):
    store.put_value("loss", KEY, 1)
    store.put_arrays("moments", KEY, ARRAYS)
    mine = [store.folder / "photo.jpg", store.folder / "loss" / "notes.json", store.folder / "deep" / "er" / "x.npz"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    removed = store.clear()
    assert sorted(entry.kind for entry in removed) == ["loss", "moments"]
    assert files(store) == sorted(mine)
    assert not (store.folder / "moments").exists()
    assert store.clear() == []


def test_clearing_what_belongs_to_someone_else_is_an_error(store, monkeypatch):
    store.put_value("loss", KEY, 1)
    path = only_file(store)

    def refuse(name, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OutputError, match=r"\.json: cannot be removed \(Permission denied\)") as caught:
        store.clear()
    assert str(path) in str(caught.value)


# ---- shelves ----

def test_a_shelf_shares_a_part_of_the_key(store):
    shelf = store.shelf(model="m", seed=3).at(data="d")
    shelf.put_value("loss", [1, 2], layer="a")
    shelf.put_arrays("moments", ARRAYS, layer="a")
    key = {"version": onnxslim1x1.__version__, "model": "m", "seed": 3, "data": "d", "layer": "a"}
    assert store.value("loss", key) == shelf.at(layer="a").value("loss") == [1, 2]
    assert_arrays(store.arrays("moments", key), ARRAYS)
    assert_arrays(shelf.arrays("moments", layer="a"), ARRAYS)
    assert shelf.value("loss", layer="b") is shelf.at(seed=4).value("loss", layer="a") is None


def test_once_makes_a_value_once(store):
    calls = []
    shelf = store.shelf(model="m")
    for _ in range(2):
        assert shelf.once("loss", lambda: calls.append(1) or 0.0, layer="a") == 0.0
    assert len(calls) == 1
    assert NO_STORE.shelf().once("loss", lambda: 7, layer="a") == 7


def test_another_version_is_another_shelf(store, monkeypatch):
    store.shelf().put_value("loss", 1)
    monkeypatch.setattr(module, "__version__", "99.0")
    assert store.shelf().value("loss") is None


# ---- where it is ----

def test_the_folder_is_named_or_in_the_environment_or_where_the_system_wants_it(tmp_path, monkeypatch):
    monkeypatch.setenv(module.CACHE_VARIABLE, str(tmp_path / "b"))
    assert user_store(tmp_path / "a").folder == tmp_path / "a"
    assert user_store().folder == tmp_path / "b"
    for text in ("off", "OFF"):
        monkeypatch.setenv(module.CACHE_VARIABLE, text)
        assert user_store().folder is None
        assert user_store(tmp_path / "a").folder == tmp_path / "a"
    for key in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(key, str(tmp_path / "user"))
    monkeypatch.setenv(module.CACHE_VARIABLE, "")
    assert user_store().folder == user_store().folder
    assert user_store().folder.name in ("onnxslim1x1", "Cache")
    if sys.platform == "linux":
        assert user_store().folder == tmp_path / "user" / "onnxslim1x1"
