"""Which layers of two models belong together: real rewrites, renamed exports, changed and missing layers."""

import dataclasses
import itertools
import time

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxslim1x1
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.search.comparison import Pair, compare, matched
from onnxslim1x1.spec import ConvFactor
from onnxslim1x1.strategies import STRATEGIES

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 18, 14] image) => (float[1, 9] scores) {
  stem = Conv <pads = [2, 1, 2, 1]> (image, stem_w)
  r = Relu(stem)
  left = Conv <pads = [1, 1, 1, 1]> (r, left_w)
  right = Conv <pads = [2, 2, 2, 2]> (r, right_w)
  sum = Add(left, right)
  straight = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (sum, straight_w)
  last = Conv (straight, last_w)
  g = GlobalAveragePool(last)
  f = Flatten(g)
  scores = MatMul(f, head_w)
}"""
SHAPES = {"stem_w": (24, 3, 5, 3), "left_w": (32, 24, 3, 3), "right_w": (32, 24, 5, 5), "straight_w": (40, 32, 3, 3),
          "last_w": (36, 40, 1, 1), "head_w": (36, 9)}
NAMES = {"stem": "net/stem", "left": "a/left", "right": "a/right", "straight": "b/straight", "last": "b/last",
         "scores": "head"}


def network(text=TEXT, shapes=SHAPES, names=NAMES):
    rng = np.random.default_rng(41)
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = names.get(node.output[0], "")
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items())
    return model


def renamed(model, suffix):
    """The same graph, every node and tensor under another name; inputs and outputs of the graph, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.initializer):
        value.name += suffix
    for node in copy.graph.node:
        node.name += suffix
        for field in (node.input, node.output):
            field[:] = [name + suffix for name in field]
    return copy


def analysed(model):
    return onnxslim1x1.analyze(model, measure=False)


def shown(comparison):
    return [(m.found, m.before, m.after) for m in comparison.matches]


LAYERS = find_layers(load(network()), infer_shapes(load(network())).tensors)
CHOICES = [(layer.name, s.name) for layer in LAYERS for s in STRATEGIES if s.check(layer.spec) is None]


def rewritten(chosen):
    """The network with some layers replaced by a chain of a family at small ranks; and the geometries of each."""
    edit, chains = GraphEdit(load(network())), {}
    for layer in LAYERS:
        if layer.name in chosen:
            strategy = next(s for s in STRATEGIES if s.name == chosen[layer.name])
            chain = strategy.chain(layer.spec, tuple(min(8, most) for most in strategy.max_ranks(layer.spec)))
            chains[layer.name] = chain
            replace_layer(edit, layer, [
                ConvFactor(role=f"{strategy.name}{i}", spec=spec, weight=np.ones(spec.weight_shape),
                           bias=np.zeros(spec.out_channels) if spec is chain[-1] else None)
                for i, spec in enumerate(chain)])
    return edit.result().proto, chains


# ---- our own rewrites ----

@settings(max_examples=25, deadline=None)
@given(st.dictionaries(*(st.sampled_from(sorted({c[i] for c in CHOICES})) for i in (0, 1))), st.booleans())
def test_a_rewritten_layer_matches_its_chain(wished, backwards):
    chosen = {name: family for name, family in wished.items() if (name, family) in CHOICES}
    model, chains = rewritten(chosen)
    sides = (analysed(network()), analysed(model))
    found = compare(*(reversed(sides) if backwards else sides))
    assert {m.found for m in found.matches} == {"name"}
    for layer, match in zip(LAYERS, found.matches, strict=True):
        one, chain = (match.after, match.before) if backwards else (match.before, match.after)
        macs, params = ((p.after, p.before) if backwards else (p.before, p.after) for p in (match.macs, match.params))
        assert one == (layer.name,)
        assert chain[-1] == layer.name
        assert len(chain) == len(chains.get(layer.name, [None]))
        assert macs == (layer.spec.macs, sum(spec.macs for spec in chains.get(layer.name, ())) or layer.spec.macs)
        assert params[0] == layer.spec.params
    assert sum(m.macs.after for m in found.matches) == found.after.macs == found.totals.macs.after
    assert sum(m.params.before for m in found.matches) == found.before.params == found.totals.params.before


def test_two_rewrites_of_one_layer_match_as_chains():
    one, other = (rewritten({"a/right": family})[0] for family in ("reduce", "spatial"))
    found = shown(compare(analysed(one), analysed(other)))
    assert ("name", ("a/right/reduce0", "a/right"), ("a/right/spatial0", "a/right")) in found
    assert len(found) == len(LAYERS)


def test_a_model_is_its_own_match():
    same = compare(analysed(network()), analysed(network()))
    assert shown(same) == [("name", (name,), (name,)) for name in NAMES.values()]
    assert {(m.macs.ratio, m.params.ratio) for m in same.matches} == {(1.0, 1.0)}
    assert same.totals.latency_s == Pair(before=None, after=None)


# ---- other exports ----

def test_other_names_for_nodes_are_seen_through_by_tensors():
    nameless = network(names={})
    found = compare(analysed(network()), analysed(nameless))
    assert shown(found) == [("output", (name,), (tensor,)) for tensor, name in NAMES.items()]


def test_other_names_for_everything_are_seen_through_by_the_order():
    found = compare(analysed(network()), analysed(renamed(network(), "_v2")))
    assert shown(found) == [("order", (name,), (f"{name}_v2",)) for name in NAMES.values()]


def test_numbers_as_names_that_have_moved_do_not_mislead():
    """In the second export all numbers have moved by one, so Conv_2 is the 5x5 branch here and the 3x3 one there."""
    before, after = (network(names={tensor: f"Conv_{i + first}" for i, tensor in enumerate(NAMES)}) for first in (0, 1))
    found = compare(analysed(before), analysed(after))
    assert shown(found) == [("output", (f"Conv_{i}",), (f"Conv_{i + 1}",)) for i in range(len(NAMES))]


def test_layers_with_fewer_channels_keep_their_partners():
    thin = SHAPES | {"left_w": (16, 24, 3, 3), "right_w": (16, 24, 5, 5), "straight_w": (40, 16, 3, 3)}
    found = compare(analysed(network()), analysed(network(shapes=thin)))
    assert shown(found) == [("name", (name,), (name,)) for name in NAMES.values()]
    assert found.matches[1].macs.ratio == 0.5


def test_what_only_one_model_has_stands_where_it_belongs():
    shorter = TEXT.replace("right = Conv <pads = [2, 2, 2, 2]> (r, right_w)\n", "").replace(
        "sum = Add(left, right)", "sum = Relu(left)")
    shapes = {k: v for k, v in SHAPES.items() if k != "right_w"}
    less = network(shorter, shapes)
    found = shown(compare(analysed(network()), analysed(less)))
    assert found[2] == ("removed", ("a/right",), ())
    assert [f for f, *_ in found] == ["name", "name", "removed", "name", "name", "name"]
    found = shown(compare(analysed(less), analysed(network())))
    assert found[2] == ("added", (), ("a/right",))
    assert [f for f, *_ in found] == ["name", "name", "added", "name", "name", "name"]


def test_every_layer_is_in_exactly_one_match():
    models = [network(), rewritten(dict(CHOICES[:3]))[0], renamed(network(), "_x"), network(names={})]
    for one, other in itertools.permutations(map(analysed, models), 2):
        found = compare(one, other)
        for names, layers in (([n for m in found.matches for n in m.before], one.layers),
                              ([n for m in found.matches for n in m.after], other.layers)):
            assert sorted(names) == sorted(p.layer.name for p in layers)


# ---- figures ----

@pytest.mark.parametrize(("before", "after", "ratio"), [
    (2, 1, 0.5), (4, 4, 1.0), (3, 0, 0.0), (None, 1, None), (1, None, None), (0, 1, None)])
def test_ratios(before, after, ratio):
    assert Pair(before=before, after=after).ratio == ratio


def test_a_sum_with_something_unknown_is_unknown():
    model, _ = rewritten({"a/left": "reduce"})
    before, after = analysed(network()), analysed(model)
    times = {"a/left/reduce0": 0.25, "a/left": 0.5}
    timed = dataclasses.replace(after, layers=tuple(dataclasses.replace(p, time_s=times.get(p.layer.name))
                                                    for p in after.layers))
    match = next(m for m in compare(before, timed).matches if m.before == ("a/left",))
    assert match.time_s == Pair(before=None, after=0.75)
    unknown = dataclasses.replace(timed, layers=tuple(
        dataclasses.replace(p, time_s=None if p.layer.name == "a/left/reduce0" else 1.0) for p in timed.layers))
    match = next(m for m in compare(before, unknown).matches if m.before == ("a/left",))
    assert match.time_s.after is None


def test_warnings_of_both_are_told_once():
    before, after = (dataclasses.replace(analysed(network()), warnings=w) for w in (("a", "b"), ("b", "c")))
    assert compare(before, after).warnings == ("a", "b", "c")


def test_thousands_of_like_layers_are_no_matter_of_minutes():
    base = analysed(network()).layers[1]
    def many(prefix):
        return [dataclasses.replace(base, layer=dataclasses.replace(
            base.layer, name=f"{prefix}{i}", index=i, input=f"{prefix}t{i}", output=f"{prefix}t{i + 1}x"))
            for i in range(20_000)]

    start = time.perf_counter()
    found = matched(many("a"), many("b"))
    assert time.perf_counter() - start < 20  # the square of them would take hours
    assert [(m.before, m.after) for m in found[::4999]] == [((f"a{i}",), (f"b{i}",)) for i in range(0, 20_000, 4999)]


# ---- normalizations that are folded ----

FOLDABLE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 24, 18, 14] image) => (float[1, 32, 18, 14] out) {
  c1 = Conv <pads = [1, 1, 1, 1]> (image, w1)
  n1 = BatchNormalization(c1, s32, s32, s32, s32)
  c2 = Conv(n1, w2)
  n2 = BatchNormalization(c2, s32, s32, s32, s32)
  r = Relu(n2)
  c3 = Conv <pads = [2, 2, 2, 2]> (r, w3)
  n3 = BatchNormalization(c3, s32, s32, s32, s32)
  c4 = Conv <pads = [1, 1, 1, 1]> (r, w4)
  n4 = BatchNormalization(c4, s32, s32, s32, s32)
  out = Add(n3, n4)
}"""
FOLD_SHAPES = {"w1": (32, 24, 3, 3), "w2": (32, 32, 1, 1), "w3": (32, 32, 5, 5), "w4": (32, 32, 3, 3), "s32": (32,)}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("ranks", [{"n1": 16}, {"n3": 16, "n4": 16}, {"n1": 16, "n3": 24, "n4": 32}, {}])
def test_layers_that_write_what_a_folded_normalization_wrote_are_found_by_what_they_read(backwards, ranks):
    """Nodes without names are called like their outputs, which change where a normalization is folded into them."""
    model = network(FOLDABLE, FOLD_SHAPES, names={})
    for tensor in model.graph.initializer:
        if tensor.name == "s32":
            tensor.raw_data = np.ones(32, np.float32).tobytes()  # a variance is positive
    wanted = onnxslim1x1.Budget(ranks=ranks, max_error=None if ranks else 1e-9)
    done = onnxslim1x1.apply(model, onnxslim1x1.plan(model, wanted)) if ranks else None
    after = done.proto if done else model
    sides = (analysed(model), analysed(after))
    found = compare(*(reversed(sides) if backwards else sides)).matches
    assert len(found) == 4
    for number, match in enumerate(found, start=1):
        one, chain = (match.after, match.before) if backwards else (match.before, match.after)
        assert one == (f"c{number}",)
        assert chain[-1] == (f"n{number}" if ranks else f"c{number}")
        assert len(chain) == (2 if f"n{number}" in ranks else 1)


def test_equal_layers_that_read_one_tensor_are_paired_in_their_order():
    text = FOLDABLE.replace("c4 = Conv <pads = [1, 1, 1, 1]>", "c4 = Conv <pads = [2, 2, 2, 2]>")
    model = network(text, FOLD_SHAPES | {"w4": (32, 32, 5, 5)}, names={})
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for node in other.graph.node:
        node.output[:] = [f"{o}_" if o.startswith("c") else o for o in node.output]
        node.input[:] = [f"{i}_" if i.startswith("c") else i for i in node.input]
    assert shown(compare(analysed(model), analysed(other))) == [
        ("input", (f"c{i}",), (f"c{i}_",)) for i in range(1, 5)]
