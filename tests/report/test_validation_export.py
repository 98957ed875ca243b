"""Markdown and CSV of validations."""

import csv
import io
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.documents import record
from onnxslim1x1.report.export import csv_text, markdown_text


def tables(text):
    """Rows of all tables by the heading above them, as a Markdown parser of another house sees them."""
    found, heading, after = {}, "", ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline" and after == "heading_open":
            heading = token.content
        elif token.type == "tr_open":
            found.setdefault(heading, []).append([])
        elif token.type == "inline" and heading in found and after in ("th_open", "td_open"):
            assert {c.type for c in token.children} <= {"text", "text_special"}, token.content
            found[heading][-1].append("".join(c.content for c in token.children))
        after = token.type
    return found


def test_markdown_says_what_was_found(judged, as_validated):
    text = markdown_text(record(as_validated(judged)))
    assert text.startswith("# net.onnx → slim.onnx\n\n**Faster: 1.50x, and every promise holds**\n\n* kept: ")
    assert "* top-1: drop 0.40 points, 95 % interval 0.10 to 0.70, 4,000 images, p = 0.0093\n" in text
    assert "* processor: **Some CPU \\<8 cores\\>**" in text
    found = tables(text)
    assert list(found) == ["Promises", "Latency", "Accuracy", "Differences per output", "Size, memory, loading",
                           "Changed inputs", "Error by layer"]
    assert found["Promises"][4] == ["max_drop", "passed", "0.004", "at most 0.01"]
    assert found["Latency"][2][:5] == ["2 threads", "faster", "8.14", "6.22", "1.31"]
    assert found["Accuracy"][2] == ["same class", "", "", "96.10%", "95.40 to 96.70", "-", "4k"]
    assert [row[0] for row in found["Error by layer"][1:]] == [x.node for x in judged.layers]
    assert all(len(rows[0]) == len(row) for rows in found.values() for row in rows)


def test_markdown_of_slim_has_the_plan_and_of_a_failure_what_broke(judged, failed, as_slimmed):
    found = tables(markdown_text(record(as_slimmed(judged))))
    assert [row[0] for row in found["Rewritten layers"][1:]] == [
        "stage0/block2", judged.layers[5].node, "stage1/block10"]
    text = markdown_text(record(as_slimmed(failed, environment=None)))
    assert "**FAILED: 2 of 4 promises are broken**" in text
    assert "* no new NaN or infinity: FAILED (12, bound 0)\n" in text
    assert "Environment" not in text
    text = markdown_text(record(as_slimmed(None)))
    assert "**Rewritten, but not compared with the original**" in text
    assert list(tables(text)) == ["Rewritten layers"]


def test_csv_holds_the_exact_errors_by_layer(judged, as_validated):
    rows = list(csv.DictReader(io.StringIO(csv_text(record(as_validated(judged))))))
    assert [row["node"] for row in rows] == [x.node for x in judged.layers]
    assert [float(row["rel_error"]) for row in rows] == [x.rel_error for x in judged.layers]
    assert [row["snr_db"] for row in rows] == [str(x.snr_db) if x.rel_error else "" for x in judged.layers]
    assert [row["rewritten"] == "rewritten" for row in rows] == [x.rewritten for x in judged.layers]
    assert [row["counterpart"] or row["tensor"] for row in rows] == [x.counterpart for x in judged.layers]


def test_csv_without_layers_is_refused(judged, as_validated, as_slimmed):
    for document in (as_validated(replace(judged, layers=())), as_slimmed(None)):
        with pytest.raises(OptionError, match="--csv: a table has one line per layer, and this validation did not"):
            csv_text(record(document))


def test_the_same_bytes_every_time(judged, as_slimmed):
    assert markdown_text(record(as_slimmed(judged))) == markdown_text(record(as_slimmed(judged)))
