"""The arithmetic of `cost`, against formulas of its own and the published GoogLeNet example."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.errors import OptionError, RankError
from onnxslim1x1.report.cost import cost_json, cost_report, cost_rows, geometry
from onnxslim1x1.report.style import Table, lines_of

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=80)


def spec_of(sizes=(14, 11, 480), filters=48, kernel=(5, 3), **changes):
    options = {"stride": (1,), "dilation": (1,), "padding": "same", "bias": False} | changes
    return geometry(sizes, filters, kernel=kernel, **options)


def rendered(parts, width):
    return [line for part in parts for line in lines_of(part, width)]


def test_the_example_of_googlenet():
    spec = spec_of((14, 14, 480), 48, (5,))
    assert (spec.cost.macs, spec.params) == (112_896_000, 576_000)
    row, = cost_rows(spec, [16])
    assert (row.pointwise.macs, row.kernel.macs, row.total.macs) == (1_505_280, 3_763_200, 5_268_480)
    assert row.total.params == 480 * 16 + 16 * 48 * 25


@DRAWN
@given(st.data())
def test_rows_are_those_of_the_formula(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    axes = draw(1, 3)
    kernel, stride, dilation = ([draw(1, high) for _ in range(axes)] for high in (5, 3, 2))
    size = [d * (k - 1) + draw(1, 9) for k, d in zip(kernel, dilation, strict=True)]
    channels, filters, bias = draw(2, 40), draw(1, 40), data.draw(st.booleans())
    padding = data.draw(st.sampled_from(["same", "valid", "1", "x".join("120"[:axes])]))
    spec = geometry((*size, channels), filters, kernel=tuple(kernel), stride=tuple(stride), dilation=tuple(dilation),
                    padding=padding, bias=bias)
    pads = {"valid": [0] * axes, "1": [1] * axes}.get(padding, [1, 2, 0][:axes])
    out = [-(-n // s) if padding == "same" else (n + 2 * p - d * (k - 1) - 1) // s + 1
           for n, k, s, d, p in zip(size, kernel, stride, dilation, pads, strict=True)]
    assert spec.out_size == tuple(out)
    weights = math.prod(kernel) * channels * filters
    assert (spec.macs, spec.params) == (weights * math.prod(out), weights + bias * filters)
    rank = draw(1, min(channels, math.prod(kernel) * filters))
    row, = cost_rows(spec, [rank])
    second = math.prod(kernel) * rank * filters
    assert (row.pointwise.macs, row.pointwise.params) == (channels * rank * math.prod(size), channels * rank)
    assert (row.kernel.macs, row.kernel.params) == (second * math.prod(out), second + bias * filters)
    assert row.total.macs == row.pointwise.macs + row.kernel.macs
    assert row.total.params == row.pointwise.params + row.kernel.params


@pytest.mark.parametrize(("sizes", "filters", "kernel"), [
    ((14, 14, 480), 48, (5,)), ((224, 192, 64), 64, (3,)), ((256, 512, 304), 256, (3,)), ((7, 5, 2048), 1024, (3,)),
    ((16, 112, 96, 64), 128, (3, 3, 3)), ((16000, 64), 64, (9,))])
@pytest.mark.parametrize("ranks", [[], [1], [16, 32, 64], [64, 7, 7], list(range(1, 40))])
@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_and_shows_every_number(sizes, filters, kernel, ranks, width):
    spec = spec_of(sizes, filters, kernel, bias=True)
    rows = cost_rows(spec, ranks)
    parts = cost_report(spec, rows)
    lines = rendered(parts, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert f"{spec.macs:,} MACs" in lines[0]
    assert len([part for part in parts if isinstance(part, Table)]) == bool(ranks)
    body = lines[next((i for i, line in enumerate(lines) if line.startswith("──")), 0):]
    for row in rows:
        shown = [f"{row.pointwise.macs:,}", f"{row.kernel.macs:,}", f"{row.total.macs:,}", f"{row.total.params:,}"]
        line = next(x for x in body if x.split()[:1] == [str(row.rank)])
        assert [word for word in line.split() if word in shown] == shown


@pytest.mark.parametrize("changes", [
    {}, {"bias": True}, {"stride": (2, 1)}, {"padding": "valid"}, {"padding": "2x1"}, {"dilation": (1, 2)},
    {"kernel": (3,), "sizes": (100, 64)}, {"kernel": (3, 3, 3), "sizes": (9, 8, 7, 20)}, {"filters": 1},
    {"kernel": (1, 1)}])
def test_json_holds_the_same_numbers(changes):
    spec = spec_of(**changes)
    found = json.loads(json.dumps(cost_json(spec, cost_rows(spec, [3, 5])), allow_nan=False))
    assert {"schema_version", "tool", "command", "direct", "break_even_rank", "out_shape", "reductions"} <= set(found)
    assert found["command"] == "cost"
    assert found["direct"] == {"macs": spec.macs, "params": spec.params}
    assert found["out_shape"] == [*spec.out_size, spec.out_channels]
    assert [r["rank"] for r in found["reductions"]] == [3, 5]
    for r in found["reductions"]:
        assert {key: r["pointwise"][key] + r["kernel"][key] for key in ("macs", "params")} == r["total"]
        assert r["times_fewer_macs"] == spec.macs / r["total"]["macs"]
    limit = found["break_even_rank"]
    totals = [cost_rows(spec, [r])[0].total.macs for r in (limit, limit + 1) if 1 <= r <= min(spec.in_channels, 512)]
    assert [t < spec.macs for t in totals] == [True, False][2 - len(totals) if limit == 0 else 0:][:len(totals)]


@pytest.mark.parametrize("rank", [0, -1, 481, 10**9])
def test_ranks_out_of_range(rank):
    with pytest.raises(RankError, match=r"allows 1\.\.480"):
        cost_rows(spec_of(), [rank])


@pytest.mark.parametrize(("changes", "message"), [
    ({"sizes": (480,)}, "--input 480: give sizes and channels"),
    ({"kernel": (5, 3, 1)}, "--kernel 5x3x1: give one positive number, or 2 joined by x"),
    ({"kernel": (0,)}, "--kernel 0: give one positive number"),
    ({"stride": (0, 1)}, "--stride 0x1: give one positive number"),
    ({"dilation": (1, 2, 3)}, "--dilation 1x2x3: give one positive number"),
    ({"padding": "some"}, "--padding some: give same, valid"),
    ({"padding": "1x2x3"}, "--padding 1x2x3: give same, valid"),
    ({"padding": "-1"}, "--padding -1: give same, valid"),
    ({"padding": ""}, "--padding : give same, valid"),
    ({"padding": "²"}, "--padding ²: give same, valid"),
    ({"filters": 0}, "cost: sizes must be positive"),
    ({"sizes": (14, 11, 0)}, "cost: sizes must be positive"),
    ({"sizes": (3, 3, 8), "padding": "valid"}, "does not fit into 3x3 with padding valid"),
    ({"sizes": (9, 9, 8), "padding": "valid", "dilation": (3, 1)}, "does not fit into 9x9"),
])
def test_geometries_that_make_no_sense(changes, message):
    with pytest.raises(OptionError) as caught:
        spec_of(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
