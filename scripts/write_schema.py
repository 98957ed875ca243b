"""Write the JSON Schema of plan files into the package, from the classes that define it.

python scripts/write_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path

from onnxslim1x1.search.plan_schema import plan_schema

TARGET = Path(__file__).resolve().parents[1] / "onnxslim1x1" / "schemas" / "plan.schema.json"


def main() -> None:
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(plan_schema(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
