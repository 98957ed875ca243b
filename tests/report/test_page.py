"""The page of a report as text: names are text, data stays in its place, and nothing is fetched."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.documents import record
from onnxslim1x1.report.page import html_page
from onnxslim1x1.report.template import require_bokeh
from onnxslim1x1.report.views import view
from onnxslim1x1.strategies.redundancy import EnergyCurve, LayerSpectra


def document(*analyses, **options):
    return view(list(analyses), options.get("sort", "graph"), options.get("top")).document()


def page_of(*analyses, **options):
    return html_page(record(document(*analyses, **options)))


class Elements(HTMLParser):
    """What a parser of HTML finds: tags with attributes, and the text of the table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self._in = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
            self._in = tag

    def handle_endtag(self, tag):
        self._in = None if tag == "td" else self._in

    def handle_data(self, data):
        if self._in:
            self.cells[-1] += data


def test_names_are_text_and_nothing_is_fetched(analysed):
    found = Elements(page_of(analysed))
    assert analysed.layers[2].layer.name in found.cells
    assert not {tag for tag, _ in found.tags} & {"img", "link", "iframe", "object", "base"}
    assert not [attrs for tag, attrs in found.tags if tag == "script" and "src" in attrs]
    policy = next(a["content"] for t, a in found.tags if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_data_cannot_end_its_element(analysed):
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page_of(analysed), re.DOTALL)
    assert len(blocks) == 5
    assert all("<" not in block for block in blocks)
    rows = json.loads(blocks[0])["rows"]
    assert [row["name"] for row in rows] == [p.layer.name for p in analysed.layers]


def test_the_page_of_a_file_has_the_same_bytes_in_every_process(analysed, tmp_path):
    source = tmp_path / "result.json"
    source.write_text(json.dumps(document(analysed)), encoding="utf-8")
    pages = []
    for name in ("a.html", "b.html"):
        subprocess.run([sys.executable, "-m", "onnxslim1x1", "report", source, "--html", tmp_path / name], check=True,
                       capture_output=True, timeout=120)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_what_to_install_is_said_where_bokeh_is_missing(monkeypatch):
    require_bokeh("--html x.html")
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(OptionError, match=r"--html x\.html: a page needs bokeh \(.*\); pip install 'onnxslim"):
        require_bokeh("--html x.html")


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["rows"]


def test_a_proposal_is_marked_on_the_curve_of_what_its_error_is_of(analysed):
    """Of the weights without images, else of the outputs on them; a family is recognised by its error alone."""
    layer = analysed.layers[2]
    assert data_of(page_of(analysed))[2]["mark"]["x"] == pytest.approx(50)  # rank 40 of 80 inputs
    kept = (*(1 - 0.5 ** r for r in range(1, 40)), 1.0)
    seen = LayerSpectra(inputs=None, outputs=EnergyCurve(size=72, kept=kept), positions=None, separable=None)
    proposal = replace(layer.proposal, strategy="expand", ranks=(6,), error=0.5 ** 3)
    layers = (*analysed.layers[:2], replace(layer, activation_spectra=seen, proposal=proposal), *analysed.layers[3:])
    found = data_of(page_of(replace(analysed, layers=layers)))[2]
    assert found["mark"]["x"] == pytest.approx(100 * 6 / 72)
    assert found["mark"]["text"] == "expand 6"
    assert "its outputs on the images change by 0.125" in dict(found["facts"])["proposed"]
    several = replace(proposal, ranks=(6, 9))
    layers = (*layers[:2], replace(layers[2], proposal=several), *layers[3:])
    assert data_of(page_of(replace(analysed, layers=layers)))[2]["mark"] is None  # two ranks lie on two curves
