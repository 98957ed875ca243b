"""Where a plan loses accuracy: each part of the network rewritten alone, against the original; prints a table.

    python scripts/benchmarks/parts.py DATA --case resnet18 --budget 0.5 --json scripts/benchmarks/results/parts.json

Carries out the plan that `compression.py` left in `results/plans`, once for each part (`layer3` of `layer3.0.conv1`)
and once as a whole, each with the refits that the plan names, and compares on the labelled images. Losses of parts add
up to that of the whole as far as they do not interact. Beside the drop that the labels show stands the bound that
`--max-drop` would go by, without the labels and with them. Rows of other cases and budgets stay in the file.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compression import CASES, Case

import onnxslim1x1
from onnxslim1x1.api import DataOptions, RunOptions, Subject, ValidationSettings
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.save import write_text
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.loss import HeldOutLoss
from onnxslim1x1.runtime.preprocess import preprocess
from onnxslim1x1.search.plan import PlannedLayer, RewritePlan

RESULTS = Path(__file__).parent / "results"
WHOLE = "all"
_BATCH = 32


def main() -> None:
    options = _arguments()
    case = next(c for c in CASES if c.name == options.case)
    plan = onnxslim1x1.load_plan(RESULTS / "plans" / f"{case.name}-{options.budget}.json")
    document = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    rows = [r for r in document.get("rows", ()) if (r["model"], r["budget"]) != (case.name, options.budget)]
    print(f"{'part':10} {'layers':>6} {'MACs saved':>10} {'KL':>7} {'same class':>10} {'top-1':>7} "
          f"{'drop':>6} {'bound':>6} {'labels':>6}")
    for part, layers in parts(plan).items():
        row = {"model": case.name, "budget": options.budget, "part": part, "layers": len(layers),
               "environment": jsonable(environment(threads=options.threads))}
        row |= _measured(case, options, replace(plan, layers=layers))
        rows.append(row)
        print(f"{part:10} {row['layers']:6} {row['saved_macs'] / plan.before.macs:10.1%} {row['kl']:7.4f} "
              f"{row['agreement']:10.1%} {row['top1']:7.1%} "
              f"{row['top1_original'] - row['top1']:6.1%} {row['bound']:6.1%} {row['bound_with_labels']:6.1%}",
              flush=True)
        if options.json:
            write_text(options.json, json.dumps({"rows": rows}, indent=1) + "\n")


def parts(plan: RewritePlan) -> dict[str, tuple[PlannedLayer, ...]]:
    """Planned layers by the first part of their name, and all of them."""
    found: dict[str, tuple[PlannedLayer, ...]] = {}
    for layer in plan.layers:
        name = layer.layer.split(".")[0]
        found[name] = (*found.get(name, ()), layer)
    return found | {WHOLE: plan.layers}


def _measured(case: Case, options: argparse.Namespace, plan: RewritePlan) -> dict[str, Any]:
    model, run = options.data / "models" / case.model, RunOptions(threads=options.threads)
    data = partial(DataOptions, preprocess=preprocess(case.preset))
    with TemporaryDirectory(prefix="parts-") as folder:
        output = Path(folder) / "model.onnx"
        onnxslim1x1.apply(model, plan, output, calibration=data(path=options.data / case.calibration, limit=case.most),
                          run=run)
        bounds = _bounds(model, output, data(path=options.data / case.evaluation), run)
        report = onnxslim1x1.validate(model, output, data=data(path=options.data / case.evaluation), run=run,
                                      settings=ValidationSettings(measure_latency=False, batch_size=_BATCH))
    found = report.classification
    if found is None:
        raise SystemExit(f"{case.name}: does not classify")
    return {"saved_macs": sum(layer.before.macs - layer.after.macs for layer in plan.layers), "kl": found.kl,
            "agreement": found.agreement, "top1": found.top1_rewritten, "top1_original": found.top1_original,
            "images": report.images} | bounds


def _bounds(model: Path, output: Path, data: DataOptions, run: RunOptions) -> dict[str, float]:
    """The bound of the drop on the evaluation images."""
    subject = Subject.of(load(model), run)
    images = data.open(subject.prepared.model, subject.shapes)
    return {key: HeldOutLoss(load(model), images, labels=labels, threads=run.threads).drop(load(output))
            for key, labels in (("bound", None), ("bound_with_labels", images.labels))}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with models and images")
    parser.add_argument("--case", choices=[c.name for c in CASES], default="resnet18", help="(default: resnet18)")
    parser.add_argument("--budget", type=float, default=0.5, help="part of the MACs that the plan keeps (default: 0.5)")
    parser.add_argument("--threads", type=int, default=2, help="of onnxruntime and the linear algebra (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
