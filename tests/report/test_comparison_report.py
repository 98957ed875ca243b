"""Two models side by side in a terminal of 80 and of 160 columns, and as JSON."""

import dataclasses
import json

import pytest

from onnxslim1x1.report.analysis import SORT_KEYS
from onnxslim1x1.report.comparison import comparison_json, comparison_report, sorted_matches
from onnxslim1x1.report.format import change
from onnxslim1x1.report.style import lines_of
from onnxslim1x1.search.comparison import Pair, compare


def rendered(comparison, *, wide=False, sort="graph", top=None):
    parts = comparison_report(comparison, sorted_matches(comparison, sort, top), wide=wide)
    return [line for part in parts for line in lines_of(part, 160 if wide else 80)]


def row(lines, name):
    return next(line for line in lines if line.startswith(name)).split()


@pytest.mark.parametrize("wide", [False, True])
def test_tables_fit(compared, wide):
    lines = rendered(compared, wide=wide)
    assert max(map(len, lines)) <= (160 if wide else 80)
    assert len([line for line in lines if line.startswith("block/wide")]) == 1


def test_a_row_says_what_became_of_a_layer(compared):
    lines = rendered(compared)
    macs = compared.matches[1].macs
    assert row(lines, "block/wide")[1:] == ["2", "layers", f"{macs.before / 1e6:.3g}M", f"{macs.after / 1e6:.3g}M", "3",
                                            "1.5", "2.00x", "less"]
    assert row(lines, "stem")[1] == "="
    assert row(lines, "stem")[-2:] == ["the", "same"]
    assert row(lines, "block/mix")[1] == "(removed)"
    assert row(lines, "extra")[1:3] == ["(added)", "-"]
    assert "matched: 4 by name, 1 removed, 1 added" in lines


def test_the_wide_table_says_how_they_were_matched(compared):
    lines = rendered(compared, wide=True)
    assert {"matched", "by", "params"} <= set(lines[0].split())
    assert "name" in row(lines, "block/wide")


def test_totals_are_below(compared):
    text = " ".join(" ".join(rendered(compared)).split())
    assert "latency, median 12.5 ms 10.5 ms 1.19x less" in text
    assert "file size 1.23 MB 1 MB 1.23x less" in text
    assert "onnxslim1x1 validate measures them by turns" in text


def test_without_a_measurement_only_work_is_compared(unmeasured):
    lines = rendered(compare(unmeasured, unmeasured))
    assert lines[0].split() == ["layer", "became", "MACs", "after", "MACs"]
    assert not any("latency" in line or "by turns" in line for line in lines)


def test_models_without_layers(analysed):
    empty = dataclasses.replace(analysed, layers=())
    assert "neither model has convolutions or dense layers" in rendered(compare(empty, empty))


@pytest.mark.parametrize(("key", "names"), [
    ("graph", ["stem", "block/wide", "extra", "block/mix", "head"]), ("time", ["block/wide", "stem", "extra"]),
    ("gain", ["block/wide", "block/mix"])])
def test_sorting(compared, key, names):
    found = [(m.before or m.after)[-1] for m in sorted_matches(compared, key, None)]
    assert len(found) == len(compared.matches)
    positions = [found.index(name) for name in names]
    assert positions == sorted(positions)
    assert [(m.before or m.after)[-1] for m in sorted_matches(compared, key, 2)] == found[:2]


@pytest.mark.parametrize("key", SORT_KEYS)
def test_every_key_sorts_what_was_not_measured_too(unmeasured, key):
    same = compare(unmeasured, unmeasured)
    found = sorted_matches(same, key, None)
    assert len(found) == len(same.matches)
    if key == "macs":
        assert [m.macs.before for m in found] == sorted((m.macs.before for m in found), reverse=True)


def test_json_has_both_models_and_the_matches(compared):
    found = json.loads(json.dumps(comparison_json(compared, sorted_matches(compared, "graph", 2)), allow_nan=False))
    assert (found["command"], found["schema_version"]) == ("compare", 1)
    assert [m["after"] for m in found["matches"]] == [["stem"], ["block/wide/reduce", "block/wide"]]
    assert (len(found["before"]["layers"]), len(found["after"]["layers"])) == (5, 6)
    assert found["totals"]["macs"] == {"before": compared.before.macs, "after": compared.after.macs}
    assert found["before"]["model"]["file_bytes"] == 1_234_567


@pytest.mark.parametrize(("before", "after", "noise", "text"), [
    (3, 2, 0.005, "1.50x less"), (2, 3, 0.005, "1.50x more"), (2, 2, 0.0, "the same"), (1000, 1001, 0.005,
                                                                                       "about the same"),
    (100, 104, 0.05, "about the same"), (100, 96, 0.05, "about the same"), (100, 90, 0.05, "1.11x less"),
    (3, 0, 0.005, "gone"), (None, 3, 0.005, ""), (3, None, 0.005, ""), (0, 3, 0.005, "")])
def test_changes_in_words(before, after, noise, text):
    assert change(Pair(before=before, after=after), noise=noise) == text
