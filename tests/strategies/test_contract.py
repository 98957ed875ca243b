"""What every family promises, checked on real ONNX layers through onnxruntime.

A new family is a new line in `STRATEGIES`; nothing here needs to change for it. Geometry is asymmetric throughout:
equal pads, strides or sizes would hide swapped ones.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim1x1.errors import RankError
from onnxslim1x1.graph.edit import GraphEdit
from onnxslim1x1.graph.layers import find_layers
from onnxslim1x1.graph.model import load
from onnxslim1x1.graph.rewrite import replace_layer
from onnxslim1x1.graph.shapes import infer_shapes
from onnxslim1x1.linalg.moments import MomentAccumulator
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.runtime.patches import sample_patches
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.spec import ConvFactor, ConvSpec
from onnxslim1x1.strategies import STRATEGIES
from onnxslim1x1.strategies.base import patch_matrix

GEOMETRIES = {
    "1d": ConvSpec.make(7, 5, kernel=(4,), stride=(2,), dilation=(3,), pads=(2, 5), in_size=(23,), batch=2),
    "2d": ConvSpec.make(6, 9, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), pads=(1, 0, 2, 3), in_size=(13, 17)),
    "2d batch no bias": ConvSpec.make(5, 4, kernel=(2, 3), stride=(1, 2), dilation=(1, 3), pads=(0, 4, 1, 2),
                                      in_size=(7, 16), bias=False, batch=3),
    "3d": ConvSpec.make(5, 4, kernel=(2, 3, 1), stride=(1, 2, 3), dilation=(3, 2, 1), pads=(0, 1, 2, 3, 4, 0),
                        in_size=(6, 7, 8)),
    "3d full": ConvSpec.make(3, 4, kernel=(2, 3, 4), stride=(1, 2, 1), pads=(0, 1, 2, 1, 0, 1), in_size=(5, 7, 6)),
    "same upper": ConvSpec.make(6, 5, kernel=(4, 3), stride=(3, 2), auto_pad="SAME_UPPER", in_size=(11, 14), batch=2),
    "same lower": ConvSpec.make(6, 5, kernel=(4, 3), stride=(3, 2), auto_pad="SAME_LOWER", in_size=(11, 14)),
    "valid": ConvSpec.make(4, 6, kernel=(2, 5), stride=(3, 1), dilation=(4, 2), pads=(9, 9, 9, 9), auto_pad="VALID",
                           in_size=(12, 13)),
    "few outputs": ConvSpec.make(11, 2, kernel=(3, 1), stride=(1, 2), pads=(2, 0, 1, 0), in_size=(9, 10)),  # nO < C
    "many outputs": ConvSpec.make(2, 15, kernel=(3, 2), stride=(1, 2), pads=(2, 0, 1, 0), in_size=(9, 10)),  # nC < O
    "pointwise": ConvSpec.make(9, 4, kernel=(1, 1), stride=(3, 2), pads=(1, 0, 2, 3), in_size=(13, 8)),
    "wide pointwise": ConvSpec.make(4, 9, kernel=(1, 1), stride=(2, 1), pads=(0, 1, 2, 0), in_size=(9, 6), bias=False),
    "dense": ConvSpec.make(7, 5, kernel=(), in_size=(), batch=9),
    "wide dense": ConvSpec.make(5, 8, kernel=(), in_size=(), batch=7, bias=False),
}
CASES = [pytest.param(family, name, id=f"{family.name}-{name}")
         for family in STRATEGIES for name, spec in GEOMETRIES.items() if family.check(spec) is None]
EVERY_CASE = pytest.mark.parametrize(("family", "name"), CASES)
WITH_DATA = pytest.mark.parametrize("data", [False, True], ids=["weights", "data"])
SEVERAL_RANKS = pytest.mark.parametrize(
    ("family", "name"), [case for case in CASES if len(case.values[0].max_ranks(GEOMETRIES[case.values[1]])) > 1])
LAYERS = ("Conv", "Gemm")
TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


@dataclass(frozen=True, eq=False)
class Case:
    """One layer with its weights, and images of correlated channels with means far from zero."""

    spec: ConvSpec
    weight: np.ndarray
    bias: np.ndarray | None
    images: np.ndarray  # (batches, batch, C, *in_size)

    @property
    def flat_images(self):
        return self.images.reshape(-1, *self.images.shape[2:])


@cache
def case_of(name, *, dtype="float32"):
    spec = GEOMETRIES[name]
    rng = np.random.default_rng(sorted(GEOMETRIES).index(name))
    weight = rng.standard_normal(spec.weight_shape).astype(dtype)
    bias = rng.standard_normal(spec.out_channels).astype(dtype) if spec.bias else None
    mixing = rng.standard_normal((spec.in_channels, 3))  # three sources for all channels, and a little noise
    sources = rng.standard_normal((12, spec.batch, 3, *spec.in_size))
    noise = 0.3 * rng.standard_normal((12, spec.batch, spec.in_channels, *spec.in_size))
    offset = rng.uniform(-3, 3, (spec.in_channels, *[1] * len(spec.kernel)))
    images = (np.einsum("cs,nbs...->nbc...", mixing, sources) + noise + offset).astype(dtype)
    return Case(spec=spec, weight=weight, bias=bias, images=images)


@cache
def statistics_of(name):
    case = case_of(name)
    accumulator = MomentAccumulator(case.spec.patch)
    accumulator.add(sample_patches(case.flat_images, case.spec, 10**9, np.random.default_rng(0)))
    return accumulator.result()


@cache
def weighting_of(name):
    """Output weighting whose eigenvalues spread over four orders of magnitude, so that the floor takes effect."""
    outputs = GEOMETRIES[name].out_channels
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.standard_normal((outputs, outputs)))
    return OutputWeighting(covariance=(basis * np.logspace(-3, 1, outputs)) @ basis.T)


def decomposition_of(family, name, *, data, dtype="float32", weighted=False):
    case = case_of(name, dtype=dtype)
    return family.decompose(case.spec, case.weight, case.bias, statistics_of(name) if data else None,
                            weighting_of(name) if weighted else None)


def node_of(spec):
    """The layer as an ONNX node."""
    inputs = ["x", "w", "b"] if spec.bias else ["x", "w"]
    if not spec.kernel:
        return helper.make_node("Gemm", inputs, ["y"], name="layer", transB=1)
    pads = {"pads": spec.pads} if spec.auto_pad == "NOTSET" else {"auto_pad": spec.auto_pad}
    return helper.make_node("Conv", inputs, ["y"], name="layer", kernel_shape=spec.kernel, strides=spec.stride,
                            dilations=spec.dilation, **pads)


def model_of(case):
    """The layer, followed by a Relu, beside a node that has a weight of its own."""
    spec, kind = case.spec, TYPES[case.weight.dtype.name]
    initializers = [numpy_helper.from_array(case.weight, "w"),
                    numpy_helper.from_array(np.array(2.5, case.weight.dtype), "other")]
    if case.bias is not None:
        initializers.append(numpy_helper.from_array(case.bias, "b"))
    nodes = [
        node_of(spec),
        helper.make_node("Relu", ["y"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "other"], ["z"], name="scale"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, (spec.batch, spec.in_channels, *spec.in_size))],
        [helper.make_tensor_value_info(t, kind, [None] * case.weight.ndim) for t in ("y", "z")], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rewritten(case, factorization):
    model = load(model_of(case))
    (layer,) = find_layers(model, infer_shapes(model).tensors)
    unused = case.spec.auto_pad != "NOTSET"  # then pads say nothing, and `model_of` writes none
    assert layer.spec == replace(case.spec, pads=(0,) * len(case.spec.pads) if unused else case.spec.pads)
    edit = GraphEdit(model)
    replace_layer(edit, layer, factorization.factors)
    return edit.result().proto


def outputs(proto, case):
    session = create_session(proto.SerializeToString())
    return np.concatenate([run(session, {"x": batch}, outputs=["y"])[0] for batch in case.images]).astype(np.float64)


def composed(factors, spec):
    """Dense kernel (O, C, *k) of a chain, found by sending unit impulses through it in float64.

    The field is as large as one dilated kernel, so without padding every factor sees all of it and the chain writes
    one position per impulse. Independent of the code under test: slices and one contraction per tap.
    """
    field = [d * (k - 1) + 1 for d, k in zip(spec.dilation, spec.kernel, strict=True)]
    signal = np.zeros((spec.in_channels, spec.positions, spec.in_channels, *field))
    for channel in range(spec.in_channels):
        for position, tap in enumerate(np.ndindex(*spec.kernel)):
            where = tuple(t * d for t, d in zip(tap, spec.dilation, strict=True))
            signal[(channel, position, channel, *where)] = 1.0
    signal = signal.reshape(-1, spec.in_channels, *field)
    for factor in factors:
        s = factor.spec
        sizes = [(n - d * (k - 1) - 1) // step + 1
                 for n, k, step, d in zip(signal.shape[2:], s.kernel, s.stride, s.dilation, strict=True)]
        result = np.zeros((len(signal), s.out_channels, *sizes))
        for tap in np.ndindex(*s.kernel):
            window = [slice(t * d, t * d + step * (n - 1) + 1, step)
                      for t, d, step, n in zip(tap, s.dilation, s.stride, sizes, strict=True)]
            result += np.einsum("nc...,oc->no...", signal[:, :, *window], factor.weight[:, :, *tap])
        signal = result
    responses = signal.reshape(spec.in_channels, *spec.kernel, spec.out_channels)
    return np.moveaxis(responses, -1, 0)


def flat(kernel):
    """(O, C, *k) -> (O, n*C) with all channels of one position together, as the statistics are."""
    return np.stack([kernel[:, :, *tap] for tap in np.ndindex(*kernel.shape[2:])], axis=1).reshape(len(kernel), -1)


def output_energy(difference, covariance):
    return float(np.sum((flat(difference) @ covariance) * flat(difference)))


def middle_ranks(family, spec):
    return tuple(max(1, m // 2) for m in family.max_ranks(spec))


def rank_ladder(family, spec):
    """Rank tuples from all ones to the limits, each at least as large as the one before."""
    limits = family.max_ranks(spec)
    return [tuple(min(step, m) for m in limits) for step in range(1, max(limits) + 1)]


# (a) full rank


@pytest.mark.parametrize("dtype", TYPES)
@WITH_DATA
@EVERY_CASE
def test_full_rank_equals_the_original_layer(family, name, data, dtype):
    case = case_of(name, dtype=dtype)
    factorization = decomposition_of(family, name, data=data, dtype=dtype).truncate(family.max_ranks(case.spec))
    expected, found = outputs(model_of(case), case), outputs(rewritten(case, factorization), case)
    scale = np.abs(expected).max()
    # rounding of weights and of the tensors between factors, 2^-24 and 2^-11, times about 50 terms per sum
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * (4e-6 if dtype == "float32" else 5e-3))


# (b) reported errors


@WITH_DATA
@EVERY_CASE
def test_the_weight_error_is_that_of_the_composed_kernel(family, name, data):
    case = case_of(name)
    for ranks in (middle_ranks(family, case.spec), family.max_ranks(case.spec)):
        factorization = decomposition_of(family, name, data=data).truncate(ranks)
        error = np.linalg.norm(case.weight - composed(factorization.factors, case.spec)) / np.linalg.norm(case.weight)
        # at full rank both are the square root of float64 rounding
        assert factorization.rel_error == pytest.approx(error, rel=1e-9, abs=1e-7)


@EVERY_CASE
def test_the_output_error_is_that_of_the_ridged_covariance(family, name):
    case, covariance = case_of(name), statistics_of(name).regularized()
    factorization = decomposition_of(family, name, data=True).truncate(middle_ranks(family, case.spec))
    kernel = composed(factorization.factors, case.spec)
    ratio = output_energy(case.weight - kernel, covariance) / output_energy(case.weight, covariance)
    # the code takes the difference of two energies: float64 rounding over the ratio
    assert factorization.output_rel_error == pytest.approx(np.sqrt(ratio), rel=1e-9)
    assert factorization.error == factorization.output_rel_error


@EVERY_CASE
def test_the_output_error_is_what_onnxruntime_shows_on_the_same_images(family, name):
    case = case_of(name)
    factorization = decomposition_of(family, name, data=True).truncate(middle_ranks(family, case.spec))
    expected, found = outputs(model_of(case), case), outputs(rewritten(case, factorization), case)
    channels = (0, *range(2, expected.ndim))
    centred = expected - expected.mean(axis=channels, keepdims=True)
    measured = np.linalg.norm(found - expected) / np.linalg.norm(centred)
    # the ridge of at most 1e-3 of the mean variance adds to the reported one
    assert factorization.output_rel_error == pytest.approx(measured, rel=0.02)


# (c) drafts

DRAFT_LEAST = 3e-3  # what single precision can tell from no error


def given(name, *, size, weighted):
    """Weights and weighting of a layer, scaled as if its units were others."""
    case, weighting = case_of(name), weighting_of(name)
    scaled = OutputWeighting(covariance=weighting.covariance / size) if weighted else None
    return case.spec, case.weight.astype(np.float64) * size, None, statistics_of(name), scaled


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("weighted", [False, True])
@EVERY_CASE
def test_a_draft_tells_what_the_exact_work_does(family, name, weighted, size):
    problem = given(name, size=size, weighted=weighted)
    exact, draft = family.decompose(*problem), family.decompose(*problem, draft=True)
    for ranks in rank_ladder(family, problem[0]):
        error = exact.error(ranks)
        assert draft.error(ranks) == pytest.approx(max(error, DRAFT_LEAST), rel=0.02, abs=1e-3)
        if error > 0.1:
            assert draft.loss(ranks) == pytest.approx(exact.loss(ranks), rel=1e-3)
            made, want = (composed(x.truncate(ranks).factors, problem[0]) for x in (draft, exact))
            assert np.linalg.norm(made - want) <= 0.02 * np.linalg.norm(want)  # nothing is left of the tiniest


@EVERY_CASE
def test_the_bias_of_a_draft_is_in_the_units_of_the_layer(family, name):
    spec, weight, _, statistics, _ = given(name, size=50.0, weighted=False)
    bias, ranks = np.linspace(-2, 3, spec.out_channels), middle_ranks(family, spec)
    made, want = (family.decompose(spec, weight, bias, statistics, draft=draft).truncate(ranks).factors[-1].bias
                  for draft in (True, False))
    if want is not None:
        np.testing.assert_allclose(made, want, atol=1e-3 * np.abs(weight).max() * spec.patch)


@EVERY_CASE
def test_without_data_no_output_error_is_claimed(family, name):
    factorization = decomposition_of(family, name, data=False).truncate(middle_ranks(family, GEOMETRIES[name]))
    assert factorization.output_rel_error is None
    assert factorization.error == factorization.rel_error > 0


def weighted_energy(difference, name, covariance):
    """tr[D d S d^T] with the eigenvalues of D floored at a tenth of their mean, as promised by the weighting."""
    values, vectors = np.linalg.eigh(weighting_of(name).covariance)
    root = np.sqrt(np.maximum(values, values.mean() * 0.1))[:, None] * vectors.T
    return output_energy(np.einsum("po,o...->p...", root, difference), covariance)


@WITH_DATA
@EVERY_CASE
def test_the_loss_is_the_weighted_energy_of_the_outputs(family, name, data):
    case = case_of(name)
    covariance = statistics_of(name).regularized() if data else np.eye(case.spec.patch)
    decomposition = decomposition_of(family, name, data=data, weighted=True)
    for ranks in (middle_ranks(family, case.spec), family.max_ranks(case.spec)):
        difference = case.weight - composed(decomposition.truncate(ranks).factors, case.spec)
        whole, lost = (weighted_energy(kernel, name, covariance) for kernel in (case.weight, difference))
        # differences of two energies: float64 rounding of the larger one
        assert decomposition.loss(ranks) == pytest.approx(lost / 2, rel=1e-9, abs=whole * 1e-12)
        ratio = output_energy(difference, covariance) / output_energy(case.weight, covariance)
        assert decomposition.error(ranks) == pytest.approx(np.sqrt(ratio), rel=1e-9, abs=1e-6)


@WITH_DATA
@EVERY_CASE
def test_a_weighting_lowers_the_loss(family, name, data):
    case = case_of(name)
    covariance = statistics_of(name).regularized() if data else np.eye(case.spec.patch)
    ranks = middle_ranks(family, case.spec)
    weighted, plain = (
        weighted_energy(case.weight - composed(decomposition_of(
            family, name, data=data, weighted=weighted).truncate(ranks).factors, case.spec), name, covariance)
        for weighted in (True, False))
    assert weighted < plain


@WITH_DATA
@EVERY_CASE
def test_without_a_weighting_the_loss_is_the_squared_error(family, name, data):
    decomposition = decomposition_of(family, name, data=data)
    for ranks in (middle_ranks(family, GEOMETRIES[name]), family.max_ranks(GEOMETRIES[name])):
        assert decomposition.loss(ranks) == pytest.approx(decomposition.error(ranks) ** 2, rel=1e-12)


@WITH_DATA
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@SEVERAL_RANKS
def test_every_combination_of_ranks_has_the_error_of_its_factors(family, name, data, weighted):
    """Also those that the seams in front cannot carry: what is missing there is zero."""
    case = case_of(name)
    covariance = statistics_of(name).regularized() if data else np.eye(case.spec.patch)
    decomposition = decomposition_of(family, name, data=data, weighted=weighted)
    picks = [sorted({1, 2, limit // 3 + 1, limit}) for limit in family.max_ranks(case.spec)]
    for ranks in itertools.product(*picks):
        factors = decomposition.truncate(ranks).factors
        assert tuple(f.spec for f in factors) == family.chain(case.spec, ranks)
        assert all(f.weight.shape == f.spec.weight_shape for f in factors)
        ratio = (output_energy(case.weight - composed(factors, case.spec), covariance)
                 / output_energy(case.weight, covariance))
        # at full rank both are the root of float64 rounding
        assert decomposition.error(ranks) == pytest.approx(np.sqrt(ratio), rel=1e-9, abs=1e-6)


@WITH_DATA
@EVERY_CASE
def test_a_kernel_that_is_such_a_chain_is_found_again(family, name, data):
    case = case_of(name)
    rng = np.random.default_rng(8)
    ranks = tuple(min(2, limit) for limit in family.max_ranks(case.spec))
    factors = [ConvFactor(role="", spec=spec, weight=rng.standard_normal(spec.weight_shape))
               for spec in family.chain(case.spec, ranks)]
    weight = composed(factors, case.spec)
    found = family.decompose(case.spec, weight, case.bias, statistics_of(name) if data else None).truncate(ranks)
    # float64 rounding, under a covariance with a condition of about 1e5
    np.testing.assert_allclose(composed(found.factors, case.spec), weight, rtol=0, atol=1e-8 * np.abs(weight).max())


# (c) monotony


@WITH_DATA
@EVERY_CASE
def test_the_error_falls_as_the_rank_rises(family, name, data):
    spec, decomposition = GEOMETRIES[name], decomposition_of(family, name, data=data)
    errors = [decomposition.error(ranks) for ranks in rank_ladder(family, spec)]
    # zero up to the square root of float64 rounding; every other step is a true one, since the weights are random
    assert errors[-1] == pytest.approx(0, abs=1e-6)
    assert (np.diff(errors) < 0).all()
    assert errors[0] < 1
    # a solve that was extended to more ranks rounds differently; at full rank that is the root of float64 rounding
    assert [decomposition.truncate(ranks).error for ranks in rank_ladder(family, spec)] == pytest.approx(
        errors, rel=1e-9, abs=1e-7)


@WITH_DATA
@EVERY_CASE
def test_the_spectrum_is_a_falling_distribution(family, name, data):
    spectrum = decomposition_of(family, name, data=data).spectrum
    values = np.array(spectrum.fractions)
    assert values.sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()


# (d) cost


@WITH_DATA
@EVERY_CASE
def test_the_cost_is_what_the_written_graph_holds(family, name, data):
    case = case_of(name)
    ranks = middle_ranks(family, case.spec)
    factorization = decomposition_of(family, name, data=data).truncate(ranks)
    proto = onnx.shape_inference.infer_shapes(rewritten(case, factorization), strict_mode=True)
    sizes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
              for v in (*proto.graph.value_info, *proto.graph.output)}
    params = macs = 0
    for node in proto.graph.node:
        if node.op_type in LAYERS:
            params += sum(int(np.prod(sizes[name])) for name in node.input[1:])
            macs += int(np.prod(shapes[node.output[0]])) * int(np.prod(sizes[node.input[1]][1:]))
    assert (factorization.cost.params, factorization.cost.macs) == (params, macs)
    assert tuple(f.spec for f in factorization.factors) == family.chain(case.spec, ranks)


# (e) ranks


@WITH_DATA
@EVERY_CASE
def test_ranks_out_of_range_raise(family, name, data):
    spec, decomposition = GEOMETRIES[name], decomposition_of(family, name, data=data)
    limits = family.max_ranks(spec)
    wrong = [(), (*limits, 1)]
    for seam in range(len(limits)):
        wrong += [(*limits[:seam], bad, *limits[seam + 1:]) for bad in (0, -1, limits[seam] + 1)]
    for ranks in wrong:
        for call in (decomposition.error, decomposition.truncate, lambda r: family.chain(spec, r)):
            with pytest.raises(RankError, match=r"allows 1\.\.") as caught:
                call(ranks)
            assert "\n" not in str(caught.value)


# (f) the graph


@WITH_DATA
@EVERY_CASE
def test_the_written_graph_is_sound(family, name, data):
    case = case_of(name)
    original = model_of(case)
    factorization = decomposition_of(family, name, data=data).truncate(middle_ranks(family, case.spec))
    proto = rewritten(case, factorization)
    onnx.checker.check_model(proto, full_check=True)
    nodes, weights = proto.graph.node, [t.name for t in proto.graph.initializer]
    names = [n.name for n in nodes] + [o for n in nodes for o in n.output] + weights
    assert len(set(names)) == len(names)
    assert all(names)
    read = {name for node in nodes for name in node.input}
    assert set(weights) <= read  # dead weights are gone
    assert {"w", "b"}.isdisjoint(weights)
    kept = {t.name: t for t in original.graph.initializer}["other"]
    assert next(t for t in proto.graph.initializer if t.name == "other").SerializeToString() == kept.SerializeToString()
    assert list(nodes[-2:]) == list(original.graph.node[-2:])
    assert (proto.graph.input, proto.graph.output) == (original.graph.input, original.graph.output)


@WITH_DATA
@EVERY_CASE
def test_the_last_factor_keeps_the_output_name_and_has_the_only_bias(family, name, data):
    case = case_of(name)
    factorization = decomposition_of(family, name, data=data).truncate(middle_ranks(family, case.spec))
    chain = [n for n in rewritten(case, factorization).graph.node if n.op_type in LAYERS]
    assert len(chain) == len(factorization.factors) >= 2
    assert (chain[-1].name, list(chain[-1].output)) == ("layer", ["y"])
    assert [len(node.input) for node in chain] == [2] * (len(chain) - 1) + [3]
    assert [f.bias is None for f in factorization.factors] == [True] * (len(chain) - 1) + [False]


@EVERY_CASE
def test_a_weight_that_another_node_reads_stays(family, name):
    case = case_of(name)
    original = model_of(case)
    original.graph.node.append(helper.make_node("Identity", ["w"], ["copy"], name="reader"))
    original.graph.output.append(helper.make_empty_tensor_value_info("copy"))
    model = load(original)
    (layer,) = find_layers(model, infer_shapes(model).tensors)
    edit = GraphEdit(model)
    replace_layer(edit, layer, decomposition_of(family, name, data=False).truncate((1,) * len(
        family.max_ranks(case.spec))).factors)
    kept = {t.name: numpy_helper.to_array(t) for t in edit.result().proto.graph.initializer}
    np.testing.assert_array_equal(kept["w"], case.weight)
    assert "b" not in kept


# (g) what data is good for


@EVERY_CASE
def test_data_lowers_the_error_on_that_data(family, name):
    case = case_of(name)
    ranks = middle_ranks(family, case.spec)
    expected = outputs(model_of(case), case)
    errors = [np.linalg.norm(outputs(rewritten(case, decomposition_of(family, name, data=data).truncate(ranks)), case)
                             - expected) for data in (False, True)]
    assert errors[1] < errors[0]


@EVERY_CASE
def test_the_bias_keeps_the_mean_of_the_output(family, name):
    case = case_of(name)
    factorization = decomposition_of(family, name, data=True).truncate((1,) * len(family.max_ranks(case.spec)))
    expected, found = outputs(model_of(case), case), outputs(rewritten(case, factorization), case)
    assert np.abs(found - expected).max() > 0.1  # rank 1 does change the layer
    channels = (0, *range(2, expected.ndim))
    # float32 rounding of outputs up to about 60
    np.testing.assert_allclose(found.mean(axis=channels), expected.mean(axis=channels), atol=5e-5)


# (h) optimality of the fit


@EVERY_CASE
def test_the_last_factor_is_the_least_squares_fit(family, name):
    """The output error is a quadratic of the last kernel, so its slope along a direction is an exact difference."""
    case, covariance = case_of(name), statistics_of(name).regularized()
    factors = decomposition_of(family, name, data=True).truncate(middle_ranks(family, case.spec)).factors
    weight = np.asarray(case.weight, dtype=np.float64)
    rng = np.random.default_rng(3)

    def energy(kernel):
        chain = (*factors[:-1], replace(factors[-1], weight=kernel))
        return output_energy(weight - composed(chain, case.spec), covariance)

    best = energy(factors[-1].weight)
    for _ in range(8):
        step = rng.standard_normal(factors[-1].weight.shape) * 0.1
        up, down = energy(factors[-1].weight + step), energy(factors[-1].weight - step)
        curvature = up + down - 2 * best
        assert curvature > 0
        assert min(up, down) > best
        # normal equations, up to float64 rounding of energies about 1e5 times the curvature
        assert abs(up - down) < 1e-8 * curvature


@EVERY_CASE
def test_patch_statistics_have_the_order_of_the_weight_matrix(family, name):
    case = case_of(name)
    np.testing.assert_array_equal(patch_matrix(case.weight), flat(case.weight))
    assert family.check(case.spec) is None
