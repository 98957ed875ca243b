"""Models cut into segments: every way through a graph gives what the whole model gives."""

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.errors import ModelError
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.segment import readers_of, segment, shortcut_of
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.runtime.calibration import with_outputs
from onnxslim1x1.runtime.session import create_session, run

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
X = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)


def parse(text, *, head=HEAD, seed=1, **weights):
    proto = onnx.parser.parse_model(head + text)
    rng = np.random.default_rng(seed)
    proto.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 2, name)
        for name, shape in weights.items())
    return proto


class Walk:
    """Goes through a model from segment to segment, with what it has at hand."""

    def __init__(self, model, feeds):
        self.model, self.values, self.done, self.ran = model, dict(feeds), set(feeds), Counter()

    def to(self, *wanted):
        part = segment(self.model, at_hand=self.values, done=self.done, wanted=wanted)
        found = {}
        if part.model is not None:
            self.ran.update(node.name for node in part.model.graph.node)
            feeds = {name: self.values[name] for name in part.inputs}
            session = create_session(part.model.SerializeToString())
            found = dict(zip(part.outputs, run(session, feeds, outputs=part.outputs), strict=True))
        self.values = {name: v for name, v in self.values.items() if name in part.kept} | found
        self.done |= part.written
        return part


def whole(model, feeds, names):
    """Values of tensors from one run of the whole model."""
    fed = [name for name in names if name in feeds]
    computed = [name for name in names if name not in feeds]
    found = run(create_session(with_outputs(model, computed)), feeds, outputs=computed)
    return dict(zip(computed, found, strict=True)) | {name: feeds[name] for name in fed}


def assert_same(found, expected):
    # convolutions and activations are fused in other places: float32 rounding of values up to 10
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == expected.dtype


# random graphs

KINDS = ("conv", "add", "concat", "if", "relu", "constant", "split")


def random_graph(seed):
    """A graph of 14 nodes over tensors (N, 4, 5, 7), and by node what it reads and writes."""
    rng = np.random.default_rng(seed)
    tensors, lines, edges = ["x"], [], {}

    def add(line, inputs, outputs):
        edges[f"n{len(lines)}"] = (set(inputs), list(outputs))
        lines.append(f"[n{len(lines)}] {line}")
        tensors.extend(outputs)

    for i in range(14):
        a, b, d = (tensors[-1 - min(int(rng.geometric(0.4)) - 1, len(tensors) - 1)] for _ in range(3))
        t = f"t{i}"
        kind = KINDS[(i + seed) % 7 if i < 7 else rng.integers(7)]
        if kind == "conv":
            add(f"{t} = Conv<pads=[1,0,0,3], dilations=[1,3]>({a}, w{i % 2}, bias)", [a], [t])
        elif kind == "add":
            add(f"{t} = Add({a}, {b})", [a, b], [t])
        elif kind == "concat":
            add(f"{t}c = Concat<axis=1>({a}, {b}, {d})", [a, b, d], [t + "c"])
            tensors.pop()  # of 12 channels: only for the next node
            add(f"{t} = Conv({t}c, v)", [t + "c"], [t])
        elif kind == "if":
            add(f"""{t} = If(c) <then_branch = g{i} () => (float[N,4,5,7] r{i}) {{
                        q{i} = Mul({a}, scale) r{i} = Sub(q{i}, {b}) }},
                    else_branch = e{i} () => (float[N,4,5,7] s{i}) {{ s{i} = Abs({d}) }}>""", ["c", a, b, d], [t])
        elif kind == "relu":
            add(f"{t} = Relu({a})", [a], [t])
        elif kind == "constant":
            lines.append(f"k{i} = Constant<value = float[4,1,1] {{1.5, -2, 0.5, -1}}>()")
            edges[f"k{i}"] = (set(), [])
            add(f"{t} = Mul(k{i}, {a})", [a], [t])
        else:
            add(f"{t}l, {t}r = Split<axis=2>({a}, parts)", [a], [t + "l", t + "r"])
            del tensors[-2:]
            add(f"{t} = Concat<axis=2>({t}r, {t}l)", [t + "r", t + "l"], [t])
    outputs = ", ".join(f"float[N,4,5,7] t{i}" for i in (5, 13))
    text = f"g (float[N,4,5,7] x, bool c) => ({outputs}) {{\n" + "\n".join(lines) + "\n}"
    proto = parse(text, seed=seed, w0=(4, 4, 2, 2), w1=(4, 4, 2, 2), bias=(4,), v=(4, 12, 1, 1), scale=(4, 1, 7))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "parts"))
    return load(proto), edges


@pytest.mark.parametrize("seed", range(8))
def test_any_way_through_a_graph_gives_what_the_whole_model_gives(seed):
    model, edges = random_graph(seed)
    feeds = {"x": X, "c": np.array(seed % 2 == 0)}
    every = [name for _, outputs in edges.values() for name in outputs]
    expected = whole(model, feeds, [*every, *feeds])
    rng = np.random.default_rng(seed)
    walk = Walk(model, feeds)
    while left := [name for name in every if name not in walk.done]:
        wanted = sorted({str(name) for name in rng.choice(left, 2)})
        walk.to(*wanted)
        for name, values in walk.values.items():
            assert_same(values, expected[name])
        undone = [inputs for inputs, outputs in edges.values() if not walk.done.issuperset(outputs)]
        # all that is needed is at hand, and nothing else is
        assert set(walk.values) == {*wanted} | set().union({"t5", "t13"}, *undone) & walk.done
    assert walk.ran == Counter(node.name for node in model.proto.graph.node if node.op_type != "Constant")


@pytest.mark.parametrize("seed", [0, 3])
def test_the_whole_model_may_be_one_segment(seed):
    model, _ = random_graph(seed)
    feeds = {"x": X, "c": np.array(True)}
    walk = Walk(model, feeds)
    walk.to("t5", "t13")
    for name, values in whole(model, feeds, ["t5", "t13"]).items():
        assert_same(walk.values[name], values)


# what is computed, kept and dropped

DIAMOND = """g (float[N,4,5,7] x, float[N,4,5,7] extra) => (float[N,4,5,7] y, float[N,4,5,7] z) {
    [one] a = Relu(x)  [two] b = Neg(a)  [three] c = Sigmoid(b)  [four] y = Add(c, a)  [five] z = Sub(a, extra) }"""


def test_a_segment_holds_the_nodes_in_between_and_nothing_else():
    model = load(parse(DIAMOND))
    first = segment(model, at_hand=["x", "extra"], done=["x", "extra"], wanted=["b"])
    assert [n.name for n in first.model.graph.node] == ["one", "two"]
    assert (first.inputs, first.outputs, first.kept) == (("x",), ("a", "b"), {"extra"})
    second = segment(model, at_hand=["a", "b", "extra"], done=["x", "extra", "a", "b"], wanted=["y"])
    assert [n.name for n in second.model.graph.node] == ["three", "four"]
    assert (second.inputs, second.outputs, second.kept) == (("a", "b"), ("y",), {"a", "extra"})
    assert second.written == {"c", "y"}


def test_a_wanted_tensor_at_hand_is_kept_and_nothing_runs():
    model = load(parse(DIAMOND))
    part = segment(model, at_hand=["c", "z", "b"], done=["x", "extra", "a", "b", "c", "y", "z"], wanted=["c"])
    assert part.model is None
    assert (part.inputs, part.outputs, part.kept, part.written) == ((), (), {"c", "z"}, set())


def test_outputs_of_the_model_are_written_and_kept_though_nothing_reads_them():
    model = load(parse("""g (float[N,4,5,7] x) => (float[N,2,5,7] left, float[N,4,5,7] y) {
        left, right = Split<axis=1>(x)  a = Concat<axis=1>(right, right)  b = Abs(a)  y = Exp(b) }"""))
    walk = Walk(model, {"x": X})
    for name in "aby":
        walk.to(name)
        assert set(walk.values) == {"left", name}
    np.testing.assert_array_equal(walk.values["left"], X[:, :2])


@pytest.mark.parametrize(("at_hand", "done", "wanted", "lacking"), [
    (["x", "extra"], ["x", "extra"], "nowhere", "nowhere"),
    (["x"], ["x"], "z", "extra"),
    (["c", "extra"], ["x", "extra", "a", "b", "c"], "y", "a"),
    (["x", "extra"], ["x", "extra", "a"], "a", "a"),  # its node has run: not again
])
def test_a_tensor_that_cannot_be_computed_is_an_error(at_hand, done, wanted, lacking):
    with pytest.raises(ValueError, match=rf"tensors \['{lacking}'\] cannot be computed"):
        segment(load(parse(DIAMOND)), at_hand=at_hand, done=done, wanted=[wanted])


@pytest.mark.parametrize("wanted", ["k", "w"])
def test_a_constant_is_not_computed(wanted):
    model = load(parse("g (float[N,4,5,7] x) => (float[N,4,5,7] y) { k = Constant<value = float[1] {2}>() a = Mul(x, k)"
                       " y = Mul(a, w) }", w=(1,)))
    with pytest.raises(ValueError, match="cannot be computed"):
        segment(model, at_hand=["x"], done=["x"], wanted=[wanted])


def test_a_node_with_several_outputs_runs_once():
    model = load(parse("g (float[N,4,5,7] x) => (float[N,2,5,7] y) { [cut] a, b = Split<axis=1>(x)  y = Add(a, b) }"))
    walk = Walk(model, {"x": X})
    walk.to("b")
    assert set(walk.values) == {"a", "b"}
    walk.to("y")
    assert_same(walk.values["y"], X[:, :2] + X[:, 2:])
    assert walk.ran["cut"] == 1


def test_an_output_that_was_dropped_is_not_computed_again():
    model = load(parse("g (float[N,4,5,7] x) => (float[N,2,5,7] y) { a, b = Split<axis=1>(x)  y = Neg(a) }"))
    walk = Walk(model, {"x": X})
    walk.to("a")
    with pytest.raises(ValueError, match=r"\['b'\]"):
        walk.to("b")


def test_inputs_and_outputs_that_are_left_out_are_nothing_to_compute():
    proto = parse("g (float[N,4,5,7] x) => (float[N,4,5,7] y) <float top = {0.25}> {"
                  " a = MaxPool<kernel_shape=[1,1]>(x)  y = Clip(a, , top) }")
    proto.graph.node[0].output.append("")  # the indices
    walk = Walk(load(proto), {"x": X})
    for name in "ay":
        part = walk.to(name)
        assert part.outputs == (name,)
        assert part.written == {name}
    assert_same(walk.values["y"], np.minimum(X, np.float32(0.25)))


def test_sub_graphs_may_use_the_same_names_inside():
    branch = "then_branch = t () => (float[N,4,5,7] r) {{ q = Mul({0}, w)  r = Relu(q) }}, " \
             "else_branch = e () => (float[N,4,5,7] s) {{ s = Neg({0}) }}"
    model = load(parse(f"""g (float[N,4,5,7] x, bool c) => (float[N,4,5,7] y) {{
        a = If(c) <{branch.format("x")}>  b = Abs(a)  y = If(c) <{branch.format("b")}> }}""", w=(4, 5, 1)))
    feeds = {"x": X, "c": np.array(True)}
    walk = Walk(model, feeds)
    for name in "aby":
        part = walk.to(name)
        assert_same(walk.values[name], whole(model, feeds, [name])[name])
        assert part.inputs == {"a": ("c", "x"), "b": ("a",), "y": ("b", "c")}[name]


def test_a_loop_reads_its_own_state_and_the_outer_graph():
    model = load(parse("""g (float[N,4,5,7] x) => (float[N,4,5,7] y) {
        times = Constant<value = int64 {3}>()  go = Constant<value = bool {1}>()  a = Neg(x)
        l = Loop(times, go, a) <body = b (int64 i, bool on, float[N,4,5,7] state) =>
            (bool still, float[N,4,5,7] next) { still = Identity(on)  m = Mul(state, w)  next = Add(m, x) }>
        y = Relu(l) }""", w=(4, 1, 7)))
    walk = Walk(model, {"x": X})
    for name in ("a", "l", "y"):
        walk.to(name)
        assert_same(walk.values[name], whole(model, {"x": X}, [name])[name])


# types


@pytest.mark.parametrize("declared", ["<float16[N,4,5,7] a, int64[4] s>", "<int64[4] s>"])
def test_inputs_have_the_type_that_the_model_declares(declared):
    text = f"""g (float16[N,4,5,7] x, float16[4,1,1] k) => (float16[N,4,5,7] a, float16[N,4,5,7] y) {declared} {{
        a = Mul(x, k)  s = Shape(a)  y = Expand(a, s) }}"""
    model = load(parse(text))
    feeds = {"x": X.astype(np.float16), "k": np.arange(4, dtype=np.float16).reshape(4, 1, 1)}
    walk = Walk(model, feeds)
    for name in "asy":  # a may be declared as an inner tensor or, as here, only as a graph output
        walk.to(name)
        np.testing.assert_array_equal(walk.values[name], whole(model, feeds, [name])[name])


# weights

MANY = """g (float[N,4,9,11] x, bool c) => (float[N,3,5,10] y) {
    [one] a = Conv<strides=[2,1], dilations=[1,2], pads=[19,0,0,57]>(x, w, b)
    [two] y = If(c) <then_branch = t () => (float[N,3,5,10] r) { [in] r = Mul(a, inner) },
                     else_branch = e () => (float[N,3,5,10] s) { s = Add(a, inner_too) }> }"""


def weighted():
    """A model with weights in the main graph and in sub-graphs; w, of 28 KB, stays in the file."""
    proto = parse(MANY, w=(3, 4, 20, 30), b=(3,))
    rng = np.random.default_rng(2)
    for attribute, name in zip(proto.graph.node[1].attribute, ("inner", "inner_too"), strict=True):
        values = rng.standard_normal((1, 3, 5, 10)).astype(np.float32)
        attribute.g.initializer.append(numpy_helper.from_array(values, name))
    return proto


def as_inputs(proto):
    """As before IR version 4, where a sub-graph without inputs has no weights."""
    for attribute in proto.graph.node[1].attribute:
        proto.graph.initializer.extend(attribute.g.initializer)
        attribute.g.ClearField("initializer")
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.ir_version = 3
    proto.opset_import[0].version = 11
    return load(proto)


def as_constant_nodes(proto):
    """Their tensors have no name, or all the same one."""
    nodes = [helper.make_node("Constant", [], [t.name], name=f"k_{t.name}",
                              value=helper.make_tensor("value", t.data_type, t.dims, t.raw_data, raw=True))
             for t in proto.graph.initializer]
    nodes += list(proto.graph.node)
    proto.graph.ClearField("initializer")
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    return load(proto)


def as_sparse(proto):
    bias = numpy_helper.to_array(proto.graph.initializer.pop())
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(
        numpy_helper.from_array(bias[[0, 2]], "b"), numpy_helper.from_array(np.array([0, 2]), "places"), [3]))
    return load(proto)


FORMS = {"initializers": load, "graph inputs": as_inputs, "constant nodes": as_constant_nodes, "sparse": as_sparse}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("branch", [True, False])
def test_weights_of_every_form(form, branch):
    model = FORMS[form](weighted())
    feeds = {"x": np.random.default_rng(3).standard_normal((2, 4, 9, 11)).astype(np.float32), "c": np.array(branch)}
    walk = Walk(model, feeds)
    for name in "ay":
        part = walk.to(name)
        assert part.inputs == {"a": ("x",), "y": ("a", "c")}[name]
        assert_same(walk.values[name], whole(model, feeds, [name])[name])


@pytest.fixture(params=["in the model file", "beside it"])
def weight_file(request, tmp_path):
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    beside = request.param == "beside it"
    onnx.save_model(weighted(), path, save_as_external_data=beside, location="weights.bin" if beside else None,
                    size_threshold=16, convert_attribute=beside)
    return path


def test_weights_are_read_from_the_file(weight_file):
    model = load(weight_file)
    assert model.proto.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    feeds = {"x": np.random.default_rng(3).standard_normal((2, 4, 9, 11)).astype(np.float32), "c": np.array(True)}
    session = create_session(weight_file)
    walk = Walk(model, feeds)
    walk.to("a")
    walk.to("y")
    assert_same(walk.values["y"], run(session, feeds, outputs=["y"])[0])
    assert model.proto.graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL  # the model stays small


def test_only_the_weights_that_are_read_are_in_a_segment(weight_file):
    model = load(weight_file)
    first = segment(model, at_hand=["x", "c"], done=["x", "c"], wanted=["a"])
    second = segment(model, at_hand=["a", "c"], done=["x", "c", "a"], wanted=["y"])
    assert [t.name for t in first.model.graph.initializer] == ["w", "b"]
    assert [t.name for t in second.model.graph.initializer] == []


def test_weights_that_are_gone_are_an_error(weight_file):
    model = load(weight_file)
    for file in weight_file.parent.iterdir():
        file.write_bytes(b"")
    with pytest.raises(ModelError, match="tensor w cannot be read"):
        segment(model, at_hand=["x", "c"], done=["x", "c"], wanted=["a"])


def test_functions_of_the_model_come_along():
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[N,4,5,7] x) => (float[N,4,5,7] y) { a = mine.twice(x)  y = mine.twice(a) }
        <domain: "mine", opset_import: ["" : 17]> twice (p) => (q) { q = Add(p, p) }""")
    walk = Walk(load(proto), {"x": X})
    walk.to("a")
    walk.to("y")
    np.testing.assert_array_equal(walk.values["y"], 4 * X)


# what is added to the output of a layer


def shortcut(lines, outputs="y", **weights):
    """What is added to the output of the layer a of a graph with these lines."""
    declared = ", ".join(f"float[N,4,5,7] {name}" for name in outputs.split())
    model = load(parse(f"""g (float[N,4,5,7] x, bool c) => ({declared}) {{
        [layer] a = Conv<pads=[1,0,0,3], dilations=[1,3]>(x, w)  s = Neg(x)  {lines} }}""", w=(4, 4, 2, 2), **weights))
    (layer,) = (x for x in find_layers(model, infer_shapes(model, dims={"N": 2}).tensors) if x.name == "layer")
    return shortcut_of(model, layer, readers_of(model.proto.graph.node))


@pytest.mark.parametrize(("lines", "expected"), {
    "add": ("y = Add(a, s)", "s"),
    "add, other order": ("y = Add(s, a)", "s"),
    "an input of the model": ("b = Add(x, a)  y = Relu(b)", "x"),
    "sum": ("y = Sum(s, a)", "s"),
    "sum of one": ("y = Sum(a)", None),
    "sum of three": ("y = Sum(s, a, x)", None),
    "sub": ("y = Sub(s, a)", None),
    "after an activation": ("r = Relu(a)  y = Add(r, s)", None),
    "two additions": ("b = Add(a, s)  y = Add(b, x)", "s"),
    "the sum has two readers": ("b = Add(a, s)  r = Relu(b)  y = Add(r, b)", "s"),
    "the shortcut has two readers": ("b = Add(a, s)  y = Add(s, b)", "s"),
    "the output has two readers": ("r = Relu(a)  y = Add(r, a)", None),
    "two additions read it": ("p = Add(a, s)  q = Add(a, x)  y = Mul(p, q)", None),
    "a second reader in a branch": ("""b = Add(a, s)  i = If(c) <
        then_branch = t () => (float[N,4,5,7] p) { p = Neg(a) },
        else_branch = e () => (float[N,4,5,7] q) { q = Neg(s) }>  y = Add(b, i)""", None),
    "only in a branch": ("""y = If(c) <then_branch = t () => (float[N,4,5,7] p) { p = Add(a, s) },
                                       else_branch = e () => (float[N,4,5,7] q) { q = Add(s, a) }>""", None),
    "with itself": ("y = Add(a, a)", None),
    "with a weight": ("y = Add(a, k)", None),
    "with a weight first": ("b = Add(k, a)  y = Relu(b)", None),
    "with a constant node": ("n = Constant<value = float[1] {2}>()  b = Add(a, n)  y = Relu(b)", None),
    "nothing reads it": ("y = Relu(s)", None),
}.values(), ids=str)
def test_what_is_added_to_the_output_of_a_layer(lines, expected):
    assert shortcut(lines, k=(4, 1, 1)) == expected


@pytest.mark.parametrize(("outputs", "expected"), [("y", "s"), ("y a", None), ("a y", None), ("y b s", "s")])
def test_what_is_asked_for_is_read_from_outside(outputs, expected):
    assert shortcut("b = Add(a, s)  y = Relu(b)", outputs=outputs) == expected


def test_readers_are_counted_once_and_in_order():
    nodes = parse("""g (float[N,4,5,7] x, bool c) => (float[N,4,5,7] y) {
        [double] a = Add(x, x)  [inside] b = If(c) <
            then_branch = t () => (float[N,4,5,7] p) { p = Neg(a) },
            else_branch = e () => (float[N,4,5,7] q) { q = Neg(x) }>  [last] y = Add(b, a) }""").graph.node
    found = {name: [n.name for n in readers] for name, readers in readers_of(nodes).items()}
    assert {name: found[name] for name in "xcab"} == {
        "x": ["double", "inside"], "c": ["inside"], "a": ["inside", "last"], "b": ["last"]}
