"""Random geometry: sizes, padding and costs agree with ONNX and with onnxruntime."""

import math

import numpy as np
import onnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxslim1x1.graph.rewrite import attributes
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.search.candidates import break_even, rank_grid
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies import STRATEGIES
from onnxslim1x1.strategies.base import chain_cost

SEEDED = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def specs(draw, *, modes=("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), groups=(1, 2, 3), channels=6):
    """A convolution of one to three axes, with at least one output position."""
    axes = draw(st.integers(1, 3))

    def per_axis(low, high):
        return draw(st.tuples(*[st.integers(low, high)] * axes))

    mode = draw(st.sampled_from(modes))
    group = draw(st.sampled_from(groups))
    same = mode.startswith("SAME")
    spec = ConvSpec.make(
        group * draw(st.integers(1, channels)), group * draw(st.integers(1, channels)), kernel=per_axis(1, 4),
        in_size=per_axis(1, 12), stride=per_axis(1, 4), batch=draw(st.integers(1, 3)), auto_pad=mode,
        dilation=(1,) * axes if same else per_axis(1, 3),  # onnxruntime takes no dilation with SAME
        pads=(*per_axis(0, 3), *per_axis(0, 3)), groups=group, bias=draw(st.booleans()))
    assume(min(spec.out_size) > 0)
    return spec


def model_of(spec, weight, **changes):
    shape = (spec.batch, spec.in_channels, *spec.in_size)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **(attributes(spec) | changes))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def example(spec):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(spec.weight_shape).astype(np.float32),
            rng.standard_normal((spec.batch, spec.in_channels, *spec.in_size)).astype(np.float32))


@given(spec=specs())
@SEEDED
def test_the_output_size_is_what_onnx_infers_and_onnxruntime_gives(spec):
    weight, images = example(spec)
    model = model_of(spec, weight)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape
    shape = (spec.batch, spec.out_channels, *spec.out_size)
    assert tuple(d.dim_value for d in inferred.dim) == shape
    assert run(create_session(model.SerializeToString()), {"x": images})[0].shape == shape


@given(spec=specs(modes=("VALID", "SAME_UPPER", "SAME_LOWER")))
@SEEDED
def test_automatic_padding_equals_the_explicit_pads(spec):
    weight, images = example(spec)
    automatic = run(create_session(model_of(spec, weight).SerializeToString()), {"x": images})[0]
    explicit = model_of(spec, weight, auto_pad="NOTSET", pads=list(spec.explicit_pads))
    found = run(create_session(explicit.SerializeToString()), {"x": images})[0]
    np.testing.assert_allclose(found, automatic, rtol=1e-5, atol=1e-5)  # float32 rounding of sums of up to 400 terms


@given(spec=specs())
@SEEDED
def test_macs_are_the_products_of_a_direct_loop(spec):
    """Ones convolved with ones, without padding, sum one per product."""
    valid = ConvSpec.make(spec.in_channels, spec.out_channels, kernel=spec.kernel, in_size=spec.in_size,
                          stride=spec.stride, dilation=spec.dilation, groups=spec.groups, batch=spec.batch)
    assume(min(valid.out_size) > 0)
    model = model_of(valid, np.ones(valid.weight_shape, np.float32))
    ones = np.ones((valid.batch, valid.in_channels, *valid.in_size), np.float32)
    # sums of integers below 2^24 are exact
    assert run(create_session(model.SerializeToString()), {"x": ones})[0].sum(dtype=np.float64) == valid.macs


@given(spec=specs(groups=(1,), channels=40), data=st.data())
@SEEDED
def test_a_chain_costs_the_sum_of_its_factors(spec, data):
    for family in STRATEGIES:
        if family.check(spec) is not None:
            continue
        ranks = tuple(data.draw(st.integers(1, limit)) for limit in family.max_ranks(spec))
        chain = family.chain(spec, ranks)
        assert (chain[0].in_channels, chain[-1].out_channels) == (spec.in_channels, spec.out_channels)
        assert chain[-1].out_size == spec.out_size
        assert [s.in_channels for s in chain[1:]] == [s.out_channels for s in chain[:-1]]
        assert [s.in_size for s in chain[1:]] == [s.out_size for s in chain[:-1]]
        cost = chain_cost(chain)
        assert cost.macs == sum(
            s.batch * math.prod(s.out_size) * s.out_channels * s.in_channels * math.prod(s.kernel) for s in chain)
        assert cost.params == sum(
            s.out_channels * s.in_channels * math.prod(s.kernel) + s.bias * s.out_channels for s in chain)


@given(spec=specs(groups=(1,), channels=100), block=st.sampled_from([4, 8, 16]))
@SEEDED
def test_every_rank_of_the_grid_saves_macs(spec, block):
    for family in STRATEGIES:
        if family.check(spec) is not None or len(family.max_ranks(spec)) != 1:
            continue
        limit, grid = break_even(family, spec), rank_grid(family, spec, block)
        costs = [chain_cost(family.chain(spec, (r,))).macs for r in range(1, family.max_ranks(spec)[0] + 1)]
        assert limit == sum(cost < spec.macs for cost in costs)
        assert all(rank % block == 0 and 0 < rank <= limit for (rank,) in grid)
        assert len(grid) == min(limit // block, 32)
