"""The page of a validation as text: the verdict, what is left out, and names that do no harm."""

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from onnxslim1x1.report.documents import record
from onnxslim1x1.report.page import html_page
from onnxslim1x1.report.validation_facts import accuracy_lines, facts, headline, title, verdict_lines
from onnxslim1x1.runtime.verdict import CheckResult, Gate


class Elements(HTMLParser):
    """What a parser of HTML finds: tags with attributes, sections with their text, and cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.sections, self._in, self._open = [], [], {}, None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "section":
            self._open.append(attrs.get("id"))
            self.sections.setdefault(attrs.get("id"), "")
        self._in = tag
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag == "section":
            self._open.pop()
        self._in = None

    def handle_data(self, data):
        if self._in == "td":
            self.cells[-1] += data
        for name in self._open:
            self.sections[name] += data


def page_of(document):
    return html_page(record(document))


EVERYTHING = {"verdict", "latency", "accuracy", "outputs", "footprint", "gates", "growth", "shifts", "worst",
              "environment"}


def sections(document):
    return {name for name in Elements(page_of(document)).sections if name}


def test_names_are_text_and_nothing_is_fetched(judged, as_slimmed):
    found = Elements(page_of(as_slimmed(judged)))
    assert judged.layers[5].node in found.cells
    assert judged.worst[0].name in found.sections["worst"]
    pictures = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    assert pictures == [w.picture for w in judged.worst if w.picture]
    assert not {tag for tag, _ in found.tags} & {"link", "iframe", "object", "base"}
    assert not [attrs for tag, attrs in found.tags if tag == "script" and "src" in attrs]
    policy = next(a["content"] for t, a in found.tags if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "http" not in policy


@pytest.mark.parametrize("picture", ["https://example.org/x.png", "javascript:alert(1)", "file:///etc/passwd", "x.png"])
def test_only_embedded_pictures_are_shown(judged, as_validated, picture):
    document = as_validated(judged)
    for sample in document["validation"]["worst"]:
        sample["picture"] = picture
    page = page_of(document)
    assert "<img src" not in page
    assert picture not in page
    assert page.count("no picture</div>") == len(judged.worst)


def test_data_cannot_end_its_element(judged, as_validated):
    page = page_of(as_validated(judged))
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(blocks) == 1 + 1 + 3 + 2  # data; ratios; times; growth, excesses
    assert all("<" not in block for block in blocks)
    data = json.loads(blocks[0])
    assert [row["name"] for row in data["rows"]] == [x.node for x in judged.layers]
    assert data["first"] == max(range(len(judged.layers)), key=lambda i: judged.layers[i].rel_error)


def test_the_page_of_a_file_has_the_same_bytes_in_every_process(judged, as_slimmed, tmp_path):
    source = tmp_path / "slim.json"
    source.write_text(json.dumps(as_slimmed(judged)), encoding="utf-8")
    pages = []
    for options in ((), ("--html", tmp_path / "other.html")):  # beside the file where nothing is said
        subprocess.run([sys.executable, "-m", "onnxslim1x1", "report", source, *options], check=True,
                       capture_output=True, timeout=120)
        pages.append((tmp_path / ("other.html" if options else "slim.html")).read_bytes())
    assert len(pages[0]) == len(pages[1])  # of two long texts pytest would look for a difference for minutes
    assert hash(pages[0]) == hash(pages[1])


# ---- sections ----

def test_everything_that_was_found_is_shown(judged, as_validated, as_slimmed):
    assert sections(as_validated(judged)) == EVERYTHING
    assert sections(as_slimmed(judged)) == EVERYTHING | {"plan"}
    assert sections(as_slimmed(None)) == {"verdict", "plan", "environment"}


@pytest.mark.parametrize(("changes", "gone"), [
    ({"latencies": ()}, "latency"), ({"figures": (), "classification": None}, "accuracy"), ({"outputs": ()}, "outputs"),
    ({"layers": ()}, "growth"), ({"shifts": ()}, "shifts"), ({"worst": ()}, "worst")])
def test_what_is_not_known_is_left_out(judged, as_validated, changes, gone):
    assert sections(as_validated(replace(judged, **changes))) == EVERYTHING - {gone}


def test_figures_of_every_section(judged, as_slimmed):
    found = Elements(page_of(as_slimmed(judged)))
    text = {name: " ".join(content.split()) for name, content in found.sections.items()}
    assert "1 thread faster 12.4 8.26 1.50 1.46 to 1.53 0.98 to 1.03" in text["latency"]
    assert "2 threads, batch 8 no difference shown" in text["latency"]
    assert "top-1 83.10% 82.70% -0.40 points -0.70 to -0.10 0.0093 4k" in text["accuracy"]
    assert "same class 96.10% 95.40 to 96.70" in text["accuracy"]
    assert "Judged as classification: output logits has one score for each class." in text["accuracy"]
    assert "calibration error 9.20% 9.51% +0.31 points" in text["accuracy"]
    assert "logits 23.5 dB 1.3 0.083" in text["outputs"]
    assert "MACs 125M 62.7M 2.00x less" in text["footprint"]
    assert "loading 31 ms 28 ms 1.11x less" in text["footprint"]
    assert "resident" not in text["footprint"]  # of one model only
    assert "noise sigma 8 top-1 4.10 points 4.72 points 0.62 points more, 0.15 to 1.08" in text["shifts"]
    assert "class 1 (cat) became 4 (dog)photos/0017.jpg, KL divergence 1.35" in text["worst"]
    assert "max_drop passed 0.004 at most 0.01" in text["gates"]
    assert "stage0/block2 reduce 16 0.058 29.5M 10.6M 1.80x" in text["plan"]
    assert "2 x pointwise: a 1x1 kernel is the reduction itselfa/1x1, b/1x1" in text["plan"]
    assert "stage0/block2 Conv rewritten 3% 30.5 enters here" in text["growth"]
    assert "Some CPU <8 cores>" in text["environment"]


def test_what_both_models_lost_adds_up(judged, as_validated):
    """Lost is clean minus changed where more is better, so the difference of the two is the excess."""
    document = as_validated(judged)["validation"]["shifts"][1]
    lost = [document["clean"][side] - document["figure"][side] for side in ("original", "rewritten")]
    assert lost[1] - lost[0] == pytest.approx(document["excess"])


# ---- the verdict ----

def test_the_verdict_in_a_few_words(judged, failed, as_validated, as_slimmed):
    first = judged.latencies[0]
    slower = replace(first, speedup=0.8, speedup_low=0.75, speedup_high=0.85)
    same = replace(first, speedup=1.01, speedup_low=0.99, speedup_high=1.02)
    cases = [
        (as_validated(judged), ("good", "Faster: 1.50x, and every promise holds")),
        (as_validated(replace(judged, latencies=(slower,))), ("bad", "Slower: 0.80x, though every promise holds")),
        (as_validated(replace(judged, latencies=(same,))),
         ("open", "Every promise holds, but no difference in speed can be shown")),
        (as_validated(replace(judged, latencies=())), ("open", "Every promise holds; latency was not measured")),
        (as_validated(failed), ("bad", "FAILED: 2 of 4 promises are broken")),
        (as_validated(replace(failed, gates=failed.gates[:2])), ("bad", "FAILED: 1 of 2 promises is broken")),
        (as_slimmed(judged), ("good", "Faster: 1.50x, and every promise holds")),
        (as_slimmed(judged, unchanged="no layer is worth it"), ("open", "Unchanged: no layer is worth it")),
        (as_slimmed(failed, unchanged="no layer is worth it"), ("bad", "FAILED: 2 of 4 promises are broken")),
        (as_slimmed(None), ("open", "Rewritten, but not compared with the original"))]
    for document, wanted in cases:
        assert headline(record(document)) == wanted
    assert 'verdict bad" id="verdict">\n    <h2>FAILED: 2 of 4 promises are broken</h2>' in page_of(cases[4][0])


def test_what_the_verdict_rests_on(judged, failed, as_validated):
    lines = verdict_lines(record(as_validated(failed)))
    assert lines[:3] == [("bad", "no new NaN or infinity: FAILED (12, bound 0)"),
                         ("bad", "min_speedup: FAILED (0.8, bound 1.2)"),
                         ("good", "kept: ONNX checker, inputs and outputs match")]
    assert lines[3][0] == "bad"
    assert lines[3][1].startswith("slower: 0.80x, 95 % interval 0.77 to 0.83")
    assert [text for _, text in lines[4:]] == ["logits: not finite", "same: identical"]
    lines = verdict_lines(record(as_validated(judged)))
    assert [tone for tone, _ in lines] == ["good", "good", "good", "open", "open", "open", "open", "open"]
    assert lines[1][1].startswith("1 thread: faster: 1.50x")
    assert lines[4][1] == "top-1: drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images, p = 0.0093"


def test_accuracy_without_intervals(judged, as_validated):
    def said(report):
        return accuracy_lines(record(as_validated(report)).validation)

    classes = judged.classification
    assert said(replace(judged, figures=())) == ["top-1 drop 0.40 points, same class for 96.10% of 4,000 images"]
    assert said(replace(judged, figures=(), classification=replace(
        classes, top1_drop=None, top1_original=None, top1_rewritten=None))) == ["same class for 96.10% of 4,000 images"]
    assert said(replace(judged, figures=(), classification=None)) == ["logits: 23.5 dB"]
    other = replace(judged.figures[0], output="aux")
    assert said(replace(judged, figures=(*judged.figures, other)))[0].startswith("logits, top-1: drop")


def values(report, as_validated):
    return {fact.label: fact.value for fact in facts(record(as_validated(report)).validation)}


def test_the_figures_to_see_first(judged, failed, as_validated):
    assert values(judged, as_validated) == {
        "speed": "1.50x", "top-1, points": "-0.40", "MACs": "125M → 62.7M", "parameters": "853k → 431k",
        "file": "1.73 MB", "compared on": "4,000"}
    assert values(replace(judged, figures=()), as_validated)["top-1, points"] == "-0.40"
    notes = {fact.label: fact.note for fact in facts(record(as_validated(judged)).validation)}
    assert notes["top-1, points"] == "95 % interval -0.70 to -0.10, 4,000 images"  # with the sign of the change
    assert notes["speed"] == "12.4 → 8.26 ms"
    assert values(failed, as_validated)["worst output"] == "not finite"
    same = dataclasses.replace(failed, outputs=failed.outputs[1:])
    assert values(same, as_validated)["worst output"] == "identical"


def test_what_did_not_change_is_the_same(judged, as_validated):
    same = replace(judged, size_rewritten_bytes=judged.size_original_bytes, cost_rewritten=judged.cost_original)
    notes = {fact.label: fact.note for fact in facts(record(as_validated(same)).validation)}
    assert (notes["file"], notes["MACs"]) == ("the same", "the same")


def test_titles(judged, as_validated, as_slimmed):
    assert title(record(as_validated(judged))) == "net.onnx → slim.onnx"
    assert title(record(as_slimmed(judged))) == "model → slim.onnx"
    assert title(record(as_slimmed(judged, output=None))) == "model"


def test_what_the_checker_says_is_shown(judged, as_validated):
    refused = replace(judged, checker=CheckResult(original_ok=False, rewritten_ok=False, message="original: bad <op>"))
    assert "ONNX checker: original: bad &lt;op&gt;" in page_of(as_validated(refused))


def test_broken_promises_come_first(failed, as_validated):
    found = Elements(page_of(as_validated(replace(failed, gates=(*failed.gates, Gate(
        name="min_snr_db", bound=30.0, value=None, passed=False, kind="accuracy"))))))
    start = found.cells.index("no new NaN or infinity")
    verdicts = [c for c in found.cells[start:] if c in ("passed", "FAILED")]
    assert verdicts == ["FAILED"] * 3 + ["passed"] * 2
