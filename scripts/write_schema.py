"""Write the JSON Schemas of the files of the package into it, from the classes and options that define them.

python scripts/write_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from onnxslim1x1.cli.settings import config_schema
from onnxslim1x1.report.baseline import baseline_schema
from onnxslim1x1.report.documents import analysis_schema, validation_schema
from onnxslim1x1.search.plan_schema import plan_schema

FOLDER = Path(__file__).resolve().parents[1] / "onnxslim1x1" / "schemas"
SCHEMAS = {"plan.schema.json": plan_schema, "analysis.schema.json": analysis_schema,
           "validation.schema.json": validation_schema, "baseline.schema.json": baseline_schema,
           "config.schema.json": config_schema}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, made in SCHEMAS.items():
        (FOLDER / name).write_text(json.dumps(made(), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
