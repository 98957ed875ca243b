"""The list of planted bugs (`scripts/mutants.py`) fits the code; whether the tests find them takes `make mutants`."""

import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LISTS = sorted((ROOT / "scripts" / "planted_bugs").glob("*.toml"))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_bug_has_its_place_once(path):
    for bug in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
        code = (ROOT / "onnxslim1x1" / bug["file"]).read_text(encoding="utf-8")
        assert code.count(bug["old"]) == 1, bug["why"]
        assert bug["old"] != bug["new"], bug["why"]
        assert all((ROOT / "tests" / name.split("::")[0]).exists() for name in bug["tests"]), bug["why"]
        assert bug["tests"], bug["why"]


def test_every_part_of_the_package_has_bugs_of_its_own_name():
    parts = Counter(path.stem for path in LISTS)
    packages = {p.parent.name for p in (ROOT / "onnxslim1x1").glob("*/__init__.py")}
    assert set(parts) == packages | {"package"}
