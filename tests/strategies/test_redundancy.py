"""Curves of redundancy: what must hold for every layer, exact ranks, and agreement with what the families reach."""

import numpy as np
import pytest

from onnxslim1x1.linalg.moments import Moments
from onnxslim1x1.spec import SHARES, ConvSpec, EnergyCurve
from onnxslim1x1.strategies import by_name
from onnxslim1x1.strategies.base import patch_matrix
from onnxslim1x1.strategies.redundancy import layer_spectra

CURVES = ("inputs", "outputs", "positions", "separable")
SPECS = {
    "square": ConvSpec.make(12, 20, kernel=(3, 5), in_size=(9, 11)),
    "more inputs": ConvSpec.make(40, 6, kernel=(3, 2), in_size=(9, 11)),
    "strip": ConvSpec.make(12, 20, kernel=(1, 5), in_size=(9, 11)),
    "cube": ConvSpec.make(6, 10, kernel=(2, 3, 2), in_size=(5, 6, 7)),
    "sound": ConvSpec.make(10, 14, kernel=(7,), in_size=(30,)),
    "pointwise": ConvSpec.make(18, 11, kernel=(1, 1), in_size=(9, 11)),
    "dense": ConvSpec.make(30, 7, kernel=(), in_size=()),
    "image": ConvSpec.make(1, 16, kernel=(5, 5), in_size=(9, 11)),
    "groups": ConvSpec.make(12, 20, kernel=(3, 5), in_size=(9, 11), groups=4),
    "depthwise": ConvSpec.make(12, 24, kernel=(3, 3), in_size=(9, 11), groups=12),
    "transposed": ConvSpec.make(12, 20, kernel=(3, 2), in_size=(9, 11), transposed=True),
    "transposed groups": ConvSpec.make(12, 18, kernel=(3, 2), in_size=(9, 11), transposed=True, groups=3),
}
PLAIN = [name for name, spec in SPECS.items() if spec.groups == 1 and not spec.transposed]
WITH_PATTERNS = [name for name, spec in SPECS.items() if not spec.is_pointwise]


def random_weight(spec, seed=0):
    """Kernel whose channels and positions differ in size."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(spec.weight_shape)
    weight *= np.exp(-0.2 * np.arange(spec.weight_shape[1])).reshape(1, -1, *(1,) * len(spec.kernel))
    return weight.astype(np.float32)


def correlated(spec, seed=1):
    """Moments of patches that are far from white."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((4 * spec.patch, spec.patch)) * np.linspace(0.2, 3, spec.patch)
    rows += rng.standard_normal((4 * spec.patch, 1))
    return Moments(mean=rows.mean(axis=0), covariance=np.cov(rows.T, bias=True), count=len(rows))


def spectra_of(name, *, data=False, weight=None):
    spec = SPECS[name]
    kernel = random_weight(spec) if weight is None else weight
    return layer_spectra(spec, kernel, statistics=correlated(spec) if data else None)


def curves(spectra):
    return {name: curve for name in CURVES if (curve := getattr(spectra, name)) is not None}


@pytest.mark.parametrize(("name", "data"), [(n, False) for n in SPECS] + [(n, True) for n in PLAIN])
def test_a_curve_rises_to_one_and_counts_its_directions(name, data):
    spec = SPECS[name]
    found = curves(spectra_of(name, data=data))
    sizes = {"inputs": spec.in_channels, "outputs": spec.out_channels, "positions": spec.positions}
    first = next((k for k in spec.kernel if k > 1), 1)
    sizes["separable"] = first * spec.in_channels
    for key, curve in found.items():
        assert curve.size == sizes[key]
        assert 1 <= len(curve.kept) <= curve.size
        assert curve.kept[0] > 0
        assert all(a <= b for a, b in zip(curve.kept, curve.kept[1:], strict=False))
        assert curve.kept[-1] == 1.0
        counts = [curve.directions(share) for share in (0.0, 0.5, *SHARES, 1.0)]
        assert counts == sorted(counts)
        for share, count in zip(SHARES, counts[2:], strict=False):
            assert curve.kept[count - 1] >= share - 1e-9
            assert count == 1 or curve.kept[count - 2] < share
    assert ("positions" in found) == (not spec.is_pointwise)
    assert ("separable" in found) == (name in PLAIN and sum(k > 1 for k in spec.kernel) > 1)


@pytest.mark.parametrize("name", PLAIN)
def test_without_data_the_curves_are_those_of_the_singular_values(name):
    """Energies of the unfolded kernel, by an SVD of it."""
    spec, weight = SPECS[name], random_weight(SPECS[name]).astype(np.float64)
    kernel = weight.reshape(*weight.shape[:2], -1)  # (O, C, n)
    unfolded = {"inputs": kernel.transpose(1, 0, 2), "outputs": kernel, "positions": kernel.transpose(2, 0, 1)}
    first = next((axis for axis, k in enumerate(spec.kernel) if k > 1), None)
    if first is not None:
        unfolded["separable"] = np.moveaxis(weight, 2 + first, 2).transpose(
            1, 2, 0, *range(3, weight.ndim)).reshape(spec.in_channels * spec.kernel[first], -1)
    for key, curve in curves(spectra_of(name)).items():
        matrix = unfolded[key].reshape(len(unfolded[key]), -1)
        energies = np.linalg.svd(matrix, compute_uv=False) ** 2
        np.testing.assert_allclose(curve.kept, np.cumsum(energies) / energies.sum(), atol=1e-12)


@pytest.mark.parametrize("name", ["groups", "depthwise", "transposed", "transposed groups"])
def test_a_layer_in_groups_is_the_block_diagonal_one(name):
    """Against the full kernel with zeros between the groups; a transposed layer stores (C, O) instead of (O, C)."""
    spec = SPECS[name]
    weight = random_weight(spec)
    g, c, o = spec.groups, spec.in_channels // spec.groups, spec.out_channels // spec.groups
    full = np.zeros((spec.out_channels, spec.in_channels, *spec.kernel))
    for k in range(g):
        if spec.transposed:
            full[k * o:(k + 1) * o, k * c:(k + 1) * c] = weight[k * c:(k + 1) * c].swapaxes(0, 1)
        else:
            full[k * o:(k + 1) * o, k * c:(k + 1) * c] = weight[k * o:(k + 1) * o]
    found = spectra_of(name)
    dense = layer_spectra(ConvSpec.make(spec.in_channels, spec.out_channels, kernel=spec.kernel), full)
    for key in ("inputs", "outputs", "positions"):
        mine, theirs = getattr(found, key), getattr(dense, key)
        assert mine.size == theirs.size
        count = min(len(mine.kept), len(theirs.kept))
        np.testing.assert_allclose(mine.kept[:count], theirs.kept[:count], atol=1e-12)
        np.testing.assert_allclose([*mine.kept[count:], *theirs.kept[count:]], 1.0, atol=1e-12)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_an_exact_rank_needs_that_many_directions(rank, data):
    spec, rng = SPECS["square"], np.random.default_rng(rank)
    o, c, *k = spec.weight_shape
    by_inputs = np.einsum("orhw,rc->ochw", rng.standard_normal((o, rank, *k)), rng.standard_normal((rank, c)))
    by_outputs = np.einsum("or,rchw->ochw", rng.standard_normal((o, rank)), rng.standard_normal((rank, c, *k)))
    by_patterns = np.einsum("ocr,rhw->ochw", rng.standard_normal((o, c, rank)), rng.standard_normal((rank, *k)))
    by_axes = np.einsum("orw,rch->ochw", rng.standard_normal((o, rank, k[1])), rng.standard_normal((rank, c, k[0])))
    for key, weight in zip(CURVES, (by_inputs, by_outputs, by_patterns, by_axes), strict=True):
        found = curves(spectra_of("square", data=data, weight=weight))
        assert found[key].directions(1.0) == rank, key
        others = [found[other].directions(1.0) for other in CURVES if other != key]
        assert min(others) > rank or rank == 5, key  # nothing else is of that rank


@pytest.mark.parametrize("name", PLAIN)
def test_curves_do_not_depend_on_scale_or_on_the_basis_of_the_channels(name):
    spec, rng = SPECS[name], np.random.default_rng(4)
    weight = random_weight(spec).astype(np.float64)
    turn_in = np.linalg.qr(rng.standard_normal((spec.in_channels,) * 2))[0]
    turn_out = np.linalg.qr(rng.standard_normal((spec.out_channels,) * 2))[0]
    turned = 1e-3 * np.einsum("ab,bc...,cd->ad...", turn_out, weight, turn_in)
    before, after = curves(spectra_of(name, weight=weight)), curves(spectra_of(name, weight=turned))
    assert before.keys() == after.keys()
    for key, curve in before.items():
        np.testing.assert_allclose(after[key].kept, curve.kept, atol=1e-10)


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(("key", "family"), [("inputs", "reduce"), ("outputs", "expand"), ("separable", "spatial")])
def test_a_family_reaches_what_its_curve_says(key, family, data):
    """By the error of the factors that it really makes, at every rank."""
    spec, weight = SPECS["square"], random_weight(SPECS["square"])
    statistics = correlated(spec) if data else None
    curve = getattr(layer_spectra(spec, weight, statistics=statistics), key)
    strategy = by_name(family)
    decomposition = strategy.decompose(spec, weight, None, statistics)
    assert strategy.max_ranks(spec) == (len(curve.kept),)
    for rank, kept in enumerate(curve.kept, start=1):
        assert decomposition.truncate((rank,)).error ** 2 == pytest.approx(1 - kept, abs=1e-9)


def test_with_data_what_no_image_excites_carries_nothing():
    """Two input channels that never vary, one output channel that reads only them."""
    spec, weight = SPECS["square"], random_weight(SPECS["square"])
    weight[4] = 0
    weight[4, 2:4] = 20
    moments = correlated(spec)
    silent = np.isin(np.arange(spec.patch) % spec.in_channels, (2, 3))
    covariance = np.where(silent[:, None] | silent, 0, moments.covariance)
    found = layer_spectra(spec, weight, statistics=Moments(mean=moments.mean, covariance=covariance, count=10**9))
    assert found.inputs.directions(0.999) <= spec.in_channels - 2
    assert found.outputs.directions(0.999) <= spec.out_channels - 1
    assert layer_spectra(spec, weight).outputs.directions(0.9) == 1  # by its weights alone it is all that there is


def test_patterns_with_data_are_the_best_fit():
    """One direction of the positions: no other pattern that was tried keeps more."""
    spec, weight, moments = SPECS["strip"], random_weight(SPECS["strip"]), correlated(SPECS["strip"])
    matrix, rng = patch_matrix(weight), np.random.default_rng(5)
    covariance = moments.regularized()
    whole = np.vdot(matrix @ covariance, matrix)

    def kept(pattern):
        seen = np.kron(pattern[None], np.eye(spec.in_channels))  # (C, n * C)
        target = seen @ covariance @ matrix.T
        return np.vdot(target, np.linalg.solve(seen @ covariance @ seen.T, target)) / whole

    first = layer_spectra(spec, weight, statistics=moments).positions.kept[0]
    tried = [kept(rng.standard_normal(spec.positions)) for _ in range(200)]
    assert max(tried) <= first * 1.02  # the direction comes from the covariance averaged over channels
    assert np.median(tried) < first


def test_a_layer_without_energy_needs_one_direction():
    for name, spec in SPECS.items():
        for curve in curves(spectra_of(name, weight=np.zeros(spec.weight_shape, np.float32))).values():
            assert curve.kept == (1.0,)
            assert curve.directions(0.999) == 1


@pytest.mark.parametrize("name", ["groups", "transposed"])
def test_patches_of_other_layers_are_refused(name):
    with pytest.raises(ValueError, match="ungrouped"):
        layer_spectra(SPECS[name], random_weight(SPECS[name]), statistics=correlated(SPECS["square"]))


def test_counting():
    curve = EnergyCurve(size=9, kept=(0.5, 0.9, 0.95, 1.0))
    assert [curve.directions(share) for share in (0.5, 0.51, 0.9, 0.9 + 1e-12, 0.96, 1.0)] == [1, 2, 2, 2, 4, 4]
