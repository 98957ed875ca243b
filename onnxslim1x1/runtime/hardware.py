"""The machine and the runtime that a figure was measured with, and the block that ranks should be multiples of."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxslim1x1.errors import RuntimeFailure
from onnxslim1x1.runtime.session import CPU, create_session, provider_name, session_options

_NCHWC = "com.microsoft.nchwc"
# What decides about the speed of convolutions; keys as /proc/cpuinfo spells them, values as people do.
_ISA = {
    "sse4_1": "sse4.1", "avx": "avx", "fma": "fma", "f16c": "f16c", "avx2": "avx2", "avx_vnni": "avx_vnni",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16", "amx_tile": "amx_tile", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16",
    "asimd": "neon", "neon": "neon", "asimdhp": "neon_fp16", "asimddp": "neon_dotprod", "i8mm": "i8mm", "bf16": "bf16",
    "sve": "sve", "sve2": "sve2", "sme": "sme",
}
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What a measurement depends on besides the model.

    Attributes:
        cpu: name of the processor.
        isa: instruction sets that matter for convolutions, in a fixed order; empty where the system does not tell.
        cores: logical processors that this process may use.
        block: `channel_block` of the first provider.
        onnxruntime: its version.
        onnx: its version.
        python: its version.
        platform: operating system and architecture.
        providers: execution providers that sessions use, best first.
        threads: intra-op threads that were asked for; 0 leaves the choice to onnxruntime.
    """

    cpu: str
    isa: tuple[str, ...]
    cores: int
    block: int
    onnxruntime: str
    onnx: str
    python: str
    platform: str
    providers: tuple[str, ...]
    threads: int


def environment(*, threads: int = 0, provider: str | None = None) -> Environment:
    """Describe this machine, the versions in use, and how sessions run.

    Raises:
        OptionError: the provider is not offered.
    """
    import onnx
    import onnxruntime as ort

    info = _cpu_info()
    return Environment(cpu=_cpu_name(info), isa=_isa(info), cores=usable_cpus(), block=channel_block(provider),
                       onnxruntime=ort.__version__, onnx=onnx.__version__, python=platform.python_version(),
                       platform=f"{platform.system()}-{platform.machine()}", providers=(provider_name(provider),),
                       threads=threads)


def channel_block(provider: str | None = None) -> int:
    """Channels per block of the layout (NCHWc) that onnxruntime gives float convolutions here; 1 without such a layout.

    Found by asking: a convolution to one channel is loaded with all optimisations, and the number of output channels
    that its weight is padded to is read from the optimised model. 16 with AVX-512F, 8 with older x86 processors.

    Raises:
        OptionError: the provider is not offered.
        RuntimeFailure: onnxruntime cannot load even this model.
    """
    return _channel_block(provider_name(provider))


@cache
def _channel_block(provider: str) -> int:
    import onnx

    with TemporaryDirectory(prefix="onnxslim1x1-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = session_options(threads=1, optimized_model_filepath=str(path))
        try:
            create_session(_one_convolution(), options=options, provider=provider, where="probe of the channel block")
        except RuntimeFailure:
            if provider == CPU:
                raise
            return 1  # a provider that compiles the graph cannot save it, and has a layout of its own
        graph = onnx.load(str(path)).graph
    padded = {tensor.name: int(tensor.dims[0]) for tensor in graph.initializer}
    blocked = (node for node in graph.node if node.domain == _NCHWC and node.op_type == "Conv")
    return next((padded[node.input[1]] for node in blocked), 1)


def _one_convolution() -> bytes:
    """A 1x1 convolution from 16 channels (a multiple of every block up to 16) to 1."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(np.ones((1, 16, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def _cpu_info(path: Path = _CPUINFO) -> dict[str, str]:
    """Fields of the first processor of Linux's cpuinfo; empty on other systems."""
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _cpu_name(info: Mapping[str, str]) -> str:
    return info.get("model name") or platform.processor() or platform.machine() or "unknown"


def _isa(info: Mapping[str, str]) -> tuple[str, ...]:
    flags = (info.get("flags") or info.get("Features") or "").split()
    if not flags and platform.machine().lower() in ("arm64", "aarch64"):
        return ("neon",)  # part of every 64-bit ARM processor
    return tuple(dict.fromkeys(name for flag, name in _ISA.items() if flag in flags))


def usable_cpus() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
