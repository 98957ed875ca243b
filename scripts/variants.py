"""Write a model in other types, with free shapes, external data, functions, and with its weights in other places.

    python scripts/variants.py MODEL... [-o FOLDER] [--check]

With ``--check`` the layer table of every variant is compared with that of the model: names, operators, geometry,
parameters, MACs and what is said about rewriting. The exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnxslim1x1.graph.model import load
from onnxslim1x1.runtime.inputs import layers_with_shapes
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.search.analysis import layer_profiles
from trials.variants import write_variants

Table = list[tuple[Any, ...]]


def layer_table(path: Path, shapes: dict[str, tuple[int, ...]]) -> Table:
    """One row a layer, without what depends on the machine."""
    model = load(path)
    layers = layers_with_shapes(model, RunOptions(input_shapes=shapes).shapes(model), run=True)
    return [(p.layer.name, p.layer.op_type, p.layer.kind, p.layer.spec, p.layer.in_shape, p.layer.out_shape, p.params,
             p.macs, p.declined.code if p.declined else None) for p in layer_profiles(layers)]


def differences(wanted: Table, found: Table) -> list[str]:
    """One line for every row that differs."""
    lines = [f"{b[0]}: {', '.join(f'{x} instead of {y}' for x, y in zip(b, a, strict=True) if x != y)}"
             for a, b in zip(wanted, found, strict=False) if a != b]
    return lines + ([f"{len(found)} layers instead of {len(wanted)}"] if len(found) != len(wanted) else [])


def main() -> int:
    parser = argparse.ArgumentParser(description="Write variants of a model, and compare their layer tables.")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, help="folder for the variants (default: none are kept)")
    parser.add_argument("--check", action="store_true", help="compare the layer tables")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="variants-") as name:
        folder = options.output or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            shapes = dict(RunOptions().shapes(load(model)).inputs)
            wanted = layer_table(model, shapes)
            for variant, path in write_variants(model, folder):
                lines = differences(wanted, layer_table(path, shapes)) if options.check else []
                print(f"{model.name:<32} {variant:<10} " + (f"{len(wanted)} layers" if not lines else
                                                            f"DIFFERS: {lines[0]} ({len(lines)} lines)"), flush=True)
                bad += bool(lines)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
