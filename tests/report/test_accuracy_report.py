"""Figures, layers, shifts and worst images as text: nothing cut off at 80 columns, units and signs right."""

import math
from dataclasses import replace

import pytest

from onnxslim1x1.report.accuracy import (
    accuracy_parts,
    bar,
    drop_line,
    figures_table,
    interval,
    layers_table,
    rise,
    shifts_line,
    shifts_table,
    value,
    worst_lines,
)
from onnxslim1x1.report.plot_layers import layers_image, require_layers
from onnxslim1x1.report.style import Table
from onnxslim1x1.runtime.evidence import Figure, LayerError, Shifted, WorstSample
from onnxslim1x1.runtime.verdict import CheckResult, ValidationReport

TOP1 = Figure(name="top1", output="logits", unit="", better="higher", original=0.827, rewritten=0.823, value=-0.004,
              low=-0.007, high=-0.001, confidence=0.95, p_value=0.0123, images=4000)
PSNR = Figure(name="psnr_db", output="styled_image_with_a_rather_long_name", unit="dB", better="higher", original=None,
              rewritten=None, value=31.236, low=30.5, high=32.125, confidence=0.95, p_value=None, images=2)
KL = replace(PSNR, name="kl", output="logits", unit="nats", better="lower", value=0.04912, low=0.0446, high=0.0538)


def error(name="layer1.0.conv1", rel=0.1, growth=math.inf, **changes):
    values = {"tensor": name, "counterpart": name, "node": name, "op_type": "Conv", "snr_db": -20 * math.log10(rel),
              "rel_error": rel, "growth": growth, "rewritten": False}
    return LayerError(**(values | changes))


def shifted(figure=TOP1, excess=0.012, low=0.004, high=0.02, **changes):
    values = {"shift": "brightness", "strength": "+20 %", "figure": replace(figure, value=-0.016), "clean": figure,
              "excess": excess, "low": low, "high": high}
    return Shifted(**(values | changes))


def fits(table):
    return max(map(len, table.lines())) <= 80


def test_a_drop_in_words():
    assert drop_line(TOP1) == "top-1: drop 0.4 points, 95 % interval 0.1 to 0.7, 4,000 images"
    assert drop_line(replace(TOP1, value=0.0, low=None, high=None, images=1)) == "top-1: drop 0.0 points, 1 images"


def test_values_have_the_unit_of_their_figure():
    assert (value(TOP1), interval(TOP1)) == ("-0.40 points", "-0.70 to -0.10")
    assert (value(PSNR), interval(PSNR)) == ("31.24 dB", "30.50 to 32.12")
    assert (value(KL), interval(KL)) == ("0.04912 nats", "0.0446 to 0.0538")
    assert value(replace(TOP1, name="agreement", original=None, rewritten=None, value=0.9725)) == "97.25%"
    assert value(replace(PSNR, value=math.inf)) == "identical"
    assert value(replace(PSNR, value=-math.inf)) == "-inf"
    assert interval(replace(PSNR, low=None, high=None)) == "-"


def test_the_table_of_figures():
    table = figures_table((TOP1, KL))
    assert table.rows == (("top1", "82.70%", "82.30%", "-0.40 points", "-0.70 to -0.10", "0.012"),
                          ("kl", "", "", "0.04912 nats", "0.0446 to 0.0538", ""))
    assert table.headers[-2] == "95 % interval"
    assert fits(figures_table((TOP1, PSNR)))
    assert figures_table((TOP1, PSNR)).rows[0][0].startswith("top1")  # two outputs: the name says which
    assert figures_table((replace(TOP1, p_value=1e-9),)).rows[0][-1] == "<0.001"


def test_layers_that_make_it_worse_are_shown_in_order():
    layers = [error(f"t{i}", rel=0.001 * (1 + (i % 7 == 3)), growth=1.01 if i % 7 != 3 else 2.0) for i in range(200)]
    table = layers_table(layers)
    assert table.headers[0] == f"{len(table.rows)} of 200 tensors"
    names = [int(row[0][1:]) for row in table.rows]
    assert names == sorted(names)
    assert names[-1] == 199  # where it ends is always there
    assert sum(n % 7 == 3 for n in names) >= 20
    assert fits(table)


def test_a_row_of_a_layer():
    found = layers_table([error(rel=0.01, rewritten=True), error("b", rel=0.02, growth=2.0),
                          error("left out", rel=1e-6, growth=None),
                          error("c", rel=1e-300, growth=None, snr_db=math.inf, op_type="Relu")])
    assert found.rows[0][:5] == ("layer1.0.conv1", "Conv *", "1.00e-02", "40.0 dB", "enters")
    assert found.rows[1][4] == "2.00x"
    assert found.rows[2][1:] == ("Relu", "1.00e-300", "identical", "", "")  # where it ends is always there
    assert found.headers[0] == "3 of 4 tensors"
    assert layers_table([error()]).headers[0] == "tensor"


def test_how_much_an_error_rises():
    assert rise(error(rel=0.3)) == 0.3
    assert rise(error(rel=0.3, growth=1.5)) == pytest.approx(0.1)
    assert rise(error(rel=0.3, growth=None)) == 0.0
    assert rise(error(rel=0.3, growth=0.5)) < 0


def test_bars_grow_with_the_logarithm():
    assert (bar(0.0), bar(1e-5), bar(1e-2), bar(1.0), bar(50.0)) == ("", "", "████", "████████", "████████")
    assert bar(math.inf) == "████████"
    assert len(bar(3e-3)) <= len(bar(9e-3)) <= 8


def test_shifts_of_models_with_figures_of_their_own():
    table = shifts_table((shifted(),))
    assert table.rows[0][:4] == ("none", "", "82.70%", "82.30%")
    assert table.rows[1][-2:] == ("+1.20 points", "+0.40 to +2.00")
    assert fits(table)


def test_shifts_of_a_comparison():
    table = shifts_table((shifted(PSNR, excess=1.5, low=-0.5, high=3.0),))
    assert table.headers[3] == "psnr_db"
    assert table.rows[1][-2:] == ("+1.50 dB", "-0.50 to +3.00")
    assert fits(table)


def test_a_shift_counts_if_its_whole_interval_does():
    assert shifts_line((shifted(), shifted(shift="blur", low=-0.01))) == (
        "shifts: top1 falls faster than the original's under brightness +20 %")
    assert shifts_line((shifted(low=0.0),)).startswith("shifts: no shift shows")
    assert shifts_line((shifted(low=None, high=None),)).startswith("shifts: no shift shows")


def test_the_first_worst_images_are_named():
    worst = [WorstSample(index=i, name=f"{i}.jpg", loss=2.0 - i / 10, measure="kl", note=f"class {i} became 5",
                         picture=None) for i in range(8)]
    (line,) = worst_lines(worst)
    assert line.startswith("furthest apart on: 0.jpg (class 0 became 5; kl 2); 1.jpg")
    assert "3.jpg" not in line
    assert worst_lines(()) == []


def test_all_of_it_is_in_the_parts():
    report = ValidationReport(
        checker=CheckResult(original_ok=True, rewritten_ok=True, message=""), mismatches=(), outputs=(),
        classification=None, latencies=(), size_original_bytes=1, size_rewritten_bytes=1, images=9, data="d",
        figures=(TOP1, KL), layers=(error(),), shifts=(shifted(),), task="classification", task_reason="as asked for",
        notes=("per layer: 1 of 2",),
        worst=(WorstSample(index=0, name="a.png", loss=1.0, measure="kl", note="n", picture=None),))
    parts = accuracy_parts(report)
    assert sum(isinstance(part, Table) for part in parts) == 3
    assert "judged as classification: as asked for" in parts
    assert "per layer: 1 of 2" in parts
    bare = replace(report, figures=(), layers=(), shifts=(), worst=(), notes=())
    assert accuracy_parts(bare) == []


def test_the_picture_repeats(tmp_path):
    pytest.importorskip("matplotlib")
    layers = [error(f"t${i}_" + "x" * 30, rel=10.0 ** -(i % 5), rewritten=i % 3 == 0) for i in range(40)]
    layers += [error("a", rel=1e-300, growth=None)]
    first, again = (layers_image(layers, ".svg") for _ in range(2))
    assert first == again
    assert b"order of computation" in first
    assert layers_image(layers[:1], ".png").startswith(b"\x89PNG")
    require_layers(tmp_path / "e.svg", per_layer=True)
