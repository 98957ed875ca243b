"""The page of a validation, looked at in a real browser without a network."""

import math
from dataclasses import replace

import pytest

from onnxslim1x1.report.documents import record
from onnxslim1x1.report.page import html_page

pytestmark = pytest.mark.slow

SECTIONS = ("verdict", "plan", "latency", "accuracy", "outputs", "footprint", "gates", "growth", "shifts", "worst",
            "environment")
PLOTS = ("ratios", "times_0", "times_1", "times_2", "growth", "excesses")


def page_of(document):
    return html_page(record(document))


def near(color, wanted):
    return all(abs(a - b) <= 6 for a, b in zip(color, wanted, strict=True))


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_works_at_any_width_and_in_the_dark_without_a_network(show, judged, as_slimmed, width, scheme):
    shown = show(page_of(as_slimmed(judged)), width=width, scheme=scheme)
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith(("file://", "data:image/png;"))] == []
    assert sum(url.startswith("file://") for url in shown.requests) == 1
    assert shown.page.evaluate("document.documentElement.scrollWidth") == width
    for name in SECTIONS:
        section = shown.page.locator(f"#{name}")
        assert section.is_visible(), name
        box = section.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    for name in PLOTS:
        box = shown.page.locator(f"#plot-{name}").bounding_box()
        assert 0 < box["x"] < box["x"] + box["width"] <= width
        pixels = shown.colors(f"#plot-{name}")
        ground = max(pixels, key=pixels.get)
        assert sum(n for color, n in pixels.items() if not near(color, ground)) > 1000, name
        assert (sum(ground) < 150) == (scheme == "dark"), name
    for picture in shown.page.locator(".gallery img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth") == 32
        assert picture.bounding_box()["width"] > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_stands_on_top_in_its_colour(show, judged, failed, as_validated, scheme):
    seen = set()
    for report, tone, start in ((judged, "good", "Faster: 1.50x"), (failed, "bad", "FAILED: 2 of 4"),
                                (replace(judged, latencies=judged.latencies[2:]), "open", "Every promise holds, but")):
        shown = show(page_of(as_validated(report)), scheme=scheme)
        assert shown.complaints == []
        heading = shown.page.locator("#verdict h2")
        assert heading.inner_text().startswith(start)
        assert shown.page.locator("main > section").first.get_attribute("id") == "verdict"
        color = heading.evaluate("e => getComputedStyle(e).color")
        edge = shown.page.locator("#verdict").evaluate("e => getComputedStyle(e).borderLeftColor")
        assert color == edge
        ground = shown.page.locator("#verdict").evaluate("e => getComputedStyle(e).backgroundColor")
        assert contrast(color, ground) > 4.5, tone  # WCAG 2.1, level AA
        seen.add(color)
    assert len(seen) == 3


def contrast(first, second):
    """Contrast ratio of two CSS colours by WCAG 2.1."""
    def luminance(text):
        parts = [float(x) / 255 for x in text[text.index("(") + 1:-1].split(",")[:3]]
        red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [400, 1400])
def test_a_point_and_its_row_select_each_other(show, judged, as_validated, width):
    shown = show(page_of(as_validated(judged)), width=width)
    worst = max(range(len(judged.layers)), key=lambda i: judged.layers[i].rel_error)
    assert shown.selected() == judged.layers[worst].node
    shown.page.locator("#layers tbody tr").nth(5).locator("button").click()
    assert shown.selected() == judged.layers[5].node  # a name that looks like HTML
    assert [source["picked"] for source in shown.models("rows")] == [[5]]
    (rows,) = shown.models("rows")
    assert rows["data"]["y"][2] == pytest.approx(3.0)
    plot = shown.page.locator("#plot-growth")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    frame = shown.page.evaluate("""() => {
        const figure = Bokeh.documents.flatMap(d => d.roots()).find(r => r.references().has(
            [...r.references()].find(m => m.name === "rows")));
        return {width: figure.inner_width, height: figure.inner_height, start: figure.x_range.start,
                end: figure.x_range.end, low: figure.y_range.start, high: figure.y_range.end}; }""")
    across = (18 - frame["start"]) / (frame["end"] - frame["start"])
    up = math.log(rows["data"]["y"][18] / frame["low"]) / math.log(frame["high"] / frame["low"])
    right, top = box["x"] + box["width"] - 8, box["y"] + 5  # what the plot leaves free at its sides
    shown.click(right - frame["width"] * (1 - across), top + frame["height"] * (1 - up))
    shown.await_selection(judged.layers[18].node)
    assert shown.page.locator("tr.picked").get_attribute("data-row") == "18"
    shown.page.locator("#search").fill("block10")
    assert shown.names() == ["stage1/block10"]


def test_tables_of_layers_sort_by_growth(show, judged, as_validated):
    shown = show(page_of(as_validated(judged)))
    header = shown.page.locator("#layers th", has=shown.page.get_by_text("error", exact=True))
    header.locator("button").click()
    errors = sorted(judged.layers, key=lambda x: -x.rel_error)
    assert shown.names()[:5] == [x.node for x in errors[:5]]


def test_the_distributions_show_every_run_or_count_it(show, judged, as_validated):
    shown = show(page_of(as_validated(judged)))
    kept = judged.latencies[0].samples
    texts = shown.page.evaluate("""() => Bokeh.documents.flatMap(d => d.roots().flatMap(r => [...r.references()]))
        .filter(m => m.type === 'ColumnDataSource').map(m => Object.fromEntries(Object.entries(m.data)
        .map(([k, v]) => [k, [...v]])))""")
    points = [source for source in texts if len(source.get("x", [])) > 100]
    beyond = [int(source["text"][0].split()[0]) for source in texts if "slower" in str(source.get("text", ""))]
    assert len(points) == 9
    assert sum(len(source["x"]) for source in points) + sum(beyond) == 9 * len(kept.original)
    assert beyond  # there are spikes


def test_what_failed_is_no_trap(show, failed, as_validated, as_slimmed):
    for document in (as_validated(failed), as_slimmed(None), as_slimmed(failed, unchanged="not faster")):
        shown = show(page_of(document), width=400)
        assert shown.complaints == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 400
        assert shown.page.locator("#layers").count() == 0


def test_names_do_no_harm(show, judged, as_slimmed):
    shown = show(page_of(as_slimmed(judged)))
    assert shown.page.locator("img").count() == 5
    assert judged.layers[5].node in shown.names()
    assert judged.worst[0].name in shown.page.locator("#worst").inner_text()
    assert shown.complaints == []
