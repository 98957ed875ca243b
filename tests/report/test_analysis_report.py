"""An analysis as tables of 80 to 160 columns and as JSON, for layers as they occur in real networks."""

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console
from rich.table import Table

from onnxslim1x1.graph.layers import Layer
from onnxslim1x1.report.analysis import SORT_KEYS, analysis_json, analysis_report, other_operators, sorted_layers
from onnxslim1x1.report.style import WIDE
from onnxslim1x1.runtime.benchmark import Latency
from onnxslim1x1.runtime.hardware import Environment
from onnxslim1x1.runtime.profile import ModelProfile
from onnxslim1x1.runtime.roofline import Roofline
from onnxslim1x1.search.analysis import Analysis, LayerProfile, NodeProfile, Proposal
from onnxslim1x1.spec import ConvSpec, Cost, EnergyCurve, Ineligible, LayerSpectra

DECLINED = Ineligible(code="flat_spectrum",
                      reason="no rank that saves MACs keeps the error within 0.3 (least 0.440)")
ENVIRONMENT = Environment(
    cpu="Intel(R) Xeon(R) Platinum 8488C", isa=("avx2", "avx512f"), cores=96, block=16, onnxruntime="1.22.0",
    onnx="1.18.0", python="3.11.7", platform="Linux-x86_64", providers=("CPUExecutionProvider",), threads=0)

ROOFLINE = Roofline(peak=1e12, bandwidth=2e11, provider="CPUExecutionProvider", threads=0, cases=(("Add", 2e11),))
OTHERS = (("GlobalAveragePool", 0.05), ("Softmax", 0.01), ("MatMul", 0.06), ("GlobalAveragePool", 0.04), ("Relu", 0.0))

# Name, operator, spec, measured seconds, and what is proposed (rank, error, MACs, seconds) or why nothing is.
LAYERS = [
    ("/backbone/features/denseblock4/denselayer24/conv2/Conv", "Conv",
     ConvSpec.make(128, 32, kernel=(3, 3), in_size=(7, 9), pads=(1, 1, 1, 1), bias=False), 2.13e-4,
     (16, 0.2871, 260_000, 1.4e-4)),
    ("InceptionV4/InceptionV4/Mixed_7d/Branch_2/Conv2d_0c_0b_3x1/convolution_fused", "Conv",
     ConvSpec.make(1536, 1024, kernel=(3, 1), in_size=(17, 19), pads=(1, 0, 1, 0)), 0.01234,
     (1008, 0.0999, 1_290_000_000, 0.00987)),
    ("conv1", "Conv", ConvSpec.make(3, 96, kernel=(11, 11), in_size=(227, 231), stride=(4, 4)), 1.2345,
     Ineligible(code="few_channels", reason="3 input channel(s) cannot be reduced")),
    ("encoder.layers.11.conv_module.depthwise_conv", "Conv",
     ConvSpec.make(1024, 1024, kernel=(31,), in_size=(1600,), pads=(15, 15), groups=1024), 0.00042,
     Ineligible(code="depthwise", reason="a depthwise convolution mixes no channels")),
    ("resnext/stage3_unit1_conv2", "Conv",
     ConvSpec.make(1024, 1024, kernel=(3, 3), in_size=(28, 26), stride=(2, 2), groups=32), 0.0567,
     Ineligible(code="grouped", reason="32 groups: only ungrouped layers are factorised")),
    ("video/res4a_2/conv3d", "Conv",
     ConvSpec.make(256, 512, kernel=(3, 3, 3), in_size=(16, 28, 24), stride=(1, 2, 2), pads=(1, 1, 1, 1, 1, 1)), 0.987,
     (160, 0.1234, 990_000_000, 0.401)),
    ("decoder/up4/ConvTranspose", "ConvTranspose",
     ConvSpec.make(512, 256, kernel=(2, 2), in_size=(32, 40), stride=(2, 2), transposed=True), 0.0021,
     Ineligible(code="transposed", reason="a transposed convolution has no reduction form yet")),
    ("vgg/features.2", "Conv", ConvSpec.make(64, 64, kernel=(3, 3), in_size=(224, 192), pads=(1, 1, 1, 1)), 0.0199,
     Ineligible(code="dynamic_weight", reason="its weight w is computed while running")),
    ("vgg/classifier.0", "Gemm", ConvSpec.make(25088, 4096, kernel=(), in_size=()), 0.0123,
     Ineligible(code="dense", reason="a dense layer has no spatial kernel to put a reduction before")),
    ("head/unknown", "Conv", ConvSpec.make(2048, 256, kernel=(3, 3), in_size=None, dilation=(18, 18)), None,
     Ineligible(code="unknown_shape", reason="the shape of t is unknown")),
    ("folded_away", "Conv", ConvSpec.make(32, 48, kernel=(5, 3), in_size=(9, 7)), 0.0, DECLINED),
    ("not_measured", "Conv", ConvSpec.make(32, 48, kernel=(5, 3), in_size=(9, 7)), 3.3e-6, None),
]


def layer_profile(index, name, op, spec, seconds, outcome):
    known = spec.in_size is not None
    out = None if spec.out_size is None else (1, spec.out_channels, *spec.out_size)
    layer = Layer(name=name, index=3 * index, op_type=op, spec=spec, input=f"t{index}", output=f"t{index + 1}",
                  weight=f"w{index}", bias=None, in_shape=(1, spec.in_channels, *spec.in_size) if known else None,
                  out_shape=out, ineligible=None)
    proposal = None
    if isinstance(outcome, tuple):
        rank, error, macs, after = outcome
        proposal = Proposal(strategy="reduce", ranks=(rank,), error=error, cost=Cost(params=macs // 99, macs=macs),
                            speedup=seconds / after, time_s=after)
    size = 4 * (100_000 + spec.params) if known else None
    spectra = LayerSpectra(
        inputs=ramp(spec.in_channels), outputs=ramp(spec.out_channels, 3), separable=None,
        positions=None if spec.is_pointwise else ramp(spec.positions))
    return LayerProfile(layer=layer, params=spec.params, macs=spec.macs, time_s=seconds, proposal=proposal,
                        declined=outcome if isinstance(outcome, Ineligible) else None, bytes=size,
                        inserted_s=None if seconds is None else seconds / 64,
                        provider=None if seconds is None else "CPUExecutionProvider",
                        roof=ROOFLINE.place(macs=spec.macs, moved_bytes=size, seconds=seconds),
                        weight_spectra=spectra if index % 4 else None)


def ramp(size, power=1):
    """A curve that rises to 1; with power 1 every direction carries the same."""
    return EnergyCurve(size=size, kept=tuple(1 - (1 - k / size)**power for k in range(1, size + 1)))


def analysis(*, measured=True):
    layers = tuple(layer_profile(i, *row) for i, row in enumerate(LAYERS))
    if not measured:
        layers = tuple(dataclasses.replace(p, time_s=None, proposal=None, roof=None, weight_spectra=None, provider=None,
                                           inserted_s=None) for p in layers)
    latency = Latency(median_s=2.4, p10_s=2.3, p90_s=2.6, runs=12, provider="CPUExecutionProvider", threads=0)
    profile = ModelProfile(
        nodes=(), end_to_end=latency, profiled_s=2.5, total_kernel_s=2.45, mapped_s=2.44, reorder_s=0.021, cast_s=0.0,
        by_op=(("Conv", 2.2), ("GlobalAveragePool", 0.09), ("FusedMatMul", 0.05), ("ReorderInput", 0.02),
               ("Softmax", 0.01), ("QuickGelu", 0.01), ("LayerNormalization", 0.01), ("Gemm", 0.01), ("Nothing", 0.0)),
        unmapped=(("fused_17", "FusedConv", 0.01),), feed_shapes=(("x", (1, 3, 227, 231)),))
    return Analysis(path="models/net.onnx", sha256="ab" * 32, opset=17, file_bytes=9_876_543,
                     environment=ENVIRONMENT if measured else None,
                    layers=layers, profile=profile if measured else None,
                    warnings=("input x: free dimension N set to 1 (change it with --dim N=...)",),
                    roofline=ROOFLINE if measured else None, nodes=nodes(layers) if measured else ())


def nodes(layers):
    """A graph of the layers, each with two nodes behind it, and some others at its end."""
    found = []
    for p in layers:
        seconds = p.time_s or 0.0
        found.append(node(len(found), p.layer.name, p.layer.op_type, seconds=seconds, inserted_s=p.inserted_s or 0.0,
                          kernels=("Conv",) if seconds else ()))
        found.append(node(len(found), f"{p.layer.name}/bn", "BatchNormalization", absorbed_into=p.layer.name))
        found.append(node(len(found), f"{p.layer.name}/relu", "Relu", absorbed_into=p.layer.name))
    return (*found, *(node(len(found) + i, f"node_{i}", op, seconds=seconds, kernels=(op,) if seconds else (),
                           provider="CPUExecutionProvider" if seconds else None)
                      for i, (op, seconds) in enumerate(OTHERS)))


def node(index, name, op, **changes):
    default = {"seconds": 0.0, "inserted_s": 0.0, "absorbed_into": None, "kernels": (),
               "provider": "CPUExecutionProvider"}
    return NodeProfile(index=index, name=name, op=op, output=f"out_{index}", **(default | changes))


def rendered(parts, width):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue().splitlines()


def assert_whole(table, lines):
    """Every header and every cell but the names is shown in full, in its order."""
    headers = [str(column.header) for column in table.columns]
    start = next(i for i, line in enumerate(lines) if line.startswith(headers[0]))
    rows = [headers, *zip(*(map(str, column.cells) for column in table.columns), strict=True)]
    shown = [lines[start], *lines[start + 2:start + 1 + len(rows)]]  # without the rule
    for row, line in zip(rows, shown, strict=True):
        words = line.split()
        expected = [word for cell in row for word in cell.split()]
        assert words == expected, line
    assert all("…" not in cell for row in rows for cell in row[1:])


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(("width", "wide"), [(80, False), (139, False), (WIDE, True), (160, True), (200, True)])
@pytest.mark.parametrize("kind", ["images", "video", "audio", "groups", "others", "everything"])
def test_tables_fit(measured, width, wide, kind):
    picks = {"images": (0, 1, 2, 7, 8, 10), "video": (5, 8), "audio": (3, 11), "groups": (0, 2, 4),
             "others": (0, 6, 7, 9, 10), "everything": range(len(LAYERS))}[kind]
    found = analysis(measured=measured)
    found = dataclasses.replace(found, layers=tuple(found.layers[i] for i in picks))
    parts = analysis_report(found, found.layers, wide=wide)
    lines = rendered(parts, width)
    assert max(map(len, lines)) <= width
    assert_whole(parts[0], lines)
    assert len(set(parts[0].columns[0].cells)) == len(found.layers)  # long names are shortened, and still differ


@pytest.mark.parametrize(("width", "wide"), [(80, False), (160, True)])
@pytest.mark.parametrize("kind", ["reduce", "tucker2", "reduce_spatial", "a_very_long_family"])
def test_columns_give_way_to_long_proposals(width, wide, kind):
    found = analysis()
    layers = [dataclasses.replace(p, proposal=p.proposal and dataclasses.replace(
        p.proposal, strategy=kind, ranks=(1008, 1008))) for p in found.layers]
    table = analysis_report(found, layers, wide=wide)[0]
    lines = rendered([table], width)
    assert max(map(len, lines)) <= width
    assert_whole(table, lines)
    shown = [c.header for c in table.columns]
    assert {"layer", "kernel", "ms", "roof", "inputs", "rewrite", "after"} <= set(shown)
    usual = [c.header for c in analysis_report(found, found.layers, wide=wide)[0].columns]
    assert [header for header in usual if header in shown] == shown
    assert len(shown) == len(usual) if kind == "reduce" else len(shown) < len(usual) or kind == "tucker2"


def test_the_wide_table_says_more_than_the_narrow_one():
    found = analysis()
    narrow, wide = (analysis_report(found, found.layers, wide=flag)[0] for flag in (False, True))
    assert {c.header for c in narrow.columns} == {"layer", "kernel", "MACs", "ms", "share", "roof", "inputs",
                                                 "rewrite", "after"}
    assert {c.header for c in narrow.columns} < {c.header for c in wide.columns}


def test_a_row_holds_the_figures_of_its_layer():
    lines = rendered(analysis_report(analysis(), analysis().layers, wide=False), 100)
    row = next(line for line in lines if "3x3x3" in line)
    assert row.split()[1:] == ["3x3x3/1x2x2", "9.51G", "987", "42.4%", "c", "1%", "▁▂▃▃▄█",
                           "reduce", "160", "401"]
    row = next(line for line in lines if "d18" in line)
    assert row.split()[1:] == ["3x3", "d18", "?", "-", "-", "-", "▁▂▃▃▄█", "unknown_shape"]
    lines = rendered(analysis_report(analysis(), analysis().layers, wide=True), 160)
    row = next(line for line in lines if "1x25088" in line)
    assert row.split()[1:] == ["dense", "1x25088", "1x4096", "103M", "103M", "12.3", "0.5%", "8.4", "0.2",
                           "memory", "17%", "dense"]
    row = next(line for line in lines if "3x3x3" in line)
    assert row.split()[7:-4] == ["42.4%", "9.6", "653.4", "compute", "1%", "▁▂▃▃▄█", "▂▃▄▅▇█"]


def test_without_a_measurement_there_are_no_empty_columns():
    found = analysis(measured=False)
    narrow, table = (analysis_report(found, found.layers, wide=wide)[0] for wide in (False, True))
    assert [c.header for c in narrow.columns] == ["layer", "kernel", "MACs", "share", "rewrite"]
    assert [c.header for c in table.columns] == ["layer", "kind", "kernel", "in", "out", "params", "MACs", "share",
                                                 "MAC/B", "rewrite"]
    row = next(line for line in rendered([table], 160) if "1x25088" in line)
    assert row.split()[1:] == ["dense", "dense", "1x25088", "1x4096", "103M", "103M", "0.8%", "0.2", "dense"]
    table = narrow
    row = next(line for line in rendered([table], 100) if line.startswith("video"))
    assert row.split() == ["video/res4a_2/conv3d", "3x3x3/1x2x2", "9.51G", "69.9%", "eligible"]


@pytest.mark.parametrize(("width", "wide"), [(80, False), (160, True)])
def test_every_node_is_listed_on_demand(width, wide):
    found = analysis()
    parts = analysis_report(found, found.layers, wide=wide, nodes=True)
    table = parts[2]
    lines = rendered([table], width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 2 + len(found.nodes)
    assert parts[0].columns[0].header == "layer"
    cells = [list(column.cells) for column in table.columns]
    assert [c[15] for c in cells][1:6] == ["Conv", "987", "15.4", "40.9%", "CPU"]
    assert cells[6][16] == "in video/res4a_2/conv3d" if wide else cells[6][16].startswith("in ")
    assert [c[-1] for c in cells][1:] == ["Relu", "0.000", "", "0.0%", "-", "folded"]
    compiled = node(99, "compiled", "Conv", provider="OtherExecutionProvider")
    table = analysis_report(dataclasses.replace(found, nodes=(compiled,)), (), wide=wide, nodes=True)[2]
    assert [next(iter(column.cells)) for column in table.columns][1:] == ["Conv", "-", "", "-", "Other", "not mapped"]


def test_the_roof_and_what_is_bound_by_it_are_told():
    text = "\n".join(part for part in analysis_report(analysis(), analysis().layers, wide=False)
                     if isinstance(part, str))
    assert "roof of this machine: 1000.0 GMAC/s, 200.0 GB/s, which cross at 5.0 MAC per byte" in text
    memory = [p for p in analysis().layers if p.roof and p.roof.bound == "memory"]
    assert 1 < len(memory) < len(LAYERS) - 2
    share = sum(p.time_s for p in memory) / sum(p.time_s or 0 for p in analysis().layers)
    assert f"bound by memory (m): {len(memory)} layers, {100 * share:.1f}% of their time" in text


@pytest.mark.parametrize("images", [False, True])
def test_where_the_curves_are_from_is_told(images):
    found = analysis()
    if images:
        found = dataclasses.replace(found, layers=tuple(
            dataclasses.replace(p, activation_spectra=p.weight_spectra) for p in found.layers))
    text = "\n".join(part for part in analysis_report(found, found.layers, wide=False) if isinstance(part, str))
    assert ("from the images" in text) == images
    assert ("from the weights alone: ▁" in text) != images
    found = dataclasses.replace(found, layers=tuple(
        dataclasses.replace(p, activation_spectra=None, weight_spectra=None) for p in found.layers))
    text = "\n".join(part for part in analysis_report(found, found.layers, wide=False) if isinstance(part, str))
    assert "▁" not in text


@pytest.mark.parametrize(("count", "more"), [(0, ""), (1, ""), (3, ""), (5, " and 2 more")])
def test_what_could_not_be_mapped_is_named(count, more):
    found = analysis()
    unmapped = tuple((f"kernel_{k}", "FusedConv", 0.001 * k) for k in range(count))
    found = dataclasses.replace(found, profile=dataclasses.replace(found.profile, unmapped=unmapped))
    line = next(part for part in analysis_report(found, found.layers, wide=False) if "is mapped to nodes" in str(part))
    names = [f"kernel_{k}" for k in range(count)][::-1][:3]
    assert [word for word in line.split() if word.startswith("kernel_")] == names
    assert line.endswith(more)
    assert ("not mapped" in line) == (count > 0)


@pytest.mark.parametrize(("profiled", "text"), [
    (2.5, "the kernels add up to 2450 ms, 102.1% of it; recording them adds 100 ms to a run"),
    (2.3, "recording them takes no time that can be measured")])
def test_the_sum_is_compared_with_a_plain_run(profiled, text):
    found = analysis()
    found = dataclasses.replace(found, profile=dataclasses.replace(found.profile, profiled_s=profiled))
    assert any(text in str(part) for part in analysis_report(found, found.layers, wide=False))


@pytest.mark.parametrize(("p10", "text"), [(2.3, "2400 ms per run on"), (
    0.8, "2400 ms per run (800 ms in the fastest tenth of the runs: the machine is busy) on")])
def test_a_busy_machine_shows(p10, text):
    found = analysis()
    latency = dataclasses.replace(found.profile.end_to_end, p10_s=p10)
    found = dataclasses.replace(found, profile=dataclasses.replace(found.profile, end_to_end=latency))
    assert any(text in str(part) for part in analysis_report(found, found.layers, wide=False))


def test_layers_that_beat_the_memory_are_explained():
    found = analysis()
    assert not any("stayed in a cache" in str(part) for part in analysis_report(found, found.layers, wide=False))
    layers = [dataclasses.replace(p, roof=p.roof and dataclasses.replace(p.roof, fraction=1.5)) for p in found.layers]
    found = dataclasses.replace(found, layers=tuple(layers))
    assert any("above 100% tensors stayed in a cache" in str(part)
               for part in analysis_report(found, found.layers, wide=False))


def test_providers_are_told_where_there_are_several():
    found = analysis()
    assert not any("provider" in str(part) for part in analysis_report(found, found.layers, wide=False))
    other = dataclasses.replace(found.nodes[0], provider="OtherExecutionProvider")
    found = dataclasses.replace(found, nodes=(other, *found.nodes[1:]))
    line = next(part for part in analysis_report(found, found.layers, wide=False) if "by provider" in str(part))
    assert line == f"nodes by provider: CPUExecutionProvider {len(found.nodes) - 2}, OtherExecutionProvider 1"


def test_what_is_rendered_at_80_columns_is_not_wrapped_within_a_table():
    found = analysis()
    lines = rendered(analysis_report(found, found.layers, wide=False), 80)
    assert lines[2 + len(found.layers)] == ""


@pytest.mark.parametrize(("key", "first"), [
    ("graph", 0), ("time", 2), ("macs", 5), ("params", 8), ("gain", 5)])
def test_sorting(key, first):
    found = analysis()
    assert SORT_KEYS == ("graph", "time", "macs", "params", "gain")
    layers = sorted_layers(found, key, None)
    assert sorted(p.layer.index for p in layers) == [p.layer.index for p in found.layers]
    assert layers[0] is found.layers[first]
    assert sorted_layers(found, key, 3) == layers[:3]
    assert sorted_layers(found, key, 99) == layers


@pytest.mark.parametrize("key", SORT_KEYS)
def test_equal_layers_stay_in_graph_order(key):
    found = analysis(measured=False)
    same = dataclasses.replace(found, layers=(found.layers[-1],) * 3)
    layers = [dataclasses.replace(p, layer=dataclasses.replace(p.layer, index=i)) for i, p in enumerate(same.layers)]
    ordered = sorted_layers(dataclasses.replace(same, layers=tuple(layers)), key, None)
    assert [p.layer.index for p in ordered] == [0, 1, 2]


def test_totals_are_told_below_the_table():
    text = "\n".join(part for part in analysis_report(analysis(), analysis().layers, wide=False)
                     if isinstance(part, str))
    assert f"{len(LAYERS)} layers" in text
    assert "2400 ms per run on Intel(R) Xeon(R) Platinum 8488C, channel block 16" in text
    assert "proposed: 3 layers" in text
    assert "  1 x few_channels: 3 input channel(s) cannot be reduced" in text
    assert "GlobalAveragePool 3.7%" in text
    assert "ReorderInput" not in text
    proposal = [p for p in analysis().layers if p.proposal]
    before = 2.45 - sum(p.time_s - p.proposal.time_s for p in proposal)
    assert f"2450 -> {before * 1e3:.0f} ms (predicted)" in text


def test_where_nothing_is_proposed_the_next_step_is_named():
    found = dataclasses.replace(analysis(), layers=tuple(dataclasses.replace(p, proposal=None)
                                                         for p in analysis().layers))
    text = "\n".join(part for part in analysis_report(found, found.layers, wide=False) if isinstance(part, str))
    assert "nothing worth rewriting was found" in text
    assert "--calibration" in text


def test_without_layers():
    found = dataclasses.replace(analysis(), layers=())
    for wide in (False, True):
        parts = analysis_report(found, (), wide=wide)
        assert max(map(len, rendered(parts, 80))) <= 80 or wide
        assert any(str(part).startswith("0 layers") for part in parts if not isinstance(part, Table))


def test_other_operators_are_those_that_are_no_layers():
    found = analysis()
    positions = {row[0]: 3 * i for i, row in enumerate(LAYERS)}
    assert {p.layer.name: p.layer.index for p in found.layers} == positions
    assert [(op, pytest.approx(s)) for op, s in other_operators(found)] == [
        ("GlobalAveragePool", 0.09), ("MatMul", 0.06), ("Softmax", 0.01)]
    assert other_operators(analysis(measured=False)) == []


# ---- JSON ----

def strict_json(found, layers=None):
    return json.loads(json.dumps(analysis_json(found, found.layers if layers is None else layers), allow_nan=False))


@pytest.mark.parametrize("measured", [True, False])
def test_json_has_the_documented_keys(measured):
    found = strict_json(analysis(measured=measured))
    assert {"schema_version", "tool", "command", "environment", "model", "totals", "layers", "warnings"} <= set(found)
    assert (found["schema_version"], found["command"]) == (1, "analyze")
    assert found["model"] == {"path": "models/net.onnx", "sha256": "ab" * 32, "opset": 17, "file_bytes": 9_876_543}
    assert found["warnings"] == ["input x: free dimension N set to 1 (change it with --dim N=...)"]
    assert (found["environment"] is None) != measured
    if measured:
        assert {"cpu", "isa", "block", "onnxruntime", "providers", "threads"} <= set(found["environment"])
        assert found["environment"]["block"] == 16


def test_json_layers_are_in_the_order_that_was_given():
    found = analysis()
    assert [x["name"] for x in strict_json(found)["layers"]] == [row[0] for row in LAYERS]
    assert [x["index"] for x in strict_json(found)["layers"]] == [3 * i for i in range(len(LAYERS))]
    assert [x["name"] for x in strict_json(found, found.layers[4:1:-1])["layers"]] == [
        row[0] for row in LAYERS[4:1:-1]]


def test_json_numbers_are_numbers():
    found = strict_json(analysis())
    for entry, p in zip(found["layers"], analysis().layers, strict=True):
        assert entry["params"] == p.params
        assert type(entry["params"]) is int
        assert (entry["macs"], entry["time_s"]) == (p.macs, p.time_s)
        assert entry["spec"]["kernel"] == list(p.layer.spec.kernel)
        assert (entry["declined"] is None) == (p.declined is None)
        if p.proposal:
            assert entry["proposal"]["ranks"] == list(p.proposal.ranks)
            assert entry["proposal"]["cost"] == {"params": p.proposal.cost.params, "macs": p.proposal.cost.macs}
            assert entry["proposal"]["speedup"] == pytest.approx(p.time_s / p.proposal.time_s)
    totals = found["totals"]
    assert (totals["layers"], totals["macs"]) == (len(LAYERS), sum(p.macs or 0 for p in analysis().layers))
    assert totals["macs_after"] < totals["macs"]
    assert totals["measured"]["by_op"]["GlobalAveragePool"] == 0.09
    assert totals["measured"]["end_to_end"]["runs"] == 12
    assert totals["measured"]["overhead_s"] == pytest.approx(2.4 - 2.45)
    assert totals["measured"]["profiling_s"] == pytest.approx(0.1)


def test_json_has_what_was_measured_of_layers_and_nodes():
    found = strict_json(analysis())
    assert found["roofline"] == {"peak": 1e12, "bandwidth": 2e11, "ridge": 5.0, "provider": "CPUExecutionProvider",
                                 "threads": 0, "cases": [["Add", 2e11]]}
    for entry, p in zip(found["layers"], analysis().layers, strict=True):
        assert (entry["bytes"], entry["intensity"], entry["inserted_s"]) == (p.bytes, p.intensity, p.inserted_s)
        assert entry["roof"] == (p.roof and {"bound": p.roof.bound, "limit": p.roof.limit, "fraction": p.roof.fraction})
        assert entry["spectra"]["activations"] is None
        assert (entry["spectra"]["weights"] is None) == (p.weight_spectra is None)
    assert [n["name"] for n in found["nodes"]] == [n.name for n in analysis().nodes]
    assert found["nodes"][1] | {"index": 0} == {
        "index": 0, "name": f"{LAYERS[0][0]}/bn", "op": "BatchNormalization", "output": "out_1", "seconds": 0.0,
        "inserted_s": 0.0, "absorbed_into": LAYERS[0][0], "kernels": [], "provider": "CPUExecutionProvider"}
    blind = strict_json(analysis(measured=False))
    assert (blind["roofline"], blind["nodes"]) == (None, [])


def test_json_totals_without_a_measurement():
    totals = strict_json(analysis(measured=False))["totals"]
    assert totals["measured"] is None
    assert totals["saved_s"] is None
    assert totals["macs_after"] == totals["macs"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_survives_figures_that_are_not_finite(value):
    found = analysis()
    odd = dataclasses.replace(found.layers[0], time_s=value)
    assert strict_json(dataclasses.replace(found, layers=(odd,)))["layers"][0]["time_s"] is None
