"""Analyze and slim a folder of real models; prints a table and writes the JSON behind it.

    python scripts/benchmarks/slim_models.py DATA --threads 1 --json scripts/benchmarks/results/slim_models.json

DATA holds `models/*.onnx` and the images that `CASES` names; a case whose files are missing is left out and said so.
Rows of other models stay in the JSON, each with the machine that it was measured on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxslim1x1 import api
from onnxslim1x1.errors import SlimError
from onnxslim1x1.graph.save import write_text
from onnxslim1x1.report.document import jsonable
from onnxslim1x1.report.format import count, ms
from onnxslim1x1.runtime.benchmark import BenchmarkSettings
from onnxslim1x1.runtime.hardware import environment
from onnxslim1x1.runtime.preprocess import preprocess


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model, its images (relative to DATA) and a budget."""

    model: str
    calibration: str
    evaluation: str
    preprocessing: dict[str, Any]
    target_macs: float | None = None


CIFAR = {"calibration": "cifar10/calibration.npz", "evaluation": "cifar10/evaluation.npz",
         "preprocessing": {"preset": "cifar10"}}
IMAGENET = {"calibration": "imagenet/calibration", "evaluation": "imagenet/evaluation"}
CASES = (
    Case(model="cifar10_resnet20", **CIFAR), Case(model="cifar10_resnet20", target_macs=0.67, **CIFAR),
    Case(model="cifar10_resnet56", **CIFAR), Case(model="cifar10_resnet56", target_macs=0.67, **CIFAR),
    Case(model="imagenet_resnet18", preprocessing={"preset": "imagenet"}, **IMAGENET),
    Case(model="imagenet_resnet18", target_macs=0.67, preprocessing={"preset": "imagenet"}, **IMAGENET),
    Case(model="imagenet_squeezenet_fp16", preprocessing={"preset": "imagenet-caffe"}, **IMAGENET),
    Case(model="ultraface_rfb320", calibration="imagenet/calibration", evaluation="photos",
         preprocessing={"preset": "raw", "scale": 1.0, "mean": (127.0,), "std": (128.0,), "resize": (240, 320)}),
    Case(model="style_candy", calibration="photos", evaluation="photos",
         preprocessing={"preset": "raw", "resize": (720, 720)}),
)


def main() -> None:
    options = _arguments()
    document = json.loads(options.json.read_text()) if options.json and options.json.exists() else {"rows": []}
    machine = jsonable(environment(threads=options.threads))
    print(f"{'model':26} {'budget':>7} {'layers':>6} {'MACs':>15} {'ms':>13} {'speed-up':>16} {'quality':>34} {'s':>5}")
    for case in CASES:
        model = options.data / "models" / f"{case.model}.onnx"
        if options.only and case.model not in options.only:
            continue
        if not model.exists():
            print(f"{case.model:26} left out: {model} is missing")
            continue
        row = {"model": case.model, "target_macs": case.target_macs, "environment": machine}
        try:
            row |= _row(case, model, options)
        except SlimError as error:
            row["error"] = str(error)
            print(f"{case.model:26} {error}")
        key = (case.model, case.target_macs)
        document["rows"] = [*(r for r in document["rows"] if (r["model"], r["target_macs"]) != key), row]
        if options.json:
            write_text(options.json, json.dumps(document, indent=1) + "\n")


def _row(case: Case, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    prep = preprocess(**case.preprocessing)
    data = {name: api.DataOptions(path=options.data / path, preprocess=prep)
            for name, path in (("calibration", case.calibration), ("evaluation", case.evaluation))}
    run = api.RunOptions(threads=options.threads)
    start = time.perf_counter()
    analysis = api.analyze(model, run=run)
    analyzed = time.perf_counter()
    settings = api.ValidationSettings(benchmark=BenchmarkSettings(budget_s=options.time))
    result = api.slim(model, budget=api.Budget(target_macs=case.target_macs), run=run,
                      calibration=data["calibration"], check=api.Check(data=data["evaluation"], settings=settings))
    seconds = time.perf_counter() - analyzed
    _print(case, result, seconds)
    profile = analysis.profile
    return {"analyze_s": analyzed - start, "slim_s": seconds,
            "mapped": profile.mapped_s / profile.total_kernel_s if profile else None,
            "layers_without_time": [p.layer.name for p in analysis.layers if not p.time_s],
            "layers": len(result.plan.layers), "unchanged": result.unchanged, "before": jsonable(result.before),
            "after": jsonable(result.after), "validation": jsonable(result.validation)}


def _print(case: Case, result: api.SlimResult, seconds: float) -> None:
    report = result.validation
    assert report is not None
    assert report.latency is not None
    classes, latency = report.classification, report.latency
    quality = f"SNR {min(o.snr_db for o in report.outputs):.1f} dB"
    if classes and classes.top1_original is not None and classes.top1_rewritten is not None:
        quality = f"top-1 {classes.top1_original:.2%} -> {classes.top1_rewritten:.2%}, KL {classes.kl:.3f}"
    budget = "default" if case.target_macs is None else f"{case.target_macs:g}"
    print(f"{case.model:26} {budget:>7} {len(result.plan.layers):6d} "
          f"{count(result.before.macs):>6} -> {count(result.after.macs):>5} "
          f"{ms(latency.original.median_s):>5} -> {ms(latency.rewritten.median_s):>4} "
          f"{latency.speedup:5.2f} ({latency.speedup_low:.2f}-{latency.speedup_high:.2f}) {quality:>34} {seconds:5.0f}"
          + (f"\n{'':26} unchanged: {result.unchanged}" if result.unchanged else ""), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with models and images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", type=float, default=5.0, help="seconds for each latency comparison")
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
