"""Records as CSV, for spreadsheets, and as Markdown, for issues and wikis."""

from __future__ import annotations

import csv
import io

from onnxslim1x1.report.facts import Fact, compared_facts, environment_facts, headroom, model_facts
from onnxslim1x1.report.markdown import plain, row
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, Record
from onnxslim1x1.report.rows import Sheet, sheet


def csv_text(record: Record) -> str:
    """One line per layer with exact numbers, under the names of the columns; what is unknown is empty."""
    table = sheet(record)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(column.key for column in table.columns)
    writer.writerows(["" if cell.value is None else cell.value for cell in row] for row in table.rows)
    return lines.getvalue()


def markdown_text(record: Record) -> str:
    """Heading, totals and the table of layers in GitHub's Markdown."""
    if isinstance(record, ComparisonRecord):
        title = f"{_name(record.before)} and {_name(record.after)}"
        found, environment = compared_facts(record), record.before.environment
    else:
        title, environment = _name(record), record.environment
        found = [*model_facts(record), *filter(None, [headroom(record)])]
    facts = [*found, *(environment_facts(environment) if environment else ())]
    parts = [f"# {plain(title)}", "\n".join(map(_item, facts)), _table(sheet(record)),
             "\n".join(f"* {plain(warning)}" for warning in record.warnings), f"Made by {plain(record.tool)}."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _name(record: AnalysisRecord) -> str:
    return record.model.path or "model"


def _item(fact: Fact) -> str:
    return f"* {plain(fact.label)}: **{plain(fact.value)}**" + (f" ({plain(fact.note)})" if fact.note else "")


def _table(table: Sheet) -> str:
    rule = [":--" if column.is_text else "--:" for column in table.columns]
    rows = ([plain(cell.text) for cell in cells] for cells in table.rows)
    return "\n".join(map(row, [[plain(c.title) for c in table.columns], rule, *rows]))
