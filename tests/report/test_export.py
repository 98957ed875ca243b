"""CSV and Markdown: exact figures, and names that mean something to neither."""

import csv
import dataclasses
import io
import re

import pytest
from markdown_it import MarkdownIt

from onnxslim1x1.report.documents import record
from onnxslim1x1.report.export import csv_text, markdown_text
from onnxslim1x1.report.facts import headroom, model_facts
from onnxslim1x1.report.rows import sheet
from onnxslim1x1.report.views import view


def made(*analyses, **options):
    return record(view(list(analyses), options.get("sort", "graph"), options.get("top")).document())


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# ---- CSV ----

def test_csv_holds_exact_figures(analysed):
    found = rows(csv_text(made(analysed)))
    assert [r["layer"] for r in found] == [p.layer.name for p in analysed.layers]
    for row, p in zip(found, analysed.layers, strict=True):
        assert int(row["macs"]) == p.macs
        assert int(row["params"]) == p.params
        assert int(row["index"]) == p.layer.index
        assert float(row["time_ms"]) == pytest.approx(1e3 * p.time_s, rel=1e-12)
        assert float(row["macs_share"]) == pytest.approx(p.macs / analysed.macs, rel=1e-12)
        assert float(row["time_share"]) == pytest.approx(p.time_s / analysed.time_s, rel=1e-12)
        assert float(row["roof_share"]) == pytest.approx(p.roof.fraction, rel=1e-12)
        assert row["bound"] == p.roof.bound
        assert row["error"] == (str(p.proposal.error) if p.proposal else "")
    assert [r["rewrite"] for r in found] == ["few_channels", "reduce 8", "reduce 40", "flat_spectrum", "dense"]
    assert {r["kernel"] for r in found} == {"7x5/2", "3x3", "3x3/2", "1x1", "dense"}


def test_csv_without_a_measurement_has_no_empty_columns(unmeasured):
    text = csv_text(made(unmeasured))
    assert text.splitlines()[0] == "layer,index,kind,kernel,in_shape,out_shape,params,macs,macs_share,rewrite"
    assert all(all(row.values()) for row in rows(text))


def test_csv_of_a_comparison(compared):
    found = rows(csv_text(made(compared.before, compared.after)))
    by_name = {r["layer"]: r for r in found}
    chain = by_name["block/wide"]
    assert (chain["before"], chain["after"]) == ("block/wide", "block/wide/reduce + block/wide")
    assert float(chain["time_ms_after"]) == pytest.approx(1.5)
    assert float(chain["time_ratio"]) == pytest.approx(0.5)
    assert int(chain["macs_after"]) == compared.matches[1].macs.after
    assert (by_name["block/mix"]["found"], by_name["block/mix"]["after"]) == ("removed", "")
    assert (by_name["extra"]["found"], by_name["extra"]["macs_before"]) == ("added", "")


def test_csv_keeps_order_and_selection(analysed):
    found = rows(csv_text(made(analysed, sort="time", top=2)))
    assert [float(r["time_ms"]) for r in found] == [5.0, 3.0]


def test_the_same_bytes_every_time(analysed, compared):
    for analyses in ((analysed,), (compared.before, compared.after)):
        assert csv_text(made(*analyses)) == csv_text(made(*analyses))
        assert markdown_text(made(*analyses)) == markdown_text(made(*analyses))


# ---- Markdown ----

def cells(text):
    """Texts of the body of the table, as a Markdown parser of another house sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert sum(t.type == "table_open" for t in tokens) == 1
    start = next(i for i, t in enumerate(tokens) if t.type == "tbody_open")
    body = [t for t in tokens[start:] if t.type in ("inline", "tr_open")]
    found = []
    for token in body:
        if token.type == "tr_open":
            found.append([])
        elif found:
            assert {c.type for c in token.children} <= {"text", "text_special"}, token.content
            found[-1].append("".join(c.content for c in token.children))
    return found


def test_markdown_shows_names_as_they_are(analysed):
    found = cells(markdown_text(made(analysed)).partition("\n* input")[0])
    assert [row[0] for row in found] == [p.layer.name for p in analysed.layers]
    assert {len(row) for row in found} == {len(sheet(made(analysed)).columns)}


@pytest.mark.parametrize("name", ["a_b_c", "_a_", "__init__", "*x*", "a|b", "`c`", "<b>x</b>", "[l](u)", "a\\b",
                                  "~~s~~", "x: y", "1. a", "größe/卷积", "{{x}}", "&amp;"])
def test_markdown_of_odd_names(analysed, name):
    layers = tuple(dataclasses.replace(p, layer=dataclasses.replace(p.layer, name=name)) for p in analysed.layers[:1])
    assert cells(markdown_text(made(dataclasses.replace(analysed, layers=layers))))[0][0] == name


def test_markdown_says_what_was_found(analysed, compared):
    text = markdown_text(made(analysed))
    assert text.startswith("# models/net.onnx\n")
    assert "* latency: **12.5 ms** (median of 12 runs" in text
    assert "* processor: **Some CPU \\<8 cores\\>**" in text
    assert "* input x: free dimension N set to 1\n" in text
    text = markdown_text(made(compared.before, compared.after))
    assert text.startswith("# models/net.onnx and slim.onnx\n")
    assert re.search(r"^\* latency, median: \*\*12\.5 → 10\.5 ms\*\* \(1\.19x less\)$", text, re.MULTILINE)


# ---- statements ----

def fact(facts, label):
    return next(f for f in facts if f.label == label)


def test_the_gain_is_predicted_where_there_are_proposals(analysed):
    found = fact(model_facts(made(analysed)), "predicted gain")
    before = analysed.profile.total_kernel_s
    assert found.value == f"{before / (before - analysed.saved_s):.2f}x" == "1.40x"
    assert "kernels 12.2 to 8.7 ms" in found.note
    assert "from the weights alone, accuracy not checked" in found.note


def test_no_gain_is_claimed_without_proposals_or_measurements(analysed, unmeasured):
    none = dataclasses.replace(analysed, layers=tuple(dataclasses.replace(p, proposal=None) for p in analysed.layers))
    assert fact(model_facts(made(none)), "predicted gain").value == "none"
    found = fact(model_facts(made(unmeasured)), "predicted gain")
    assert (found.value, "not measured" in found.note) == ("-", True)
    assert "latency" not in {f.label for f in model_facts(made(unmeasured))}


def test_the_roofline_bounds_all_layers_together(analysed, unmeasured):
    least = sum(p.macs / p.roof.limit for p in analysed.layers)
    assert headroom(made(analysed)).value == f"{1e3 * least:.3g} ms"
    assert headroom(made(unmeasured)) is None
    assert headroom(made(analysed, top=2)) is None  # a bound of some layers is no bound of the model
