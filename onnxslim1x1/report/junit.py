"""The promises of a run as JUnit XML, which every CI service shows as tests."""

from __future__ import annotations

import re
from typing import Any

from onnxslim1x1.report.outcome import Outcome, judgement
from onnxslim1x1.report.validation import verdict_lines
from onnxslim1x1.runtime.verdict import Gate

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def junit_text(outcome: Outcome) -> bytes:
    """One suite; one test per promise, its class says what it is about: accuracy or latency."""
    from junitparser import JUnitXml
    from junitparser.xunit2 import TestSuite

    suite = TestSuite(_clean(f"onnxslim1x1 {outcome.command}"))
    for name, value in _properties(outcome).items():
        suite.add_property(name, _clean(value))
    suite.add_testcases([_gate_case(outcome.command, gate) for gate in outcome.gates])
    if outcome.command == "slim":
        suite.add_testcase(_change_case(outcome))
    suite.update_statistics()
    document = JUnitXml()
    document.append(suite)
    return bytes(document.tostring())


def _properties(outcome: Outcome) -> dict[str, str]:
    found = {"original": outcome.original, "rewritten": outcome.rewritten or ""}
    if outcome.report is not None:
        found |= {"data": outcome.report.data, "images": str(outcome.report.images),
                  "latency": "\n".join(verdict_lines(outcome.report))}
    return found | {f"warning {number}": text for number, text in enumerate(outcome.warnings, 1)}


def _gate_case(command: str, gate: Gate) -> Any:
    from junitparser import Failure
    from junitparser.xunit2 import TestCase

    case = TestCase(_clean(gate.name), classname=f"onnxslim1x1.{command}.{gate.kind}")
    case.system_out = _clean(judgement(gate))
    if not gate.passed:
        case.result = [Failure(_clean(judgement(gate)), type_=gate.kind)]
    return case


def _change_case(outcome: Outcome) -> Any:
    """Whether something was rewritten at all; if not, that is no failure, but worth seeing."""
    from junitparser import Skipped
    from junitparser.xunit2 import TestCase

    case = TestCase("rewritten", classname="onnxslim1x1.slim.change")
    if outcome.unchanged is not None:
        case.result = [Skipped(_clean(outcome.unchanged))]
    else:
        case.system_out = _clean("\n".join(f"{p.layer}: {p.strategy} {'x'.join(map(str, p.ranks))}"
                                           for p in outcome.layers))
    return case


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold: layers are called whatever they like."""
    return _NOT_IN_XML.sub("?", text)
