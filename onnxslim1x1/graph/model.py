"""A loaded model: its graph in memory, its weights on disk until they are asked for."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.functions import inlined_functions
from onnxslim1x1.graph.sound import require_text, require_types
from onnxslim1x1.graph.stored import Place, location, place
from onnxslim1x1.graph.wire import WireError, skeleton

_MAPPED = 1 << 26  # bytes of a file that are looked at in one piece, a multiple of every page
_PLAIN: dict[int, str] = {  # types whose values lie in a file as they lie in memory
    onnx.TensorProto.FLOAT: "<f4", onnx.TensorProto.DOUBLE: "<f8", onnx.TensorProto.FLOAT16: "<f2"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """An ONNX model.

    Attributes:
        proto: the model, functions that hold layers inlined; large weights are external references, also those that are
            inline in the file. Read-only.
        path: the file that holds exactly this model, or None for one that was made or edited in memory.
        home: the file (symbolic links resolved) that it was loaded from; external references are relative to its
            folder, and those to its own name are weights that were inline. None if it never was a file.
    """

    proto: onnx.ModelProto
    path: Path | None
    home: Path | None

    @property
    def where(self) -> str:
        """How messages call it."""
        return str(self.path or self.home or "model")

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        versions = [o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")]
        return versions[0] if versions else 0

    @property
    def source(self) -> Path | bytes:
        """What onnxruntime loads: the path if there is one, else the serialized model."""
        return self.path if self.path else self.serialized(self.inlined())

    def serialized(self, proto: onnx.ModelProto) -> bytes:
        """One message with this model, or a changed copy of it, in memory.

        Raises:
            ModelError: it is larger than protobuf's limit.
        """
        try:
            message: bytes = proto.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise ModelError(f"{self.where}: is too large to be changed and run in memory (protobuf ends at 2 GB); "
                             "do without --calibration and with --no-validate") from error
        return message

    def array(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """Values of a tensor, read from disk if they are there.

        Raises:
            ModelError: external data is missing, too short or outside of the model's folder, or the values do not
                fill the shape.
        """
        try:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.data_type in _PLAIN:
                return place(tensor, self.home).array(_PLAIN[tensor.data_type], tuple(tensor.dims))
            return onnx.numpy_helper.to_array(self.materialized(tensor))
        except ModelError:
            raise
        except Exception as error:  # numpy's, for bytes that do not fill the shape
            raise self._unreadable(tensor, error) from error

    def materialized(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Copy of a tensor with its values in the message; the skeleton stays small."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)  # references are small
        try:
            copy.raw_data = place(tensor, self.home).read()
        except Exception as error:  # the checker, the file system and numpy each raise their own
            raise self._unreadable(tensor, error) from error
        copy.ClearField("data_location")
        copy.ClearField("external_data")
        return copy

    def place(self, tensor: onnx.TensorProto) -> Place:
        """Where the values of an external tensor lie; nothing is read.

        Raises:
            ModelError: as in `array`.
        """
        try:
            return place(tensor, self.home)
        except (OSError, ValueError) as error:
            raise self._unreadable(tensor, error) from error

    def _unreadable(self, tensor: onnx.TensorProto, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:300]
        return ModelError(f"{self.where}: the values of tensor {tensor.name} cannot be read ({reason})")

    def inlined(self) -> onnx.ModelProto:
        """Copy of the model with every weight in memory.

        Raises:
            ModelError: external data cannot be read.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        for tensor in external_tensors(copy):
            tensor.CopyFrom(self.materialized(tensor))
        return copy

    def sha256(self) -> str:
        """Digest of the file (of the serialized message for a model in memory), without external data files."""
        if self.path is None:
            return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()
        digest = hashlib.sha256()
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            for start in range(0, len(view), _MAPPED):  # mapped: nothing is copied
                with memoryview(view) as whole, whole[start : start + _MAPPED] as part:
                    digest.update(part)
                if hasattr(view, "madvise"):  # not everywhere; what was read need not stay
                    view.madvise(mmap.MADV_DONTNEED, start, min(_MAPPED, len(view) - start))
        return digest.hexdigest()

    def external_files(self) -> tuple[Path, ...]:
        """Files beside the model that hold weights, without the model file itself.

        Raises:
            ModelError: a reference leads out of the model's folder, or to nothing.
        """
        by_name = {location(t): t for t in external_tensors(self.proto)}
        return tuple(sorted({self.place(t).path for t in by_name.values()} - {self.home}))


def load(source: str | Path | onnx.ModelProto | Model) -> Model:
    """Load a model and check that it is a graph that can be executed in order.

    Raises:
        ModelError: missing, empty, truncated, no ONNX model, or a graph that is cyclic or incomplete.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, onnx.ModelProto):
        model = Model(proto=source, path=None, home=None)
    else:
        model = _load_file(Path(source))
    require_text(model.proto, model.where)
    require_types(model.proto, model.where)
    _require_graph(model)
    return replace(model, proto=inlined_functions(model.proto)) if model.proto.functions else model


def _load_file(path: Path) -> Model:
    try:
        real = path.resolve()  # a symbolic link: external data lies beside its target
        if not path.exists():
            raise ModelError(f"{path}: no such file; give the path of an ONNX model")
        if path.is_dir():
            raise ModelError(f"{path}: is a directory, not an ONNX file; name the .onnx file in it")
        if not path.is_file():
            raise ModelError(f"{path}: is no regular file; give the path of an ONNX model")
        with real.open("rb") as file:
            if real.stat().st_size == 0:
                raise ModelError(f"{path}: the file is empty; export or copy the model again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                raw = skeleton(view, real.name)
        proto = onnx.ModelProto.FromString(raw)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RuntimeError as error:  # pathlib's, for symbolic links that lead in a circle
        raise ModelError(f"{path}: cannot be read ({error})") from error
    except UnicodeEncodeError as error:
        raise ModelError(f"{path}: the file name is not valid UTF-8; rename the file") from error
    except (WireError, DecodeError) as error:
        raise ModelError(f"{path}: is no complete ONNX file ({error}); export or copy it again") from error
    return Model(proto=proto, path=path, home=real)


def _require_graph(model: Model) -> None:
    proto = model.proto
    if not proto.HasField("graph") or not proto.graph.node:
        raise ModelError(f"{model.where}: holds no graph with nodes; is it an ONNX model?")
    if not proto.opset_import:
        raise ModelError(f"{model.where}: names no operator set (opset_import); export it again")
    if not proto.graph.output:
        raise ModelError(f"{model.where}: the graph has no outputs; export it again")
    _require_order(proto.graph, set(), model.where)


def _require_order(graph: onnx.GraphProto, outer: set[str], where: str) -> None:
    """Every tensor is produced once and before it is read (also in sub-graphs): no cycles, nothing dangling."""
    known = outer | {""} | {i.name for i in graph.input} | {t.name for t in graph.initializer}
    known |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        missing = next((name for name in node.input if name not in known), None)
        if missing is not None:
            raise ModelError(
                f"{where}: node {node.name or node.op_type} reads tensor {missing}, which nothing produces before it "
                "(a cycle, a wrong order or a missing node); repair the export")
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node or body.output:
                    _require_order(body, known, where)
        known.update(node.output)
    lost = next((o.name for o in graph.output if o.name not in known), None)
    if lost is not None:
        raise ModelError(f"{where}: the graph output {lost} is produced by no node; repair the export")


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors whose values are not in the message."""
    return (t for t in _tensors(proto.graph) if t.data_location == onnx.TensorProto.EXTERNAL)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from attribute_tensors(node.attribute)


def attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    """Tensors in attributes, those of sub-graphs included."""
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for body in (attribute.g, *attribute.graphs):
            yield from _tensors(body)
