"""A chain of factors as a model against convolutions by a loop over their output positions."""

import numpy as np
import onnx
import pytest

from onnxslim1x1.graph.chain import chain_model
from onnxslim1x1.runtime.session import create_session, run
from onnxslim1x1.spec import ConvFactor, ConvSpec

CHAINS = {
    "1d": ([(3, 2, {"kernel": (1,)}),
            (2, 5, {"kernel": (4,), "stride": (2,), "dilation": (3,), "pads": (2, 5)})], (23,)),
    "2d": ([(4, 2, {"kernel": (3, 1), "stride": (2, 1), "dilation": (2, 1), "pads": (1, 0, 3, 0)}),
            (2, 5, {"kernel": (1, 2), "stride": (1, 3), "pads": (0, 2, 0, 1)})], (9, 11)),
    "3d": ([(2, 3, {"kernel": (2, 3, 1), "stride": (1, 2, 3), "dilation": (3, 2, 1), "pads": (0, 1, 2, 3, 4, 0)}),
            (3, 4, {"kernel": (1, 1, 1)})], (6, 7, 8)),
    "one": ([(4, 3, {"kernel": (2, 3), "stride": (1, 2), "pads": (1, 0, 0, 2)})], (5, 8)),
    "three": ([(4, 3, {"kernel": (1, 1)}), (3, 2, {"kernel": (3, 2), "dilation": (1, 2), "pads": (2, 0, 1, 3)}),
               (2, 6, {"kernel": (1, 1)})], (6, 9)),
    "groups": ([(4, 6, {"kernel": (2, 3), "groups": 2, "pads": (1, 0, 0, 2)}), (6, 3, {"kernel": (1, 1)})], (6, 9)),
    "same": ([(2, 3, {"kernel": (4, 1), "stride": (3, 1), "auto_pad": "SAME_LOWER"}),
              (3, 5, {"kernel": (1, 4), "stride": (1, 3), "auto_pad": "SAME_UPPER"})], (11, 14)),
}
EVERY_CHAIN = pytest.mark.parametrize("name", CHAINS)


def chain(name, *, biases=None):
    """Seeded factors; `biases` says which of them have one (only the last one without it)."""
    rng = np.random.default_rng(len(name))
    steps, size = CHAINS[name]
    factors = []
    for number, (c, o, geometry) in enumerate(steps):
        biased = biases[number] if biases else number == len(steps) - 1
        spec = ConvSpec.make(c, o, in_size=size, bias=biased, **geometry)
        factors.append(ConvFactor(role=f"role{number}", spec=spec, weight=rng.standard_normal(spec.weight_shape),
                                  bias=rng.standard_normal(o) if biased else None))
        size = spec.out_size
    return factors


def convolved(images, factor):
    """One convolution in float64, output position by output position."""
    spec, axes = factor.spec, len(factor.spec.kernel)
    pads = spec.explicit_pads
    padded = np.pad(images.astype(np.float64), [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    found = np.zeros((len(images), spec.out_channels, *spec.out_size))
    width = spec.in_channels // spec.groups
    for place in np.ndindex(*spec.out_size):
        window = padded[(slice(None), slice(None), *(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, spec.stride, spec.dilation, spec.kernel, strict=True)))]
        for o in range(spec.out_channels):
            group = o * spec.groups // spec.out_channels
            part = window[:, group * width : (group + 1) * width]
            found[(slice(None), o, *place)] = (part * factor.weight[o]).reshape(len(images), -1).sum(axis=1)
    bias = np.zeros(spec.out_channels) if factor.bias is None else factor.bias
    return found + bias.reshape(-1, *[1] * axes)


def images_of(factors, *, count, seed=7):
    spec = factors[0].spec
    return np.random.default_rng(seed).standard_normal((count, spec.in_channels, *spec.in_size)).astype(np.float32)


def assert_chain(factors, *, count):
    images = images_of(factors, count=count)
    expected = images
    for factor in factors:
        expected = convolved(expected, factor)
    (found,) = run(create_session(chain_model(factors).SerializeToString()), {"x": images})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)  # float32 rounding of values up to 30
    assert found.dtype == np.float32


@EVERY_CHAIN
def test_a_chain_computes_its_factors_one_after_the_other(name):
    assert_chain(chain(name), count=3)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, False)])
def test_every_factor_may_have_a_bias(biases):
    assert_chain(chain("2d", biases=biases), count=1)


def test_a_chain_takes_images_of_another_size_than_its_specs_name():
    factors = chain("2d")
    images = np.random.default_rng(0).standard_normal((2, 4, 12, 7)).astype(np.float32)
    (found,) = run(create_session(chain_model(factors).SerializeToString()), {"x": images})
    # rows (12 + 4 - 4 - 1) // 2 + 1, columns (7 + 3 - 1 - 1) // 3 + 1
    assert found.shape == (2, 5, 6, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_are_float32_whatever_the_factors_hold(dtype):
    factors = [ConvFactor(role=f.role, spec=f.spec, weight=f.weight.astype(dtype),
                          bias=None if f.bias is None else f.bias.astype(dtype)) for f in chain("three")]
    tensors = chain_model(factors).graph.initializer
    assert {t.data_type for t in tensors} == {onnx.TensorProto.FLOAT}
    given = [array for f in factors for array in (f.weight, f.bias) if array is not None]
    for tensor, array in zip(tensors, given, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), array.astype(np.float32))
