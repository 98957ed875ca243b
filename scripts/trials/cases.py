"""Test cases in the layout of the onnx package: a model, and data sets of inputs that go with it.

The functions that take and return plain values run in the child processes of `trials.pool`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from onnxslim1x1.graph.model import Model
    from onnxslim1x1.search.pipeline import Subject

GENERATED = ("node", "frozen")
_WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
KINDS = ("simple", "light", "pytorch-converted", "pytorch-operator")  # shipped with the package, beside the node cases
RTOL, ATOL = 1e-4, 1e-5  # float32 rounding of other sums of the same terms; relative to the largest value of an output
_COARSE = {"float16": 4e-3, "bfloat16": 3e-2}  # a few units in the last place of the type

@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model, with the folder that its data sets are in (none for the light models)."""

    kind: str
    name: str
    model: Path


def generate(folder: Path) -> None:
    """Write the node cases of the installed onnx package (its own command writes only those of whole models)."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    for case in cases:
        for number, (inputs, _) in enumerate(case.data_sets):
            _write(folder / "node" / case.name, case.model, inputs, number)
        if any(node.op_type in _WITH_WEIGHTS for node in case.model.graph.node) and case.data_sets:
            inputs = case.data_sets[0][0]
            _write(folder / "frozen" / case.name, _frozen(case.model, inputs), inputs[:1], 0)


def _write(place: Path, model: onnx.ModelProto, inputs: Sequence[Any], number: int) -> None:
    data = place / f"test_data_set_{number}"
    data.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    for k, value in enumerate(inputs):
        (data / f"input_{k}.pb").write_bytes(_message(value, model.graph.input[k].type))


def _frozen(model: onnx.ModelProto, inputs: Sequence[Any]) -> onnx.ModelProto:
    """The model with all inputs but the first as weights: in the node cases they are inputs, too."""
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    for info, value in list(zip(model.graph.input, inputs, strict=True))[1:]:
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
        frozen.graph.initializer.add().CopyFrom(tensor)
        frozen.graph.initializer[-1].name = info.name
    del frozen.graph.input[1:]
    return frozen


def _message(value: Any, kind: onnx.TypeProto) -> bytes:
    makers = {"optional_type": numpy_helper.from_optional, "sequence_type": numpy_helper.from_list,
              "map_type": numpy_helper.from_dict}
    maker = next((m for name, m in makers.items() if kind.HasField(name)), numpy_helper.from_array)
    message: onnx.TensorProto = value if isinstance(value, onnx.TensorProto) else maker(value)
    return message.SerializeToString()


def find_cases(generated: Path | None) -> list[Case]:
    """The cases that the installed package ships, and those in `generated`."""
    import onnx.backend.test

    shipped = Path(onnx.backend.test.__file__).parent / "data"
    folders = {kind: generated / kind for kind in GENERATED} if generated else {}
    folders |= {kind: shipped / kind for kind in KINDS}
    found = []
    for kind, folder in folders.items():
        found += [Case(kind=kind, name=path.parent.name if path.name == "model.onnx" else path.stem, model=path)
                  for path in sorted(folder.rglob("*.onnx"))]
    return found


def data_sets(model: Path) -> list[list[Any]]:
    """Inputs of every data set of a case, in the order of the graph's inputs; none without data."""
    from onnxslim1x1.graph.shapes import fed_inputs

    infos = fed_inputs(onnx.load(model, load_external_data=False).graph)
    found = []
    for folder in sorted(model.parent.glob("test_data_set_*")):
        files = [folder / f"input_{k}.pb" for k in range(len(infos))]
        if all(file.exists() for file in files):
            found.append([_value(file, info.type) for file, info in zip(files, infos, strict=True)])
    return found


def _value(file: Path, kind: onnx.TypeProto) -> Any:
    """A tensor, a list of tensors or None, as onnxruntime takes it."""
    raw = file.read_bytes()
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(raw))
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(raw))
    return numpy_helper.to_array(onnx.TensorProto.FromString(raw))


def compare(original: str, rewritten: str, case: str | None = None) -> str:
    """Whether two models give the same outputs on the data of a case (random inputs where it has none).

    Returns: ``equal``, ``cannot run: why`` if the original does not run, or ``differs: how``.
    """
    from onnxslim1x1.errors import SlimError

    try:
        feeds = _feeds(Path(original), Path(case or original))
        before = [_outputs(original, feed) for feed in feeds]
        again = [_outputs(original, feed) for feed in feeds]
    except SlimError as error:
        return f"cannot run: {error}"
    except Exception as error:  # onnxruntime raises many types
        return f"cannot run: {' '.join(str(error).split())[:200]}"
    if any(_difference(a, b, exact=True) for a, b in zip(before, again, strict=True)):
        return "cannot run: the original gives other outputs each time"
    after = [_outputs(rewritten, feed) for feed in feeds]
    return next((f"differs: {text}" for a, b in zip(before, after, strict=True) if (text := _difference(a, b))),
                "equal")


def _feeds(model: Path, case: Path) -> list[dict[str, Any]]:
    from onnxslim1x1.graph.model import load
    from onnxslim1x1.graph.shapes import fed_inputs, infer_shapes
    from onnxslim1x1.runtime.inputs import model_inputs
    from onnxslim1x1.runtime.session import random_feeds

    loaded = load(model)
    names = [i.name for i in fed_inputs(loaded.proto.graph)]
    shipped = [dict(zip(names, values, strict=True)) for values in data_sets(case)]
    return shipped or [random_feeds(model_inputs(loaded, infer_shapes(loaded)))]


def _outputs(model: str, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime as ort

    from onnxslim1x1.runtime.session import session_options

    session = ort.InferenceSession(model, session_options(threads=1), providers=["CPUExecutionProvider"])
    result: list[Any] = session.run(None, {k: _fed(v) for k, v in feeds.items()})
    return result


def _fed(value: Any) -> Any:
    """Types that onnxruntime knows but numpy does not go in as values of its own."""
    import onnxruntime as ort

    if isinstance(value, np.ndarray) and value.dtype.kind == "V":
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value, kind)
    return value


def _difference(before: Sequence[Any], after: Sequence[Any], *, exact: bool = False) -> str:
    """How two lists of outputs differ; empty if they do not."""
    if len(before) != len(after):
        return f"{len(before)} outputs became {len(after)}"
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        if isinstance(a, list) and isinstance(b, list):
            text = _difference(a, b, exact=exact)
        elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            text = _array_difference(a, b, exact=exact)
        else:
            text = "" if type(a) is type(b) and (isinstance(a, dict) or a == b) else f"{type(a)} became {type(b)}"
        if text:
            return f"output {number}: {text}"
    return ""


def _array_difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], *, exact: bool) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if a.dtype.kind not in "fc" or exact:
        same = np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        return "" if same else "values changed"
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "values that are not finite changed"
    largest = float(np.abs(a[finite].astype(np.float64)).max(initial=0.0))
    worst = float(np.abs(a[finite].astype(np.float64) - b[finite].astype(np.float64)).max(initial=0.0))
    return "" if worst <= ATOL + _COARSE.get(str(a.dtype), RTOL) * largest else f"by {worst:.3g} of {largest:.3g}"


def rewrite_fully(model: str, folder: str) -> list[str]:
    """Rewrite all layers that allow it at full rank, by one family at a time, and compare the outputs.

    Returns: for every family that serves a layer, the verdict of `compare` and how many layers it served.
    """
    from onnxslim1x1.errors import SlimError
    from onnxslim1x1.graph.model import load
    from onnxslim1x1.graph.save import save
    from onnxslim1x1.runtime.options import RunOptions
    from onnxslim1x1.search.pipeline import Subject

    try:
        subject = Subject.of(load(model), RunOptions(threads=1))
    except SlimError as error:
        return [f"declined: {error}"]
    target, verdicts = Path(folder) / "full.onnx", []
    for family, layers, rewritten in fully_rewritten(subject):
        save(rewritten, target)
        verdicts.append(f"{compare(model, str(target))} ({family} on {', '.join(layers)[:200]})")
    return verdicts


def fully_rewritten(subject: Subject) -> Iterator[tuple[str, list[str], Model]]:
    """For every family: its name, the layers that it serves, and the model with all of them at full rank."""
    from onnxslim1x1.graph.edit import GraphEdit
    from onnxslim1x1.graph.rewrite import replace_layer
    from onnxslim1x1.search.workbench import Workbench
    from onnxslim1x1.strategies import STRATEGIES

    model = subject.prepared.model
    for family in STRATEGIES:
        bench = Workbench(model, subject.layers, block=1)
        layers = [x for x in subject.layers if x.ineligible is None and family.check(x.spec) is None]
        edit = GraphEdit(model)
        for layer in layers:
            replace_layer(edit, layer, bench.factors(layer.name, family.name, family.max_ranks(layer.spec)).factors)
        if layers:
            yield family.name, [layer.name for layer in layers], edit.result()
