"""onnxruntime sessions: creation, seeded random inputs, and one place where its exceptions are wrapped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxslim1x1.errors import DataError, OptionError, RuntimeFailure
from onnxslim1x1.runtime.watch import watched

Feeds = Mapping[str, NDArray[Any]]

CPU = "CPUExecutionProvider"
_NUMPY_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32, "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}
_MOST_RANDOM_BYTES = 1 << 29  # of one input
_QUIET = 4  # fatal only: everything else reaches the user through our own messages


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """One input that a model wants to be fed: name, numpy dtype and concrete shape (free axes bound to 1)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    free_axes: tuple[int, ...] = ()


@contextmanager
def wrapped(where: str, doing: str) -> Iterator[None]:
    """Turn whatever onnxruntime raises into a `RuntimeFailure` of one line that says where and doing what."""
    try:
        yield
    except Exception as error:  # onnxruntime raises many unrelated types, all derived from Exception only
        if isinstance(error, RuntimeFailure):
            raise
        first = " ".join(str(error).split())
        raise RuntimeFailure(f"{where}: onnxruntime cannot {doing} ({first[:400]})") from error


def provider_name(name: str | None) -> str:
    """Resolve a provider name in any case, with or without its suffix.

    Raises:
        OptionError: the installed onnxruntime does not offer it.
    """
    import onnxruntime as ort

    if name is None:
        return CPU
    offered: list[str] = ort.get_available_providers()
    for candidate in offered:
        if name.lower() in (candidate.lower(), candidate.lower().removesuffix("executionprovider")):
            return candidate
    raise OptionError(f"--provider {name}: not offered by the installed onnxruntime; choose from {', '.join(offered)}")


def session_options(*, threads: int = 0, **changes: Any) -> Any:
    """Options with all optimisations on, `threads` intra-op threads (0: all cores), and a silent log.

    `changes` sets further attributes of `onnxruntime.SessionOptions`.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    for key, value in changes.items():
        setattr(options, key, value)
    return options


def patient_options(*, threads: int = 0) -> Any:
    """Session options for work whose time is not measured: idle threads sleep instead of spinning."""
    options = session_options(threads=threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def create_session(source: str | Path | bytes, *, options: Any = None, provider: str | None = None,
                   where: str | None = None) -> Any:
    """Load a model from a path (needed beyond 2 GiB) or from bytes.

    Raises:
        RuntimeFailure: onnxruntime refuses the model.
        OptionError: the provider is not offered.
    """
    import onnxruntime as ort

    name = provider_name(provider)
    origin = where or (str(source) if not isinstance(source, bytes) else "model")
    with wrapped(origin, "load this model"), watched(origin, "load this model"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ort.InferenceSession(str(source) if isinstance(source, Path) else source,
                                    options or session_options(), providers=[name])


def input_specs(session: Any, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[InputSpec, ...]:
    """Inputs that a session must be fed; axes that neither the model nor `shapes` fixes become 1.

    Raises:
        DataError: an input is no plain tensor of numbers.
    """
    given = shapes or {}
    result = []
    for item in session.get_inputs():
        dtype = _NUMPY_TYPES.get(item.type)
        if dtype is None:
            raise DataError(f"input {item.name}: {item.type} cannot be generated; only tensors of numbers can")
        declared = list(item.shape)
        free = tuple(i for i, d in enumerate(declared) if not isinstance(d, int))
        shape = tuple(given.get(item.name, [d if isinstance(d, int) else 1 for d in declared]))
        result.append(InputSpec(name=item.name, dtype=np.dtype(dtype), shape=shape, free_axes=free))
    return tuple(result)


def random_feeds(specs: Sequence[InputSpec], *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded standard-normal tensors (0 or 1 for integers and booleans, which are often indices).

    Raises:
        DataError: they would be absurdly large.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if math.prod(spec.shape) * max(spec.dtype.itemsize, 4) > _MOST_RANDOM_BYTES:
            raise DataError(f"input {spec.name}: random values of shape {','.join(map(str, spec.shape))} would take "
                            f"more than {_MOST_RANDOM_BYTES >> 20} MB; give a smaller one with --input-shape")
        if spec.dtype.kind in "fV":  # V: bfloat16 and smaller types, which numpy does not know
            feeds[spec.name] = rng.standard_normal(spec.shape, dtype=np.float32).astype(spec.dtype)
        else:
            feeds[spec.name] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
    return feeds


def run(session: Any, feeds: Feeds, *, outputs: Sequence[str] | None = None, where: str = "model",
        limited: bool = False) -> list[NDArray[Any]]:
    """Run once and return the outputs in the model's (or the asked) order.

    Args:
        session: of onnxruntime.
        feeds: by input.
        outputs: which ones.
        where: path of the model, or what messages call it.
        limited: whether the command line gives up if it takes too long (see `onnxslim1x1.runtime.watch`): for runs of
            an unknown model on random inputs.

    Raises:
        RuntimeFailure: onnxruntime fails while running.
    """
    with wrapped(where, "run this model"), watched(where, "run this model") if limited else nullcontext():
        result: list[NDArray[Any]] = session.run(None if outputs is None else list(outputs), fed(feeds))
    return result


def fed(feeds: Feeds) -> dict[str, Any]:
    """Feeds as a session takes them."""
    return {name: _fed(values) for name, values in feeds.items()}


def _fed(values: NDArray[Any]) -> Any:
    """What onnxruntime takes for an array; numpy has no type of its own for bfloat16 and the smaller ones."""
    if values.dtype.kind != "V":
        return values
    import onnx
    import onnxruntime as ort

    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(values, kind)
