"""Random valid graphs: a rewrite at full rank changes no output beyond rounding, and touches only what is eligible."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.runtime.options import RunOptions
from onnxslim1x1.runtime.store import NO_STORE
from onnxslim1x1.search.pipeline import Subject
from onnxslim1x1.search.workbench import Workbench
from onnxslim1x1.strategies import STRATEGIES

# float32 keeps 24 bits: sums of some hundred terms, over ten layers that each add their own rounding, keep 1e-4
TOLERANCE = 1e-4


class Net:
    """A graph that grows node by node; knows the channels and the size of every tensor."""

    def __init__(self, draw, *, axes):
        self.draw, self.axes = draw, axes
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        self.nodes, self.weights, self.inputs, self.known = [], [], [], {}

    def rank(self, tensor):
        return 2 + len(self.known[tensor][1])

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def number(self, low, high):
        return self.draw(st.integers(low, high))

    def fresh(self, word):
        return f"{word}{len(self.nodes)}_{len(self.weights)}"

    def weight(self, *shape, holder=None, scale=None):
        """A weight as an initializer, the output of a Constant node, or a graph input with a default."""
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.rng.standard_normal(shape) * (fan_in**-0.5 if scale is None else scale)
        tensor = numpy_helper.from_array(values.astype(np.float32), self.fresh("w"))
        holder = holder or self.pick("initializer", "initializer", "constant", "input")
        if holder == "constant":
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
            self.weights.append(None)
            return tensor.name
        if holder == "input":
            self.inputs.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape))
        self.weights.append(tensor)
        return tensor.name

    def add(self, op, inputs, channels, size, **attributes):
        """A node with one output."""
        output = self.fresh("t")
        name = self.pick("", self.fresh("node"))
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        self.known[output] = (channels, tuple(size))
        return output

    def geometry(self, size):
        """Kernel and attributes of a convolution that fits into a size, and the size that it gives."""
        kernel, stride = ([self.number(low, 3) for _ in size] for low in (1, 1))
        dilation = [self.number(1, 2) for _ in size]
        pads = [self.number(0, 2) for _ in range(2 * len(size))]
        auto = self.pick("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
        attributes = {"strides": stride, "dilations": dilation}
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        if auto.startswith("SAME"):  # onnxruntime takes no dilation with it
            attributes["dilations"] = [1] * len(size)
            out = [-(-s // t) for s, t in zip(size, stride, strict=True)]
        else:
            around = pads if auto == "NOTSET" else [0] * len(pads)
            out = [(s + around[i] + around[len(size) + i] - reach[i]) // stride[i] + 1 for i, s in enumerate(size)]
            if auto == "NOTSET":
                attributes["pads"] = pads
        if auto != "NOTSET":
            attributes["auto_pad"] = auto
        return (kernel, attributes, out) if min(out) > 0 else ([1] * len(size), {}, list(size))

    def conv(self, x):
        """A convolution, perhaps with a normalization."""
        channels, size = self.known[x]
        groups = self.pick(1, 1, 1, channels)
        out = groups * self.number(1, 6 if groups == 1 else 2)
        kernel, attributes, out_size = self.geometry(size)
        weight = self.weight(out, channels // groups, *kernel)
        inputs = [x, weight, *([self.weight(out, scale=0.5)] if self.draw(st.booleans()) else [])]
        y = self.add("Conv", inputs, out, out_size, group=groups, **attributes)
        return self.normalized(y) if self.draw(st.booleans()) else y

    def normalized(self, x):
        channels, size = self.known[x]
        parameters = [self.weight(channels, scale=1.0, holder="initializer") for _ in range(3)]
        variance = numpy_helper.from_array(self.rng.uniform(0.5, 2.0, channels).astype(np.float32), self.fresh("w"))
        self.weights.append(variance)
        return self.add("BatchNormalization", [x, *parameters, variance.name], channels, size)

    def transposed(self, x):
        channels, size = self.known[x]
        out, kernel = self.number(1, 4), [self.number(1, 3) for _ in size]
        return self.add("ConvTranspose", [x, self.weight(channels, out, *kernel)], out,
                        [s + k - 1 for s, k in zip(size, kernel, strict=True)])

    def activation(self, x):
        return self.add(self.pick("Relu", "Tanh", "Identity"), [x], *self.known[x])

    def residual(self, x):
        """x + f(x), where f keeps the shape."""
        channels, size = self.known[x]
        weight = self.weight(channels, channels, *[3] * self.axes)
        y = self.add("Conv", [x, weight], channels, size, pads=[1] * (2 * self.axes))
        return self.add("Add", [x, y] if self.draw(st.booleans()) else [y, x], channels, size)

    def branches(self, x):
        channels, size = self.known[x]
        parts = [self.add("Conv", [x, self.weight(n, channels, *[1] * self.axes)], n, size)
                 for n in (self.number(1, 4), self.number(1, 4))]
        return self.add("Concat", parts, sum(self.known[p][0] for p in parts), size, axis=1)

    def twins(self, x):
        """Two convolutions with one weight."""
        channels, size = self.known[x]
        out, other = self.number(1, 4), self.activation(x)
        weight = self.weight(out, channels, *[3] * self.axes)
        parts = [self.add("Conv", [p, weight], out, size, pads=[1] * (2 * self.axes)) for p in (x, other)]
        return self.add("Sum", parts, out, size)

    def choice(self, x):
        """An If whose branches hold layers that read x, and weights of this graph."""
        channels, size = self.known[x]
        bodies = []
        for branch in ("then", "else"):
            weight = self.weight(channels, channels, *[1] * self.axes)
            out = self.fresh(branch)
            info = helper.make_tensor_value_info(out, TensorProto.FLOAT, [2, channels, *size])
            node = helper.make_node("Conv", [x, weight], [out], name=self.fresh("inner"))
            bodies.append(helper.make_graph([node], branch, [], [info]))
        return self.add("If", ["flag"], channels, size, then_branch=bodies[0], else_branch=bodies[1])

    def head(self, x):
        """Global pooling, then a Gemm or a MatMul."""
        channels, _ = self.known[x]
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [x], channels, [1] * self.axes)], channels, ())
        out = self.number(1, 9)
        if self.draw(st.booleans()):
            return self.add("MatMul", [flat, self.weight(channels, out)], out, ())
        transposed = self.draw(st.integers(0, 1))
        weight = self.weight(*((out, channels) if transposed else (channels, out)))
        return self.add("Gemm", [flat, weight, self.weight(out)], out, (), transB=transposed)

    def model(self, outputs):
        """The model with these outputs."""
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * self.rank(n)) for n in outputs]
        fed = [helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
               helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, self.known["x"][0], *self.known["x"][1]])]
        graph = helper.make_graph(self.nodes, "random", fed + self.inputs, values, [w for w in self.weights if w])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.pick(11, 13, 17, 21))],
                                 ir_version=8)


@st.composite
def networks(draw):
    axes = draw(st.sampled_from([1, 2, 2, 2, 3]))
    net = Net(draw, axes=axes)
    net.known["x"] = (draw(st.integers(1, 5)), tuple(draw(st.integers(4, 7)) for _ in range(axes)))
    steps = [net.conv, net.conv, net.conv, net.transposed, net.activation, net.residual, net.branches, net.choice,
             net.twins]
    ends = ["x"]
    for _ in range(draw(st.integers(2, 8))):
        ends.append(draw(st.sampled_from(steps))(draw(st.sampled_from(ends[-3:]))))
    if draw(st.booleans()):
        ends.append(net.head(ends[-1]))
    return net.model(list(dict.fromkeys(ends[-2:]))[-2:] if ends[-2] != "x" else [ends[-1]])


def outputs(proto, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"]).run(None, feeds)


def rewritten(subject, family):
    """The model with every layer that the family serves at full rank, and those layers."""
    model = subject.prepared.model
    bench = Workbench(model, subject.layers, block=1)
    layers = [x for x in subject.layers if x.ineligible is None and family.check(x.spec) is None]
    edit = GraphEdit(model)
    for layer in layers:
        replace_layer(edit, layer, bench.factors(layer.name, family.name, family.max_ranks(layer.spec)).factors)
    return edit.result().proto, layers


def require_untouched(before, after, layers):
    """All nodes but the layers, and all weights but theirs, are what they were."""
    changed = {layer.output for layer in layers}
    kept = [n.SerializeToString() for n in before.graph.node if changed.isdisjoint(n.output)]
    own = {name for layer in layers for name in (layer.weight, layer.bias) if name}
    remaining = [n.SerializeToString() for n in after.graph.node]
    constants = [n.SerializeToString() for n in before.graph.node if n.op_type == "Constant" and n.output[0] in own]
    assert [n for n in kept if n not in constants] == [n for n in remaining if n in set(kept) - set(constants)]
    weights = {t.name: t.SerializeToString() for t in after.graph.initializer}
    for tensor in before.graph.initializer:
        if tensor.name not in own:
            assert weights.get(tensor.name) == tensor.SerializeToString()


def check(proto):
    onnx.checker.check_model(proto, full_check=True)
    rng = np.random.default_rng(0)
    shape = [d.dim_value for d in proto.graph.input[1].type.tensor_type.shape.dim]
    x = rng.standard_normal(shape).astype(np.float32)
    feeds = [{"x": x, "flag": np.array(flag)} for flag in (False, True)]
    wanted = [outputs(proto, feed) for feed in feeds]
    subject = Subject.of(load(proto), RunOptions(threads=1, store=NO_STORE))
    for family in STRATEGIES:
        found, layers = rewritten(subject, family)
        onnx.checker.check_model(found, full_check=True)
        assert [o.name for o in found.graph.output] == [o.name for o in proto.graph.output]
        require_untouched(subject.prepared.model.proto, found, layers)
        for feed, expected in zip(feeds, wanted, strict=True):
            for a, b in zip(expected, outputs(found, feed), strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE * (1 + np.abs(a).max(initial=0)))


COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@given(networks())
@settings(max_examples=40, **COMMON)
def test_a_rewrite_at_full_rank_changes_nothing_but_its_layers(proto):
    check(proto)


@pytest.mark.slow
@given(networks())
@settings(max_examples=600, **COMMON)
def test_many_random_graphs(proto):
    check(proto)


def test_the_graphs_are_as_varied_as_they_claim():
    """Enough of every kind is eligible, and enough is not, in what the fast test sees."""
    codes, operators = set(), set()

    @given(networks())
    @settings(max_examples=40, **COMMON)
    def look(proto):
        subject = Subject.of(load(proto), RunOptions(threads=1, store=NO_STORE))
        operators.update(n.op_type for n in proto.graph.node)
        codes.update("eligible" if x.ineligible is None else x.ineligible.code for x in subject.layers)

    look()
    assert {"Conv", "ConvTranspose", "If", "BatchNormalization", "Constant", "Add", "Concat"} <= operators
    assert {"eligible", "in_body", "shared_weight"} <= codes
