"""Lines for GitHub Actions, read back as its runner reads them."""

import dataclasses
import re

from onnxslim1x1.report.annotations import annotation_lines


def read(line):
    """Command, properties and message, unescaped in the runner's order (actions/runner, ActionCommand)."""
    command, properties, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()

    def plain(text, more=()):
        for escaped, real in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
            text = text.replace(escaped, real)
        return text

    pairs = [pair.split("=", 1) for pair in properties.split(",")]
    return command, {k: plain(v, (("%3A", ":"), ("%2C", ","))) for k, v in pairs}, plain(message)


def test_broken_promises_are_errors(broken):
    lines = list(annotation_lines(broken))
    assert [read(line) for line in lines[:4]] == [
        ("error", {"title": "onnxslim1x1 validate: accuracy"}, "max_drop is 0.25, at most 0.01 was promised"),
        ("error", {"title": "onnxslim1x1 validate: latency"},
         "min_speedup could not be measured, at least 1.2 was promised"),
        ("error", {"title": "onnxslim1x1 validate: layer"}, "n3 adds an error of its own: 17.0 dB"),
        ("error", {"title": "onnxslim1x1 validate: layer"}, "n1 adds an error of its own: 19.0 dB")]
    assert read(lines[-1])[0] == "notice"


def test_one_line_each_whatever_they_say(passed):
    lines = list(annotation_lines(passed))
    assert read(lines[0]) == ("warning", {"title": "onnxslim1x1 slim"}, "input x: 100 % of N,\r\nset to 1")
    assert all("\n" not in line and "\r" not in line for line in lines)
    assert read(lines[-1])[2].startswith("faster: 1.80x")


def test_nothing_changed_is_a_notice(unchanged):
    assert [read(line) for line in annotation_lines(unchanged)] == [
        ("notice", {"title": "onnxslim1x1 slim"}, "unchanged: no layer is worth rewriting")]


def test_what_looks_escaped_comes_back_as_it_was(unchanged):
    text = "50%0A of %25, %3A"
    assert read(next(iter(annotation_lines(dataclasses.replace(unchanged, warnings=(text,))))))[2] == text
