"""Sparklines and JSON of curves."""

import json

import pytest

from onnxslim1x1.report.spectra import LEGEND, sparkline, spectra_json
from onnxslim1x1.spec import SHARES, EnergyCurve, LayerSpectra


def test_levels_are_those_of_the_legend():
    shares = (0.2499, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999)
    curve = EnergyCurve(size=8, kept=shares)
    assert sparkline(curve, 8) == "▁▂▃▄▅▆▇█"
    words = LEGEND.replace("under ", "").replace(" %", "").replace(" and more", "").split(", ")
    told = {word.split()[0]: float(word.split()[1]) for word in words}
    assert told == {"▁": 25, "▂": 25, "▃": 50, "▄": 75, "▅": 90, "▆": 97, "▇": 99, "█": 99.9}


@pytest.mark.parametrize(("size", "kept", "expected"), [
    (3, (0.3, 0.8, 1.0), "▂▂▄▄██"),       # fewer directions than characters: each is shown twice
    (12, (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.91, 0.95, 0.98, 1.0), "▂▃▃▄▅█"),
    (12, (0.6, 0.95, 1.0), "▅█████"),     # of rank 3
    (1, (1.0,), "██████"),
    (7, (0.1, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0), "▃▃▄▅▆█"),  # rounded up: 2, 3, 4, 5, 6 and 7 of 7
])
def test_a_character_is_what_a_sixth_more_directions_carry(size, kept, expected):
    assert sparkline(EnergyCurve(size=size, kept=kept), 6) == expected
    assert sparkline(None, 6) == ""


@pytest.mark.parametrize("size", [1, 2, 9, 61, 62, 64, 65, 300, 4608])
def test_json_keeps_the_shape_of_a_curve_with_few_points(size):
    kept = tuple(1 - (1 - k / size)**8 for k in range(1, size + 1))
    curve = EnergyCurve(size=2 * size, kept=kept)
    found = json.loads(json.dumps(spectra_json(LayerSpectra(inputs=curve, outputs=None, positions=None,
                                                            separable=curve))))
    assert (found["outputs"], found["positions"]) == (None, None)
    assert found["inputs"] == found["separable"]
    points = found["inputs"]
    assert points["size"] == 2 * size
    assert points["directions"] == {"0.9": curve.directions(0.9), "0.99": curve.directions(0.99),
                                    "0.999": curve.directions(0.999)}
    assert {1, size, *map(curve.directions, SHARES)} <= set(points["ranks"])
    assert len(points["ranks"]) == min(size, len(points["ranks"])) <= 64
    assert points["ranks"] == sorted(set(points["ranks"]))
    assert points["kept"] == [pytest.approx(kept[rank - 1], abs=1e-6) for rank in points["ranks"]]
    gaps = [b - a for a, b in zip(points["ranks"], points["ranks"][1:], strict=False)]
    assert max(gaps, default=1) <= (1 if size <= 64 else size // 60 + 1)
    assert points["kept"][-1] == 1.0


def test_without_spectra():
    assert spectra_json(None) is None
