"""Numbers, shapes and geometries as text."""

import itertools
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim1x1.report.format import count, decibel, fitted, geometry, ms, percent, shape, size_bytes
from onnxslim1x1.spec import ConvSpec

DRAWN = settings(derandomize=True, deadline=None, database=None, max_examples=200)
FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@pytest.mark.parametrize(("value", "text"), [
    (None, "?"), (0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (1440, "1.44k"), (15_366, "15.4k"),
    (111_183_424, "111M"), (1_814_073_344, "1.81G"), (4_089_184_256, "4.09G"), (15_470_264_320, "15.5G"),
    (2.5e14, "250T"), (12.4, "12")])
def test_count(value, text):
    assert count(value) == text


@DRAWN
@given(st.integers(0, 10**15))
def test_a_count_is_short_and_within_half_a_percent(value):
    text = count(value)
    number, prefix = re.fullmatch(r"([\d.]+)([kMGT]?)", text).groups()
    assert "e" not in text
    assert len(text) <= 5
    assert float(number) * FACTORS[prefix] == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(("value", "text"), [
    (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (848_127, "848 kB"), (1_755_342, "1.76 MB"),
    (46_700_000, "46.7 MB"), (553_432_081, "553 MB"), (2_147_483_648, "2.15 GB")])
def test_size_bytes(value, text):
    assert size_bytes(value) == text


@DRAWN
@given(st.integers(0, 10**13))
def test_a_size_has_no_exponent_and_is_within_half_a_percent(value):
    number, prefix = re.fullmatch(r"([\d.]+) ([kMGT]?)B", size_bytes(value)).groups()
    assert float(number) * FACTORS[prefix] == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "-"), (0.0, "0.000"), (4e-6, "0.004"), (2.4e-5, "0.024"), (1.23e-4, "0.123"), (2.44e-3, "2.44"),
    (0.0127, "12.7"), (0.123, "123"), (0.9994, "999"), (0.99951, "1000"), (1.2345, "1234"), (12.5, "12500")])
def test_ms(seconds, text):
    assert ms(seconds) == text


@DRAWN
@given(st.floats(0, 1e4))
def test_milliseconds_have_no_exponent_and_are_close(seconds):
    text = ms(seconds)
    assert re.fullmatch(r"\d+(\.\d+)?", text)
    assert float(text) == pytest.approx(seconds * 1e3, rel=0.005, abs=0.0005)  # three digits, or one microsecond


@pytest.mark.parametrize(("arguments", "text"), [
    ((0.5,), "50.0%"), ((1, 3), "33.3%"), ((0, 3), "0.0%"), ((3, 3), "100.0%"), ((None, 3), "-"), ((1, None), "-"),
    ((1, 0), "-"), ((0.99778, 1.0, 2), "99.78%"), ((2, 3, 0), "67%"), ((1, 100_000, 3), "0.001%")])
def test_percent(arguments, text):
    assert percent(*arguments) == text


@DRAWN
@given(st.text(alphabet="abc/._0123", max_size=80), st.integers(4, 40))
def test_fitted_names_keep_their_ends(name, width):
    text = fitted(name, width)
    assert len(text) <= width
    if len(name) <= width:
        assert text == name
    else:
        head, tail = text.split("…")
        assert len(text) == width
        assert head
        assert tail
        assert name.startswith(head)
        assert name.endswith(tail)


def test_layers_of_one_network_stay_apart():
    names = [f"/backbone/features/denseblock{b}/denselayer{n}/conv{c}/Conv" for b in (3, 4) for n in (1, 2, 11, 12)
             for c in (1, 2)]
    assert {len(name) > 26 for name in names} == {True}
    for width in (22, 26, 30):
        short = [fitted(name, width) for name in names]
        different = {a.partition("denselayer")[2] for a in names}
        assert len(set(short)) >= len(different)  # the tail tells layers of a block apart
        same_block = [s for n, s in zip(names, short, strict=True) if "denseblock4" in n]
        assert all(a != b for a, b in itertools.combinations(same_block, 2))


@pytest.mark.parametrize(("sizes", "text"), [
    (None, "?"), ((), "-"), ((16,), "16"), ((1, 64, 56, 48), "1x64x56x48"), ([3, 5], "3x5")])
def test_shape(sizes, text):
    assert shape(sizes) == text


@pytest.mark.parametrize(("value", "text"), [
    (math.inf, "identical"), (31.14, "31.1 dB"), (-3.0, "-3.0 dB"), (0.0, "0.0 dB"), (-math.inf, "-inf dB"),
    (120.96, "121.0 dB")])
def test_decibel(value, text):
    assert decibel(value) == text


@pytest.mark.parametrize(("kernel", "changes", "text"), [
    ((), {}, "dense"), ((1, 1), {}, "1x1"), ((3, 5), {}, "3x5"), ((11, 11), {"stride": (4, 4)}, "11x11/4"),
    ((3, 3), {"stride": (2, 1)}, "3x3/2x1"), ((3, 3), {"stride": (1, 2)}, "3x3/1x2"),
    ((3, 3), {"dilation": (2, 2)}, "3x3 d2"), ((3, 3), {"dilation": (2, 4)}, "3x3 d2x4"),
    ((3, 3), {"stride": (2, 2), "dilation": (1, 2), "groups": 32}, "3x3/2 d1x2 g32"), ((7,), {"groups": 64}, "7 g64"),
    ((3, 5, 7), {"stride": (1, 2, 2)}, "3x5x7/1x2x2"), ((3, 3, 3), {"dilation": (2, 1, 2)}, "3x3x3 d2x1x2")])
def test_geometry(kernel, changes, text):
    assert geometry(ConvSpec.make(64, 128, kernel=kernel, **changes)) == text
