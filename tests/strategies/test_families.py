"""Each family: what it declines, which factor has which part of the geometry, ranks, and an independent solution."""

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import MomentAccumulator
from onnxslim1x1.linalg.weighting import OutputWeighting
from onnxslim1x1.spec import ConvSpec
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import patch_matrix

SPEC = ConvSpec.make(6, 5, kernel=(3, 2), stride=(2, 1), dilation=(1, 2), pads=(1, 0, 2, 3), in_size=(9, 11), batch=2)
POINTWISE = ConvSpec.make(6, 4, kernel=(1, 1), stride=(2, 1), in_size=(5, 7))
DENSE = ConvSpec.make(6, 4, kernel=(), in_size=())
DECLINED = {
    "transposed": ConvSpec.make(6, 4, kernel=(3, 2), transposed=True, in_size=(5, 7)),
    "depthwise": ConvSpec.make(6, 12, kernel=(3, 3), groups=6, in_size=(5, 7)),
    "grouped": ConvSpec.make(6, 4, kernel=(3, 3), groups=2, in_size=(5, 7)),
}
ONE_AXIS = ConvSpec.make(6, 4, kernel=(3, 1), in_size=(5, 7))


def conv(channels, outputs, kernel=(1, 1), **changes):
    """One factor of `SPEC`, without a bias unless it has one."""
    return ConvSpec.make(channels, outputs, kernel=kernel, batch=2, **({"bias": False} | changes))


FIRST = {"kernel": (3, 1), "stride": (2, 1), "pads": (1, 0, 2, 0)}  # the part of the geometry on the first axis
SECOND = {"kernel": (1, 2), "dilation": (1, 2), "pads": (0, 0, 0, 3)}
BOTH = {"kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2), "pads": (1, 0, 2, 3)}
CHAINS = {
    "reduce": ((4,), (conv(6, 4, in_size=(9, 11)), conv(4, 5, **BOTH, in_size=(9, 11), bias=True))),
    "expand": ((4,), (conv(6, 4, **BOTH, in_size=(9, 11)), conv(4, 5, in_size=(5, 12), bias=True))),
    "spatial": ((7,), (conv(6, 7, **FIRST, in_size=(9, 11)), conv(7, 5, **SECOND, in_size=(5, 11), bias=True))),
    "tucker2": ((4, 3), (conv(6, 4, in_size=(9, 11)), conv(4, 3, **BOTH, in_size=(9, 11)),
                         conv(3, 5, in_size=(5, 12), bias=True))),
    "spatial_expand": ((7, 3), (conv(6, 7, **FIRST, in_size=(9, 11)), conv(7, 3, **SECOND, in_size=(5, 11)),
                                conv(3, 5, in_size=(5, 12), bias=True))),
    "reduce_spatial": ((4, 7), (conv(6, 4, in_size=(9, 11)), conv(4, 7, **FIRST, in_size=(9, 11)),
                                conv(7, 5, **SECOND, in_size=(5, 11), bias=True))),
}
LIMITS = {"reduce": (6,), "expand": (5,), "spatial": (10,), "tucker2": (6, 5), "spatial_expand": (10, 5),
          "reduce_spatial": (6, 10)}
ROLES = {"reduce": ("reduce", "kernel"), "expand": ("kernel", "expand"), "spatial": ("first", "second"),
         "tucker2": ("reduce", "kernel", "expand"), "spatial_expand": ("first", "second", "expand"),
         "reduce_spatial": ("reduce", "first", "second")}
SPATIAL = ("spatial", "spatial_expand", "reduce_spatial")
EVERY_FAMILY = pytest.mark.parametrize("name", CHAINS)


def weight_of(spec, seed=0):
    return np.random.default_rng(seed).standard_normal(spec.weight_shape)


def moments_of(spec, seed=1):
    rng = np.random.default_rng(seed)
    sums = MomentAccumulator(spec.patch)
    sums.add(rng.standard_normal((4000, spec.patch)) @ rng.standard_normal((spec.patch, spec.patch)) + 1)
    return sums.result()


# what is served


@pytest.mark.parametrize("code", DECLINED)
@EVERY_FAMILY
def test_what_mixes_no_channels_is_declined(name, code):
    refusal = by_name(name).check(DECLINED[code])
    assert refusal is not None
    assert refusal.code == code
    assert "\n" not in refusal.reason


@pytest.mark.parametrize(("code", "spec"), [("pointwise", POINTWISE), ("dense", DENSE)])
@EVERY_FAMILY
def test_layers_without_a_spatial_kernel_can_only_be_expanded(name, code, spec):
    refusal = by_name(name).check(spec)
    assert (refusal and refusal.code) == (None if name == "expand" else code)


@EVERY_FAMILY
def test_a_kernel_along_one_axis_has_no_second_one(name):
    refusal = by_name(name).check(ONE_AXIS)
    assert (refusal and refusal.code) == ("one_axis" if name in SPATIAL else None)


@pytest.mark.parametrize(("name", "channels", "outputs"), [
    ("reduce", 1, 5), ("tucker2", 1, 5), ("tucker2", 5, 1), ("expand", 5, 1)])
def test_a_single_channel_has_no_rank(name, channels, outputs):
    refusal = by_name(name).check(ConvSpec.make(channels, outputs, kernel=(3, 2), in_size=(5, 7)))
    assert refusal is not None
    assert refusal.code == "few_channels"


# geometry


@EVERY_FAMILY
def test_each_factor_has_the_geometry_of_its_own_axes(name):
    ranks, expected = CHAINS[name]
    assert by_name(name).chain(SPEC, ranks) == expected
    assert expected[-1].out_size == SPEC.out_size == (5, 12)


@EVERY_FAMILY
def test_the_largest_ranks_are_those_of_the_unfoldings(name):
    assert by_name(name).max_ranks(SPEC) == LIMITS[name]


@EVERY_FAMILY
def test_roles_say_what_a_factor_does(name):
    found = by_name(name).decompose(SPEC, weight_of(SPEC)).truncate(CHAINS[name][0])
    assert tuple(factor.role for factor in found.factors) == ROLES[name]


@pytest.mark.parametrize("name", SPATIAL)
def test_the_first_axis_that_extends_comes_first(name):
    spec = ConvSpec.make(6, 5, kernel=(1, 2, 1, 4), in_size=(5, 6, 7, 8))
    kernels = [factor.kernel for factor in by_name(name).chain(spec, (2,) * len(LIMITS[name])) if factor.positions > 1]
    assert kernels == [(1, 2, 1, 1), (1, 1, 1, 4)]


def test_a_dense_layer_becomes_two():
    first, second = by_name("expand").chain(DENSE, (3,))
    assert first == ConvSpec.make(6, 3, kernel=(), in_size=(), bias=False)
    assert second == ConvSpec.make(3, 4, kernel=(), in_size=(), bias=True)


# solutions found in another way


def test_tucker2_from_weights_is_the_sequentially_truncated_hosvd():
    weight = weight_of(SPEC)
    decomposition = by_name("tucker2").decompose(SPEC, weight)
    inner = np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(6, -1), full_matrices=False)[0]  # mode C
    for r1, r2 in [(1, 1), (2, 4), (4, 2), (5, 3)]:
        core = np.einsum("ochw,cr->orhw", weight, inner[:, :r1])
        outer = np.linalg.svd(core.reshape(5, -1), full_matrices=False)[0][:, :r2]  # mode O of what is left
        expected = np.einsum("op,pq,qrhw,cr->ochw", outer, outer.T, core, inner[:, :r1])
        down, kernel, up = (factor.weight for factor in decomposition.truncate((r1, r2)).factors)
        found = np.einsum("op,pqhw,qc->ochw", up[:, :, 0, 0], kernel, down[:, :, 0, 0])
        np.testing.assert_allclose(found, expected, atol=1e-12)  # float64 rounding
        assert decomposition.error((r1, r2)) == pytest.approx(
            np.linalg.norm(weight - expected) / np.linalg.norm(weight), rel=1e-9)


@pytest.mark.parametrize("spec", [SPEC, POINTWISE, ConvSpec.make(3, 8, kernel=(1, 1), in_size=(5, 7))],
                         ids=["kernel", "pointwise", "wide pointwise"])
@pytest.mark.parametrize("weighted", [False, True])
def test_expand_is_the_reduced_rank_regression(spec, weighted):
    """No chain of that rank has less weighted error: S^1/2 W^T R, truncated (Eckart and Young)."""
    moments, weight = moments_of(spec), weight_of(spec)
    spread = np.random.default_rng(2).standard_normal((spec.out_channels, spec.out_channels))
    weighting = OutputWeighting(covariance=spread @ spread.T) if weighted else None
    root = weighting.root() if weighting else np.eye(spec.out_channels)
    values, vectors = np.linalg.eigh(moments.regularized())
    whitened = root @ patch_matrix(weight) @ (vectors * np.sqrt(values))  # R W S^1/2
    left, singular, right = np.linalg.svd(whitened, full_matrices=False)
    decomposition = by_name("expand").decompose(spec, weight, None, moments, weighting)
    for rank in range(1, min(4, len(singular))):
        best = np.linalg.solve(root, (left[:, :rank] * singular[:rank]) @ right[:rank]) / np.sqrt(values) @ vectors.T
        down, up = (patch_matrix(factor.weight) for factor in decomposition.truncate((rank,)).factors)
        # float64 rounding under a covariance with a condition of about 1e4
        np.testing.assert_allclose(up @ down, best, atol=1e-9 * np.abs(best).max())
        tail = float(np.sum(singular[rank:] ** 2))
        assert decomposition.loss((rank,)) == pytest.approx(
            tail / 2 if weighted else tail / float(np.sum(singular**2)), rel=1e-9)


def test_spatial_from_weights_is_the_truncated_svd_of_its_fold():
    weight = weight_of(SPEC)
    fold = weight.transpose(1, 2, 0, 3).reshape(18, 10)  # (c, i) x (o, j)
    left, singular, right = np.linalg.svd(fold, full_matrices=False)
    decomposition = by_name("spatial").decompose(SPEC, weight)
    for rank in (1, 4, 9):
        expected = ((left[:, :rank] * singular[:rank]) @ right[:rank]).reshape(6, 3, 5, 2).transpose(2, 0, 1, 3)
        first, second = (factor.weight for factor in decomposition.truncate((rank,)).factors)
        np.testing.assert_allclose(np.einsum("orj,rci->ocij", second[:, :, 0], first[..., 0]), expected, atol=1e-12)


@EVERY_FAMILY
def test_factors_keep_their_scale_whatever_the_scale_of_the_weighting(name):
    """Gradients of 1e-6 must not end up in half-precision weights."""
    spread = np.random.default_rng(2).standard_normal((5, 5))
    given = (SPEC, weight_of(SPEC), None, moments_of(SPEC))
    found, tiny = (by_name(name).decompose(*given, OutputWeighting(covariance=scale * spread @ spread.T)).truncate(
        CHAINS[name][0]).factors for scale in (1.0, 1e-12))
    for one, other in zip(found, tiny, strict=True):
        np.testing.assert_allclose(np.abs(one.weight), np.abs(other.weight), rtol=1e-6)  # signs are free


@pytest.mark.parametrize("name", ["expand", "tucker2", "spatial_expand"])
def test_the_rows_in_front_of_an_expansion_have_length_one(name):
    weighting = OutputWeighting(covariance=np.diag([1e-9, 2e-9, 5e-9, 3e-9, 4e-9]))
    found = by_name(name).decompose(SPEC, weight_of(SPEC), None, moments_of(SPEC), weighting).truncate(CHAINS[name][0])
    rows = found.factors[-2].weight
    np.testing.assert_allclose(np.linalg.norm(rows.reshape(len(rows), -1), axis=1), 1, rtol=1e-12)


@EVERY_FAMILY
def test_zero_weights_lose_nothing(name):
    for statistics in (None, moments_of(SPEC)):
        decomposition = by_name(name).decompose(SPEC, np.zeros(SPEC.weight_shape), None, statistics)
        ranks = CHAINS[name][0]
        assert decomposition.error(ranks) == decomposition.loss(ranks) == 0
        factors = decomposition.truncate(ranks).factors
        assert all(np.isfinite(factor.weight).all() for factor in factors)
        np.testing.assert_array_equal(factors[-1].bias, np.zeros(5))
