"""The page of a report, looked at in a real browser without a network: Debian's chromium, driven by playwright."""

from dataclasses import replace

import pytest

from onnxslim1x1.report.documents import record
from onnxslim1x1.report.page import html_page
from onnxslim1x1.report.views import view

pytestmark = pytest.mark.slow


def page_of(*analyses, sort="graph"):
    return html_page(record(view(list(analyses), sort, None).document()))


def near(color, wanted):
    return all(abs(a - b) <= 6 for a, b in zip(color, wanted, strict=True))


BLUE, ORANGE = (0, 0x72, 0xB2), (0xE6, 0x9F, 0)
PLOTS = ("overview", "spectra", "roofline", "operators")


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_works_at_any_width_and_in_the_dark_without_a_network(show, analysed, width, scheme):
    shown = show(page_of(analysed), width=width, scheme=scheme)
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith("file://")] == []
    assert len(shown.requests) == 1
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    for name in PLOTS:
        box = shown.page.locator(f"#plot-{name}").bounding_box()
        assert 0 < box["x"] < box["x"] + box["width"] <= width
        assert box["height"] > 100
        pixels = shown.colors(f"#plot-{name}")
        ground = max(pixels, key=pixels.get)
        assert sum(n for color, n in pixels.items() if not near(color, ground)) > 1500, name
        assert (sum(ground) < 150) == (scheme == "dark"), name
    for tile in shown.page.locator(".tile, .card").all():
        box = tile.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    columns = shown.page.locator("#layers th:visible").all_inner_texts()
    assert columns == (["layer", "MACs", "ms", "rewrite"] if width == 400 else [
        "layer", "kind", "kernel", "in", "out", "params", "MACs", "of MACs", "ms", "of time", "GMAC/s", "of roof",
        "bound by", "rewrite", "error", "ms after"])


def test_it_follows_the_taste_of_the_user_while_it_is_open(show, analysed):
    shown = show(page_of(analysed))
    for scheme, dark in (("dark", True), ("light", False)):
        shown.page.emulate_media(color_scheme=scheme)
        shown.page.wait_for_timeout(300)
        for place in ("#plot-roofline", "header"):
            pixels = shown.colors(place)
            assert (sum(max(pixels, key=pixels.get)) < 150) == dark


def test_names_do_no_harm(show, analysed):
    shown = show(page_of(analysed))
    assert analysed.layers[2].layer.name in shown.names()
    shown.page.locator("#layers tbody tr").nth(2).click()
    assert shown.selected() == analysed.layers[2].layer.name
    assert shown.page.locator("img").count() == 0
    assert shown.complaints == []


def test_the_table_sorts(show, analysed):
    shown = show(page_of(analysed))
    names = [p.layer.name for p in analysed.layers]
    by_time = sorted(analysed.layers, key=lambda p: -p.time_s)
    header = shown.page.locator("#layers th", has=shown.page.get_by_text("ms", exact=True))
    header.locator("button").click()
    assert shown.names() == [p.layer.name for p in by_time]
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").click()
    assert shown.names() == [p.layer.name for p in reversed(by_time)]
    shown.page.get_by_role("button", name="ms after").click()
    assert shown.names() == [names[2], names[1], names[0], names[3], names[4]]  # what is unknown comes last
    shown.page.get_by_role("button", name="ms after").click()
    assert shown.names() == [names[1], names[2], names[0], names[3], names[4]]
    shown.page.get_by_role("button", name="layer").click()
    assert shown.names()[1:] == ["block/mix", "block/wide", "head", "stem"]


def test_the_table_is_searched(show, analysed):
    shown = show(page_of(analysed))
    field, status = shown.page.locator("#search"), shown.page.locator("#found")
    assert status.inner_text() == "5 of 5"
    for words, found in (("reduce", 2), ("BLOCK", 2), ("block reduce", 1), ("3x3/2", 1), ("nonsense", 0), ("", 5)):
        field.fill(words)
        assert len(shown.names()) == found, words
        assert status.inner_text() == f"{found} of 5"


@pytest.mark.parametrize("width", [400, 1400])
def test_a_click_into_the_strip_selects_a_layer_everywhere(show, analysed, width):
    shown = show(page_of(analysed), width=width)
    assert shown.selected() == analysed.layers[2].layer.name  # the one that takes most time
    for row in (1, 4, 0):
        for height in (62, 250):  # the strip, and the bars below it
            shown.click_overview((row + 0.5) / 5, height)
            shown.await_selection(analysed.layers[row].layer.name)
            assert shown.page.locator("tr.picked").get_attribute("data-row") == str(row)
            assert [source["picked"] for source in shown.models("rows")] == [[row]] * 3  # strip, bars, roofline
            shown.page.locator("#layers tbody tr").nth(3).click()
            assert shown.selected() == "block/mix"
            assert [source["picked"] for source in shown.models("rows")] == [[3]] * 3


def test_the_order_of_the_table_does_not_change_what_a_click_selects(show, analysed):
    shown = show(page_of(analysed, sort="time"))
    assert shown.names()[0] == analysed.layers[2].layer.name
    shown.click_overview(0.1, 62)
    shown.await_selection("stem")


def test_the_proposed_rank_is_marked_on_its_curve(show, analysed):
    shown = show(page_of(analysed))
    for row, size in ((1, 24), (2, 80)):
        shown.page.locator("#layers tbody tr").nth(row).click()
        offered = analysed.layers[row].proposal
        (mark,) = shown.models("mark")
        assert mark["data"]["x"] == [pytest.approx(100 * offered.ranks[0] / size)]
        assert mark["data"]["y"] == [pytest.approx(offered.error)]
        assert mark["data"]["text"] == [f"reduce {offered.ranks[0]}"]
        (curve,) = shown.models("curve_weights_0")
        assert curve["data"]["x"][-1] == pytest.approx(100)
        assert curve["data"]["y"][0] == 1.0
        assert curve["data"]["y"][-1] == pytest.approx(0, abs=2e-3)
        kept = analysed.layers[row].weight_spectra.inputs.kept
        assert curve["data"]["y"][1] == pytest.approx((1 - kept[0]) ** 0.5, abs=1e-3)
        assert shown.page.locator("#curves li").count() == 3
    shown.page.locator("#layers tbody tr").nth(0).click()  # a layer without spectra
    assert shown.page.locator("#spectra").is_hidden()
    assert shown.page.locator("#no-spectra").is_visible()
    assert shown.models("mark")[0]["data"]["x"] == []


def test_stages_are_named_where_there_is_room(show, analysed):
    wide = show(page_of(analysed)).models("stages")[0]["data"]
    assert wide["label"] == ["17x19", "9x10", "dense"]
    assert wide["shown"] == wide["label"]
    assert wide["left"] == [pytest.approx(x - 0.46) for x in (0, 2, 4)]
    assert wide["right"] == [pytest.approx(x + 0.46) for x in (1, 3, 4)]
    many = replace(analysed, layers=tuple(
        replace(p, layer=replace(p.layer, name=f"{k} {p.layer.name}", index=100 * k + p.layer.index))
        for k in range(12) for p in analysed.layers))
    narrow = show(page_of(many), width=400).models("stages")[0]["data"]
    assert set(narrow["shown"]) == {""}  # they would lie on each other


def test_what_was_not_measured_is_not_drawn(show, unmeasured):
    shown = show(page_of(unmeasured))
    assert shown.complaints == []
    assert [name for name in PLOTS if shown.page.locator(f"#plot-{name}").count()] == ["overview"]
    assert "time" not in shown.page.locator(".legend").all_inner_texts()
    assert "of time" not in shown.page.locator("#layers th").all_inner_texts()
    shown.page.locator("#layers tbody tr").nth(1).click()
    assert shown.selected() == "block/wide"


@pytest.mark.parametrize("width", [400, 1400])
def test_a_comparison_shows_pairs(show, compared, width):
    shown = show(page_of(compared.before, compared.after), width=width)
    assert shown.complaints == []
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    names = [(m.before or m.after)[-1] for m in compared.matches]
    assert shown.names() == names
    pixels = shown.colors("#plot-overview")
    assert all(sum(n for color, n in pixels.items() if near(color, wanted)) > 100 for wanted in (BLUE, ORANGE))
    (rows,) = shown.models("rows")
    assert rows["data"]["after"][1] == pytest.approx(1.5)
    shown.page.locator("#layers tbody tr").nth(1).click()
    assert shown.selected() == "block/wide"
    text = shown.page.inner_text("#selected-facts")
    assert "block/wide/reduce: 1x24x17x19 → 1x8x17x19, kernel 1x1" in text
    shown.click_overview(0.1, 100)
    shown.await_selection("stem")


def test_a_model_without_layers_has_a_page(show, analysed):
    shown = show(page_of(replace(analysed, layers=())))
    assert shown.complaints == []
    assert shown.page.locator("#layers").count() == 0
