"""The benchmark of whole processes measures what it says."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks" / "tool_speed.py"
SPEC = importlib.util.spec_from_file_location("tool_speed", SCRIPT)
tool_speed = importlib.util.module_from_spec(SPEC)
sys.modules["tool_speed"] = tool_speed  # dataclasses look their module up
SPEC.loader.exec_module(tool_speed)


def case(code, tool="python"):
    return tool_speed.Case(task="analyze", model="resnet50", tool=tool, command=[sys.executable, "-c", code])


def test_time_and_memory_are_those_of_the_process():
    # from a process of its own, as the script is: a child counts the memory of what it was forked from
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from tool_speed import Case, Figures, run_once
figures = Figures()
for code in ("import time; x = bytearray(200_000_000); time.sleep(0.3)", "pass"):
    run_once(Case(task="t", model="m", tool="p", command=[sys.executable, "-c", code]), figures)
print(figures.wall_s[0] >= 0.3, figures.peak_bytes[0] > 190e6, figures.peak_bytes[1] < 60e6, figures.exit_codes)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "True True True [0, 0]\n"


def test_a_process_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(tool_speed, "LIMIT_S", 0.5)
    figures = tool_speed.Figures()
    tool_speed.run_once(case("import time; time.sleep(60)"), figures)
    assert figures.failed
    assert figures.wall_s[0] < 30


def test_tools_take_turns_and_slow_ones_run_less(monkeypatch):
    order = []

    def fake(one, figures):
        order.append(one.tool)
        figures.wall_s.append({"slow": 30.0}.get(one.tool, 0.1))
        figures.exit_codes.append(3 if one.tool == "broken" else 0)
        figures.peak_bytes.append(10**8)

    monkeypatch.setattr(tool_speed, "run_once", fake)
    cases = [case("", tool) for tool in ("quick", "slow", "broken", "other")]
    found = tool_speed.measured(cases, runs=3, patience=20.0)
    assert order == ["quick", "slow", "broken", "other", "quick", "other", "quick", "other"]
    lines = tool_speed.table(found).splitlines()
    assert lines[2] == "| analyze | ResNet-50, 102 MB | quick | 0.10 | 0.10 | 3 | 100 |"
    assert "broken (exit code 3)" in lines[4]
    assert [row["tool"] for row in tool_speed.as_json(found)] == ["quick", "slow", "broken", "other"]


def test_the_curve_is_drawn_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    found = [(tool_speed.Case(task=task, model=str(n), tool="ours", command=[]),
              tool_speed.Figures(wall_s=[n / 1e4])) for task in ("analyze", "slim") for n in (1000, 2000)]
    for name in ("a.svg", "b.svg"):
        tool_speed.draw(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes() != b""
