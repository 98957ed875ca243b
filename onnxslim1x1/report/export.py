"""Records as CSV, for spreadsheets, and as Markdown, for issues and wikis."""

from __future__ import annotations

import csv
import io

from onnxslim1x1.errors import OptionError
from onnxslim1x1.report.facts import Fact, compared_facts, environment_facts, headroom, model_facts
from onnxslim1x1.report.markdown import plain, row
from onnxslim1x1.report.records import AnalysisRecord, ComparisonRecord, Record
from onnxslim1x1.report.rows import Sheet, sheet
from onnxslim1x1.report.validation_facts import headline, title, verdict_lines
from onnxslim1x1.report.validation_records import SlimRecord, Validated
from onnxslim1x1.report.validation_sheets import layer_errors, planned, sections


def csv_text(record: Record | Validated) -> str:
    """One line per layer with exact numbers, under the names of the columns; what is unknown is empty.

    Raises:
        OptionError: it is a validation that did not look at layers.
    """
    table = sheet(record) if isinstance(record, AnalysisRecord | ComparisonRecord) else _errors(record)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(column.key for column in table.columns)
    writer.writerows(["" if cell.value is None else cell.value for cell in row] for row in table.rows)
    return lines.getvalue()


def _errors(record: Validated) -> Sheet:
    if record.validation is None or not record.validation.layers:
        raise OptionError("--csv: a table has one line per layer, and this validation did not look at layers; use "
                          "--markdown")
    return layer_errors(record.validation.layers)


def markdown_text(record: Record | Validated) -> str:
    """Heading, totals and the table of layers in GitHub's Markdown; of a validation the verdict and all tables."""
    if not isinstance(record, AnalysisRecord | ComparisonRecord):
        return _validation_markdown(record)
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


def _validation_markdown(record: Validated) -> str:
    found, slim = record.validation, record if isinstance(record, SlimRecord) else None
    tables = [(s.title, s.sheet) for s in sections(found)] if found else []
    tables += [("Rewritten layers", planned(slim))] if slim and slim.plan.layers else []
    tables += [("Error by layer", layer_errors(found.layers))] if found and found.layers else []
    environment = environment_facts(record.environment) if record.environment else []
    parts = [f"# {plain(title(record))}", f"**{plain(headline(record)[1])}**",
             "\n".join(f"* {plain(line)}" for _, line in verdict_lines(record)),
             *(part for name, table in tables for part in (f"## {name}", _table(table))),
             "\n".join(f"* {plain(warning)}" for warning in record.warnings),
             "## Environment" if environment else "", "\n".join(map(_item, environment)),
             f"Made by {plain(record.tool)}."]
    return "\n\n".join(filter(None, parts)) + "\n"


def _name(record: AnalysisRecord) -> str:
    return record.model.path or "model"


def _item(fact: Fact) -> str:
    return f"* {plain(fact.label)}: **{plain(fact.value)}**" + (f" ({plain(fact.note)})" if fact.note else "")


def _table(table: Sheet) -> str:
    rule = [":--" if column.is_text else "--:" for column in table.columns]
    rows = ([plain(cell.text) for cell in cells] for cells in table.rows)
    return "\n".join(map(row, [[plain(c.title) for c in table.columns], rule, *rows]))
