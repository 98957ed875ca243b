"""The summary in Markdown: verdict on top, tables that are tables whatever layers are called."""

import dataclasses

from markdown_it import MarkdownIt

from onnxslim1x1.report.summary import summary_text


def html(outcome):
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(summary_text(outcome))


def test_the_verdict_is_on_top(passed, broken):
    assert html(passed).startswith("<h2>✅ onnxslim1x1 slim: passed</h2>")
    assert html(broken).startswith("<h2>❌ onnxslim1x1 validate: accuracy and latency FAILED</h2>")


def test_before_and_after_are_a_table(passed):
    text = html(passed)
    assert "<p>faster: 1.80x, 95 % interval 1.75 to 1.90;" in text
    row = next(part for part in text.split("<tr>") if "MACs" in part and "100M" in part)
    assert [cell in row for cell in ("100M", "40M", "2.50x less")] == [True] * 3


def test_every_gate_is_judged(broken):
    text = html(broken)
    assert "max_drop is 0.25, at most 0.01 was promised" in text
    assert "min_speedup could not be measured" in text
    assert text.count("❌") == 3  # title and two gates
    assert "<li>boxes: gone (missing_output)</li>" in text


def test_layers_behind_a_broken_promise_are_named(broken, passed):
    assert "Layers that add an error of their own" in html(broken)
    assert "n3" in html(broken)
    assert "Layers that add" not in html(passed)


def test_layers_are_folded_away(passed):
    text = html(passed)
    assert "<details><summary>1 layers were rewritten</summary>" in text
    assert "<details><summary>2 layers were left alone</summary>" in text
    assert "block/wide" in text


def test_hostile_names_stay_text(passed):
    text = html(dataclasses.replace(passed, original="a|b <b>*x*</b>.onnx"))
    assert "<img" not in text
    assert "<script" not in text
    assert "a|b &lt;b&gt;*x*&lt;/b&gt;.onnx" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_a_model_that_is_left_alone(unchanged):
    assert "net.onnx is left as it is: no layer is worth rewriting" in html(unchanged)


def test_without_a_comparison(passed):
    assert "models/net.onnx → models/slim.onnx" in html(dataclasses.replace(passed, report=None))
