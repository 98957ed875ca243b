"""A front as a table, as JSON and as a picture."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.front import LOSS_LABELS, front_json, front_report, small
from onnxslim1x1.report.plot import front_image, require_drawable
from onnxslim1x1.report.style import Table, lines_of
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search.front import Front, FrontPoint, Measurement
from onnxslim1x1.search.plan import PlannedData, PlannedLayer, PlannedModel, SkippedLayer
from onnxslim1x1.spec import Cost

BEFORE, AFTER = Cost(params=115_200, macs=29_491_200), Cost(params=42_130, macs=9_830_400)
LAYERS = tuple(PlannedLayer(layer=name, strategy=strategy, ranks=(rank,), error=0.058, before=BEFORE, after=AFTER)
               for name, strategy, rank in (("a/5x5", "reduce", 32), ("b/3x3", "spatial", 128)))
POINTS = (
    FrontPoint(speedup=1.0512, loss=6.24e-8, macs_kept=0.9534, params_kept=0.9411, layers=LAYERS[:1]),
    FrontPoint(speedup=1.526, loss=0.0042, macs_kept=0.594, params_kept=0.581, layers=LAYERS,
               measured=Measurement(speedup=1.6786, loss=0.0084, drop=0.00312)),
    FrontPoint(speedup=12.3, loss=1.27, macs_kept=0.0551, params_kept=0.0602, layers=LAYERS,
               measured=Measurement(speedup=10.9, loss=13.4, drop=0.5)))
NEVER = (SkippedLayer(layer="stem", code="few_channels", reason="1 input channel(s) cannot be reduced"),
         SkippedLayer(layer="a/1x1", code="pointwise", reason="a 1x1 kernel has no positions to divide"),
         SkippedLayer(layer="b/1x1", code="pointwise", reason="a 1x1 kernel has no positions to divide"))
DATA = PlannedData(path="photos/faces", preprocess=preprocess("imagenet"), limit=300, images=256, sha256="9" * 64)


def front(**changes):
    environment = Environment(cpu="Some CPU", isa=("avx2",), cores=4, block=16, onnxruntime="1.30.0", onnx="1.20.0",
                              python="3.12.1", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=2)
    values = {"model": PlannedModel(path="net.onnx", sha256="cd" * 32), "opset": 17, "environment": environment,
              "data": DATA, "held_out": 51, "loss_kind": "kl_divergence", "whole_s": 0.00234, "points": POINTS,
              "before": Cost(params=435_000, macs=111_183_424), "never": NEVER, "notes": ("a note",)}
    return Front(**(values | changes))


def from_weights():
    points = tuple(dataclasses.replace(p, measured=p.measured and Measurement(speedup=p.measured.speedup))
                   for p in POINTS)
    return front(data=None, held_out=None, loss_kind="weight_error", points=points)


def rendered(parts, width):
    return [line.rstrip() for part in parts for line in lines_of(part, width)]


# ---- the table ----

def test_predicted_stands_next_to_measured():
    lines = rendered(front_report(front()), 80)
    assert lines[0].split() == ["predicted", "loss", "MACs", "params", "layers", "measured", "loss", "drop"]
    assert [line.split() for line in lines[2:5]] == [
        ["1.05x", "6.2e-08", "95.3%", "94.1%", "1"],
        ["1.53x", "0.0042", "59.4%", "58.1%", "2", "1.68x", "0.0084", "0.0031"],
        ["12.30x", "1.3", "5.5%", "6.0%", "2", "10.90x", "13", "0.5"]]
    assert lines[5:] == [
        "", "the original takes 2.34 ms per run, 111M MACs, 435k parameters",
        "loss: Kullback-Leibler divergence in nats", "measured on 51 of the 256 images of faces",
        "drop: upper bound of what top-1 accuracy loses there (0.01 is one point)",
        "predictions miss by up to 11% in speed-up and a factor of 10.6 in loss",  # 10.9 / 12.3, and 13.4 / 1.27
        "slim MODEL -o OUT --target-speedup X makes a model that is X times as fast"]


def test_without_data_it_says_what_the_loss_is_not():
    lines = rendered(front_report(from_weights()), 80)
    assert lines[0].split() == ["predicted", "loss", "MACs", "params", "layers", "measured"]
    assert lines[3].split() == ["1.53x", "0.0042", "59.4%", "58.1%", "2", "1.68x"]
    assert lines[7:10] == ["loss: sum of relative squared errors of the weights",
                           "what that does to the results is unknown: give --calibration IMAGES",
                           "predictions miss by up to 11% in speed-up"]
    assert not any(line.startswith(("measured on", "drop")) for line in lines)


def test_a_drop_is_for_class_scores_only():
    lines = rendered(front_report(front(loss_kind="output_error")), 80)
    assert lines[0].split()[-2:] == ["measured", "loss"]
    assert lines[3].split()[-1] == "0.0084"
    assert not any(line.startswith("drop") for line in lines)


@pytest.mark.parametrize("kind", LOSS_LABELS)
@pytest.mark.parametrize(("width", "wide"), [(80, False), (160, True)])
def test_the_report_fits(kind, width, wide):
    parts = front_report(front(loss_kind=kind), Path("front.svg"), wide=wide)
    assert isinstance(parts[0], Table)
    assert max(map(len, rendered(parts, 1000))) <= width  # nothing is cut or wrapped
    assert rendered(parts, width) == rendered(parts, 1000)
    assert rendered(parts, width)[-1] == "wrote front.svg"


def test_a_wide_table_spells_its_headers_out():
    lines = rendered(front_report(front(), wide=True), 160)
    assert re.split(r" {2,}", lines[0]) == [
        "predicted speed-up", "predicted loss", "MACs kept", "parameters kept", "layers rewritten",
        "measured speed-up", "measured loss", "accuracy drop, at most"]


def test_an_empty_front_says_why():
    assert rendered(front_report(front(points=())), 80) == [
        "nothing to trade: no layer that may change has a faster form",
        "    1 x few_channels: 1 input channel(s) cannot be reduced",
        "    2 x pointwise: a 1x1 kernel has no positions to divide"]


@pytest.mark.parametrize("loss", [0.0, math.inf, None])
def test_a_loss_that_has_no_ratio_does_not_count(loss):
    points = (POINTS[1], dataclasses.replace(POINTS[2], measured=Measurement(speedup=12.3, loss=loss, drop=loss)))
    lines = rendered(front_report(front(points=points)), 80)
    assert "predictions miss by up to 10% in speed-up and a factor of 2.0 in loss" in lines


@pytest.mark.parametrize(("value", "text"), [
    (None, ""), (0, "0"), (6.24e-8, "6.2e-08"), (0.00099, "9.9e-04"), (0.001, "0.001"), (0.0123, "0.012"), (0.5, "0.5"),
    (1.27, "1.3"), (9.94, "9.9"), (13.4, "13"), (4321.0, "4321"), (math.inf, "inf")])
def test_small_numbers(value, text):
    assert small(value) == text


# ---- JSON ----

def test_the_document():
    points = (*POINTS[:2], dataclasses.replace(POINTS[2], measured=Measurement(speedup=3, loss=math.inf, drop=0.5)))
    found = json.loads(json.dumps(front_json(front(points=points), Path("front.svg")), allow_nan=False))
    assert list(found) == ["schema_version", "tool", "command", "environment", "model", "data", "held_out_images",
                           "loss", "plot", "totals", "points", "never", "warnings"]
    assert (found["schema_version"], found["command"], found["plot"]) == (1, "explore", "front.svg")
    assert found["model"] == {"path": "net.onnx", "sha256": "cd" * 32, "opset": 17}
    assert found["environment"]["threads"] == 2
    assert found["totals"] == {"before": {"params": 435_000, "macs": 111_183_424}, "whole_s": 0.00234}
    assert (found["loss"], found["held_out_images"], found["data"]["images"]) == ("kl_divergence", 51, 256)
    assert found["points"][0] == {
        "speedup": 1.0512, "loss": 6.24e-8, "macs_kept": 0.9534, "params_kept": 0.9411, "layers": 1, "measured": None,
        "rewrites": {"a/5x5": {"strategy": "reduce", "ranks": [32]}}}
    assert found["points"][1]["measured"] == {"speedup": 1.6786, "loss": 0.0084, "drop": 0.00312}
    assert found["points"][1]["rewrites"]["b/3x3"] == {"strategy": "spatial", "ranks": [128]}
    assert found["points"][2]["measured"]["loss"] is None
    assert [s["layer"] for s in found["never"]] == ["stem", "a/1x1", "b/1x1"]
    assert found["warnings"] == ["a note"]


# ---- the picture ----

@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_front_gives_the_same_bytes(suffix, monkeypatch):
    mpl = pytest.importorskip("matplotlib")
    first = front_image(front(), suffix)
    start = {".svg": b"<?xml", ".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF"}[suffix]
    assert first.startswith(start)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 4, "svg.fonttype": "none"}):  # the user's own taste
        again = front_image(front(), suffix)
        assert mpl.rcParams["lines.linewidth"] == 9
    assert again == first
    assert front_image(front(points=POINTS[:2]), suffix) != first


def marks(image, colour):
    """Positions of the markers of a colour in an SVG, x and y in points."""
    found = []
    for use in ElementTree.fromstring(image).iter("{http://www.w3.org/2000/svg}use"):
        if f"fill: {colour}" in use.get("style", ""):
            found.append((float(use.get("x")), float(use.get("y"))))
    return found


def test_points_lie_where_they_belong():
    pytest.importorskip("matplotlib")
    image = front_image(front(), ".svg").decode()
    predicted, measured = marks(image, "#0072b2")[:3], marks(image, "#d55e00")[:2]
    assert len(marks(image, "#0072b2")) == 4  # one more in the legend
    assert len(marks(image, "#d55e00")) == 3
    scale = (predicted[2][0] - predicted[0][0]) / (12.3 - 1.0512)
    height = (predicted[2][1] - predicted[0][1]) / math.log(1.27 / 6.24e-8)
    assert scale > 0 > height  # in SVG, y grows downwards
    for (x, y), (speedup, loss) in zip(predicted + measured, [
            (1.0512, 6.24e-8), (1.526, 0.0042), (12.3, 1.27), (1.6786, 0.0084), (10.9, 13.4)], strict=True):
        assert x == pytest.approx(predicted[0][0] + scale * (speedup - 1.0512), abs=0.01)  # SVG has six decimals
        assert y == pytest.approx(predicted[0][1] + height * math.log(loss / 6.24e-8), abs=0.01)


def test_without_data_only_the_speed_of_a_point_moves():
    pytest.importorskip("matplotlib")
    image = front_image(from_weights(), ".svg").decode()
    predicted, measured = marks(image, "#0072b2")[1:3], marks(image, "#d55e00")[:2]
    assert [y for _, y in measured] == pytest.approx([y for _, y in predicted])
    assert measured[0][0] > predicted[0][0]
    assert measured[1][0] < predicted[1][0]


@pytest.mark.parametrize("points", [
    POINTS[:1], (dataclasses.replace(POINTS[0], loss=0.0),),
    (dataclasses.replace(POINTS[1], measured=Measurement(speedup=1.5, loss=0.0, drop=0.0)), POINTS[2])], ids=range(3))
def test_odd_fronts_can_be_drawn(points):
    pytest.importorskip("matplotlib")
    image = front_image(front(points=points), ".SVG").decode()
    assert len(marks(image, "#0072b2")) == len(points) + 1


@pytest.mark.parametrize("name", ["front", "front.jpg", "front.svg.gz", "svg"])
def test_an_unknown_kind_of_picture_is_refused(name):
    with pytest.raises(OptionError, match=rf"^--plot {re.escape(name)}: unknown kind of picture; name a file that ends "
                                          r"in \.svg or \.png or \.pdf$"):
        require_drawable(Path(name))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"^--plot f\.svg: drawing needs matplotlib \(.*\); pip install "
                                          r"'onnxslim1x1\[plot\]'$"):
        require_drawable(Path("f.svg"))


@pytest.mark.parametrize("name", ["a.svg", "a.PNG", "x/y.pdf"])
def test_known_kinds_of_pictures_are_fine(name):
    pytest.importorskip("matplotlib")
    require_drawable(Path(name))
