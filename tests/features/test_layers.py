import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax.features._convolution import symmetric_convolution
from diffjax.features._layers import (
    ConvolutionLayer,
    fold_batch_norm,
    masked,
    max_pool,
)

TRANSFORMS = [
    pytest.param(lambda function, **_: function, id="eager"),
    pytest.param(jax.jit, id="jit"),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def statistics(channels):
    rng = np.random.default_rng(1)
    names = ("gain", "offset", "mean")
    numbers = {name: rng.normal(size=channels).astype(np.float32) for name in names}
    variance = rng.uniform(0.1, 2, channels).astype(np.float32)
    return numbers | {"variance": variance, "epsilon": 1e-3}


def test_a_layer_convolves_and_adds_the_bias():
    layer = ConvolutionLayer(
        symmetric_convolution,
        (3, 3, 2, 4),
        stride=2,
        kernel_init=nnx.initializers.he_normal(),
        rngs=nnx.Rngs(0),
    )
    layer.bias.set_value(jnp.arange(4.0))
    maps = jnp.asarray(draw(1, 5, 6, 2))
    expected = symmetric_convolution(maps, layer.kernel[...], stride=2)
    added = layer(maps)[0] - expected[0]
    np.testing.assert_allclose(added, [[[0, 1, 2, 3]] * 3] * 3, atol=1e-5)


def test_folding_multiplies_the_kernel_and_moves_the_bias():
    # By hand: s = 3 / sqrt(3.75 + 0.25) = 1.5; bias 1.5 * (2 - 7) + 5 = -2.5.
    found = fold_batch_norm(
        np.full((1, 1, 1, 1), 4.0),
        np.array([2.0]),
        gain=np.array([3.0]),
        offset=np.array([5.0]),
        mean=np.array([7.0]),
        variance=np.array([3.75]),
        epsilon=0.25,
    )
    np.testing.assert_allclose(found.kernel, 6.0)
    np.testing.assert_allclose(found.bias, -2.5)


@pytest.mark.parametrize("bias", [None, draw(4, seed=2)])
def test_a_folded_convolution_does_the_norm_as_well(bias):
    maps, kernel, norm = draw(2, 5, 4, 3), draw(3, 3, 3, 4), statistics(4)
    convolved = symmetric_convolution(jnp.asarray(maps), jnp.asarray(kernel), stride=1)
    # The norm as it is defined, in float64.
    values = np.asarray(convolved, np.float64) + (0 if bias is None else bias)
    values = (values - norm["mean"]) / np.sqrt(norm["variance"] + 1e-3)
    values = values * norm["gain"] + norm["offset"]
    folded = fold_batch_norm(kernel, bias, **norm)
    assert folded.kernel.dtype == folded.bias.dtype == np.float64
    found = symmetric_convolution(
        jnp.asarray(maps), jnp.asarray(folded.kernel.astype(np.float32)), stride=1
    )
    np.testing.assert_allclose(
        np.asarray(found) + folded.bias, values, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon must be above 0, got 0\.0\."),
        ({"epsilon": np.nan}, r"epsilon must be above 0, got nan\."),
        ({"variance": np.array([1, -2.0])}, r"variance .* at least 0, got -2\.0\."),
        ({"variance": np.array([np.nan, 1])}, r"variance .* at least 0, got nan\."),
    ],
)
def test_a_norm_that_divides_by_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(draw(1, 1, 3, 2), **(statistics(2) | change))


def test_folding_leaves_its_arguments_alone():
    kernel, norm = draw(1, 1, 3, 2), statistics(2)
    before = kernel.copy(), {name: np.copy(value) for name, value in norm.items()}
    fold_batch_norm(kernel, **norm)
    np.testing.assert_array_equal(kernel, before[0])
    for name, value in norm.items():
        np.testing.assert_array_equal(value, before[1][name])


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("size", "padding"), [(2, 0), (3, 1), (3, 0)])
@pytest.mark.parametrize("sides", [(6, 8), (7, 5), (3, 3)])
def test_pooling_takes_the_largest_of_each_whole_window(
    transform, size, padding, sides
):
    maps = draw(2, *sides, 3) - 5  # All negative: a zero at the edge would be seen.
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(maps, margins, constant_values=-np.inf)
    rows, columns = (range(0, side - size + 1, 2) for side in padded.shape[1:3])
    expected = [
        [padded[:, y : y + size, x : x + size].max((1, 2)) for x in columns]
        for y in rows
    ]
    run = transform(max_pool, static_argnames=("size", "stride", "padding"))
    found = run(jnp.asarray(maps), size=size, stride=2, padding=padding)
    np.testing.assert_array_equal(found, np.array(expected).transpose(2, 0, 1, 3))


def test_a_map_smaller_than_the_window_has_no_cells():
    assert max_pool(jnp.zeros((1, 1, 4, 2)), size=2, stride=2).shape == (1, 0, 2, 2)


def test_the_gradient_of_a_pooling_goes_to_the_largest_cell():
    maps = jnp.asarray(draw(1, 4, 4, 1))
    found = jax.grad(lambda maps: max_pool(maps, size=2, stride=2).sum())(maps)
    largest = max_pool(maps, size=2, stride=2).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(found, maps == largest)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_masking_keeps_what_is_real_and_clears_even_nan(transform):
    maps = jnp.full((3, 2, 3, 1), jnp.nan).at[:, :1, :2].set(7)
    sizes = jnp.array([[1, 2], [0, 3], [2, 1]])
    found = transform(masked)(maps, sizes)[..., 0]
    np.testing.assert_array_equal(found[0], [[7, 7, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[2], [[7, 0, 0], [np.nan, 0, 0]])
