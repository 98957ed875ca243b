"""How the seconds and the memory of `slim` grow with calibration images and with layers; prints a table, writes JSON.

    python scripts/benchmarks/scaling.py DATA --out scripts/benchmarks/results/scaling.json

DATA holds `models/cifar10_resnet20.onnx`, `models/cifar10_resnet56.onnx` (the same network with 20 and with 56 layers)
and `cifar10/calibration.npz`. Every run is a process of its own with an empty cache.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from baselines.job import Job
from baselines.measure import make
from baselines.ours import OURS

from onnxslim1x1.graph.save import write_text
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.runtime.hardware import environment

MODELS = {"cifar10_resnet20": 20, "cifar10_resnet56": 56}
IMAGES = (256, 512, 1024)
BUDGET = 0.5  # of the MACs


def main() -> None:
    options = _arguments()
    rows: list[dict[str, Any]] = []
    print(f"{'model':18} {'layers':>6} {'images':>6} {'s':>6} {'s per image':>11} {'s per layer':>11} {'MB':>6}")
    for model, layers in MODELS.items():
        for images in IMAGES:
            case: dict[str, Any] = {"model": model, "layers": layers, "images": images}
            row = case | _measured(options, model, images)
            rows.append(row)
            seconds = row["seconds"]
            print(f"{model:18} {layers:6} {images:6} {seconds:6.1f} {seconds / images:11.3f} {seconds / layers:11.2f} "
                  f"{row['peak_bytes'] / 1e6:6.0f}", flush=True)
    if options.out:
        document = {"environment": jsonable(environment(threads=options.threads)), "budget": BUDGET, "rows": rows}
        write_text(options.out, json.dumps(document, indent=1) + "\n")


def _measured(options: argparse.Namespace, model: str, images: int) -> dict[str, Any]:
    with TemporaryDirectory(prefix="scaling-") as folder:
        found = make(Job(method=OURS, model=str((options.data / "models" / f"{model}.onnx").resolve()),
                         calibration=str((options.data / "cifar10" / "calibration.npz").resolve()), preset="cifar10",
                         budget=BUDGET, seed=None, limit=images, threads=options.threads,
                         output=str(Path(folder) / "model.onnx")))
    return {name: found[name] for name in ("seconds", "peak_bytes")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with models and images")
    parser.add_argument("--threads", type=int, default=2, help="of onnxruntime and the linear algebra (default: 2)")
    parser.add_argument("--out", type=Path, help="JSON file with the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
