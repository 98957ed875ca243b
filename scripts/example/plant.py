"""Plant a fault into a model, to see a gate fail: the bias of its last layer is wrong for one class.

python plant.py model-slim.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def plant_wrong_bias(path: Path, *, output: int = 3, shift: float = 50.0) -> None:
    """Add `shift` to one entry of the bias of the last dense layer or convolution, in the file itself."""
    model = onnx.load(path)
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv") and len(node.input) == 3][-1]
    tensor = next(t for t in model.graph.initializer if t.name == last.input[2])
    values = np.array(numpy_helper.to_array(tensor))
    values[output] += shift
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


if __name__ == "__main__":
    plant_wrong_bias(Path(sys.argv[1]))
