"""What the machine is, and the block that onnxruntime pads channels to."""

import platform
import tempfile

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxslim1x1.runtime.hardware as module
from onnxslim1x1.errors import OptionError, RuntimeFailure
from onnxslim1x1.runtime.hardware import Environment, channel_block, environment
from onnxslim1x1.runtime.session import create_session, session_options

X86 = """processor\t: 0
model name\t: Example CPU @ 2.0GHz
flags\t\t: fpu sse4_1 avx f16c fma avx2 avx512f avx512bw avx512_vnni

processor\t: 1
model name\t: Other
flags\t\t: fpu amx_tile
"""
ARM = """processor\t: 0
Features\t: fp asimd asimdhp asimddp i8mm sve
CPU implementer\t: 0x41
"""


def cpu_info(tmp_path, text):
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    return module._cpu_info(path)


def weights_of(channels, tmp_path):
    """Output channels of the weights that onnxruntime makes of a convolution to so many channels, by node domain."""
    weight = np.ones((channels, 16, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [1, 16, 9, 7])],
        [helper.make_tensor_value_info("y", 1, None)], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "o.onnx"
    create_session(model.SerializeToString(), options=session_options(optimized_model_filepath=str(path)))
    saved = onnx.load(path).graph
    return {node.domain for node in saved.node if node.op_type == "Conv"}, [t.dims[0] for t in saved.initializer]


def test_channels_are_padded_to_multiples_of_the_block(tmp_path):
    block = channel_block()
    for channels, padded in ((block, block), (block + 1, 2 * block), (3 * block - 1, 3 * block)):
        domains, found = weights_of(channels, tmp_path)
        assert found == [padded]
        assert domains == ({"com.microsoft.nchwc"} if block > 1 else {""})


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the rule is that of x86")
def test_the_block_is_that_of_the_instruction_set():
    found = environment()
    if found.isa:
        assert found.block == (16 if "avx512f" in found.isa else 8)


def test_the_block_is_asked_for_once_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    module._channel_block.cache_clear()
    first = channel_block()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "create_session", None)  # a second question would fail
    assert channel_block("cpu") == channel_block("CPUExecutionProvider") == first


def test_no_blocked_convolution_means_one(monkeypatch):
    def without(*, threads, **options):
        import onnxruntime as ort

        return session_options(threads=threads, graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
                               **options)

    monkeypatch.setattr(module, "session_options", without)
    module._channel_block.cache_clear()
    try:
        assert channel_block() == 1
    finally:
        module._channel_block.cache_clear()


def test_a_provider_that_cannot_save_its_graph_has_a_layout_of_its_own(monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeFailure("probe: compiled nodes")

    monkeypatch.setattr(module, "create_session", refuse)
    assert module._channel_block.__wrapped__("CompilingExecutionProvider") == 1
    with pytest.raises(RuntimeFailure, match="compiled"):
        module._channel_block.__wrapped__("CPUExecutionProvider")


def test_environment_tells_versions_and_settings():
    import onnxruntime as ort

    found = environment(threads=3, provider="cpu")
    assert isinstance(found, Environment)
    assert (found.threads, found.providers) == (3, ("CPUExecutionProvider",))
    assert (found.onnxruntime, found.onnx) == (ort.__version__, onnx.__version__)
    assert found.python == platform.python_version()
    assert found.platform == f"{platform.system()}-{platform.machine()}"
    assert found.cores >= 1
    assert found.cpu
    assert found.block == channel_block()
    assert hash(found) == hash(environment(threads=3))


@pytest.mark.parametrize("function", [channel_block, lambda name: environment(provider=name)])
def test_a_provider_that_is_not_offered_is_refused(function):
    with pytest.raises(OptionError, match="not offered"):
        function("nonsense")


def test_the_first_processor_of_cpuinfo_is_read(tmp_path):
    info = cpu_info(tmp_path, X86)
    assert module._cpu_name(info) == "Example CPU @ 2.0GHz"
    assert module._isa(info) == ("sse4.1", "avx", "fma", "f16c", "avx2", "avx512f", "avx512bw", "avx512_vnni")


def test_features_of_arm_get_their_usual_names(tmp_path):
    assert module._isa(cpu_info(tmp_path, ARM)) == ("neon", "neon_fp16", "neon_dotprod", "i8mm", "sve")


@pytest.mark.parametrize(("machine", "isa"), [("arm64", ("neon",)), ("x86_64", ())])
def test_without_cpuinfo_only_what_is_certain_is_told(tmp_path, monkeypatch, machine, isa):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "processor", lambda: "")
    info = module._cpu_info(tmp_path / "missing")
    assert info == {}
    assert module._isa(info) == isa
    assert module._cpu_name(info) == machine
