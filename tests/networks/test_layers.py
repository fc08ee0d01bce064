import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from finite_differences import check_gradient
from flax import nnx

from diffjax.networks._layers import (
    ConvolutionLayer,
    depthwise_convolution,
    fold_batch_norm,
    grouped_depthwise,
    mask_padding,
    max_pool,
    pointwise_convolution,
    same_padding_convolution,
    shifted_depthwise,
    symmetric_padding_convolution,
)

DEPTHWISE = [depthwise_convolution, grouped_depthwise, shifted_depthwise]


def eager(function, **_):
    return function


TRANSFORMS = [eager, jax.jit]
SIDES = [(8, 6), (7, 9), (1, 2)]


def grid(*axes, default):
    """Every combination of the axes; those not in `default` are marked `full`."""
    assert all(
        value in axis for row in default for value, axis in zip(row, axes, strict=True)
    )
    return [
        pytest.param(*row, marks=() if row in default else pytest.mark.full)
        for row in itertools.product(*axes)
    ]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padded_like_tensorflow(plane, *, size, stride):
    """Zeros so that ceil(side / stride) windows fit, the odd one at the end."""
    margins = []
    for side in plane.shape:
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        margins.append((total // 2, total - total // 2))
    return np.pad(plane, margins)


def correlate(plane, window, *, stride):
    """SciPy's correlation of one plane, in float64."""
    plane = padded_like_tensorflow(plane, size=window.shape[0], stride=stride)
    full = scipy.signal.correlate2d(
        plane.astype(np.float64), window.astype(np.float64), mode="valid"
    )
    return full[::stride, ::stride]


# Every pair of an even or odd side with a stride and a size, for the two that differ;
# the third is one of them, by platform.
@pytest.mark.parametrize(
    ("convolve", "stride", "size", "sides", "transform"),
    grid(
        DEPTHWISE,
        [1, 2],
        [3, 5],
        SIDES,
        TRANSFORMS,
        default=[
            (grouped_depthwise, 1, 3, (8, 6), jax.jit),
            (grouped_depthwise, 2, 5, (7, 9), jax.jit),
            (grouped_depthwise, 2, 3, (1, 2), jax.jit),
            (shifted_depthwise, 2, 3, (8, 6), jax.jit),
            (shifted_depthwise, 2, 5, (8, 6), jax.jit),
            (shifted_depthwise, 1, 3, (7, 9), jax.jit),
            (shifted_depthwise, 2, 3, (7, 9), jax.jit),
            (shifted_depthwise, 1, 5, (1, 2), jax.jit),
            (depthwise_convolution, 2, 5, (7, 9), jax.jit),
        ],
    ),
)
def test_depthwise_convolution_agrees_with_scipy(
    convolve, stride, size, sides, transform
):
    maps, kernel = draw(2, *sides, 3), draw(size, size, 1, 3)
    expected = np.stack(
        [
            [
                correlate(picture[:, :, c], kernel[:, :, 0, c], stride=stride)
                for c in range(3)
            ]
            for picture in maps
        ]
    ).transpose(0, 2, 3, 1)
    run = transform(convolve, static_argnames="stride")
    got = run(jnp.asarray(maps), jnp.asarray(kernel), stride=stride)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_full_convolution_is_a_sum_of_correlations(stride):
    maps, kernel = draw(1, 8, 6, 3), draw(3, 3, 3, 2)
    expected = np.stack(
        [
            sum(
                correlate(maps[0, :, :, i], kernel[:, :, i, o], stride=stride)
                for i in range(3)
            )
            for o in range(2)
        ],
        axis=-1,
    )
    got = same_padding_convolution(
        jnp.asarray(maps), jnp.asarray(kernel), stride=stride
    )
    np.testing.assert_allclose(got[0], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("stride", "size", "sides", "transform"),
    grid(
        [1, 2],
        [1, 3, 7],
        SIDES,
        TRANSFORMS,
        default=[
            (2, 1, (8, 6), jax.jit),
            (1, 3, (8, 6), jax.jit),
            (2, 3, (7, 9), jax.jit),
            (2, 7, (8, 6), jax.jit),
            (1, 7, (1, 2), jax.jit),
        ],
    ),
)
def test_symmetric_convolution_has_as_many_zeros_before_as_after(
    stride, size, sides, transform
):
    maps, kernel = draw(1, *sides, 2), draw(size, size, 2, 3)
    margin = (size - 1) // 2
    padded = np.pad(maps[0].astype(np.float64), [(margin, margin)] * 2 + [(0, 0)])
    expected = np.stack(
        [
            # In three dimensions: "valid" leaves one position along the channels.
            scipy.signal.correlate(padded, kernel[..., o].astype(np.float64), "valid")
            for o in range(3)
        ],
        axis=-1,
    )[::stride, ::stride, 0]
    run = transform(symmetric_padding_convolution, static_argnames="stride")
    got = run(jnp.asarray(maps), jnp.asarray(kernel), stride=stride)
    assert got.shape[1:3] == tuple(-(-side // stride) for side in sides)
    np.testing.assert_allclose(got[0], expected, rtol=2e-5, atol=2e-5)


def test_both_kinds_of_padding_agree_where_the_window_is_centred():
    maps, kernel = (
        jnp.asarray(draw(1, 7, 9, 2)),
        jnp.asarray(draw(3, 3, 2, 3)),
    )
    for stride in (1, 2):  # Odd sides: `SAME` needs an even number of zeros, too.
        got = symmetric_padding_convolution(maps, kernel, stride=stride)
        expected = same_padding_convolution(maps, kernel, stride=stride)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("general", "stride"),
    grid(
        [same_padding_convolution, symmetric_padding_convolution],
        [1, 2, 3],
        default=[
            (same_padding_convolution, 1),
            (symmetric_padding_convolution, 2),
            (same_padding_convolution, 3),
        ],
    ),
)
def test_pointwise_convolution_equals_a_general_one_with_a_kernel_of_one_cell(
    general, stride
):
    maps, kernel = (
        jnp.asarray(draw(2, 4, 5, 6)),
        jnp.asarray(draw(1, 1, 6, 3)),
    )
    got = pointwise_convolution(maps, kernel, stride=stride)
    expected = general(maps, kernel, stride=stride)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolve", DEPTHWISE)
def test_a_unit_impulse_gives_the_kernel_rotated_by_180_degrees(convolve):
    impulse = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1)
    kernel = jnp.asarray(draw(5, 5, 1, 1))
    run = jax.jit(convolve, static_argnames="stride")
    got = run(impulse, kernel, stride=1)[0, 1:6, 1:6, 0]
    np.testing.assert_array_equal(got, kernel[::-1, ::-1, 0, 0])


def test_channels_do_not_mix():
    maps, kernel = (
        jnp.asarray(draw(1, 6, 6, 4)),
        jnp.asarray(draw(3, 3, 1, 4)),
    )
    alone = depthwise_convolution(maps[..., 2:3], kernel[..., 2:3], stride=1)
    together = depthwise_convolution(maps, kernel, stride=1)[..., 2:3]
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", False), ("cuda", True)])
def test_the_platform_chooses_the_depthwise_kernel_at_lowering(platform, grouped):
    maps, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 1, 4))
    run = jax.jit(depthwise_convolution, static_argnames="stride")
    traced = run.trace(maps, kernel, stride=1)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == grouped


def test_precision_is_stated_and_never_left_to_the_device():
    maps, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 4, 4))
    for convolve, weights in [
        (same_padding_convolution, kernel),
        (symmetric_padding_convolution, kernel),
        (pointwise_convolution, kernel[:1, :1]),
        (grouped_depthwise, kernel[:, :, :1]),
    ]:
        run = jax.jit(convolve, static_argnames="stride")
        assert "HIGHEST" in run.lower(maps, weights, stride=1).as_text()


def test_gradients_match_finite_differences(x64):
    del x64
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.normal(size=(1, 4, 4, 2)))
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 2)))

    run = jax.jit(functools.partial(depthwise_convolution, stride=2))
    check_gradient(run, (maps, kernel), order=2)


def test_vmap_over_pictures_is_the_batch():
    maps, kernel = (
        jnp.asarray(draw(3, 6, 6, 4)),
        jnp.asarray(draw(3, 3, 1, 4)),
    )
    by_picture = jax.jit(
        jax.vmap(lambda one: depthwise_convolution(one[None], kernel, stride=2)[0])
    )
    expected = depthwise_convolution(maps, kernel, stride=2)
    np.testing.assert_allclose(by_picture(maps), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sides", [(2, 3), (3, 4)])
def test_a_symmetric_convolution_refuses_a_kernel_of_even_sides(sides):
    shown = f"{sides[0]} x {sides[1]}"
    with pytest.raises(ValueError, match=rf"kernel .* odd sides, got {shown}\."):
        symmetric_padding_convolution(
            jnp.zeros((1, 6, 6, 4)), jnp.zeros((*sides, 4, 2)), stride=1
        )


def statistics(channels):
    rng = np.random.default_rng(1)
    names = ("gain", "offset", "mean")
    numbers = {name: rng.normal(size=channels).astype(np.float32) for name in names}
    variance = rng.uniform(0.1, 2, channels).astype(np.float32)
    return numbers | {"variance": variance, "epsilon": 1e-3}


def test_a_layer_convolves_and_adds_the_bias():
    layer = ConvolutionLayer(
        symmetric_padding_convolution,
        (3, 3, 2, 4),
        stride=2,
        kernel_init=nnx.initializers.ones,
        rngs=nnx.Rngs(0),
    )
    layer.bias.set_value(jnp.arange(4.0))
    maps = jnp.asarray(draw(1, 5, 6, 2))
    expected = symmetric_padding_convolution(maps, layer.kernel[...], stride=2)
    added = layer(maps)[0] - expected[0]
    np.testing.assert_allclose(added, [[[0, 1, 2, 3]] * 3] * 3, atol=1e-5)


def test_folding_multiplies_the_kernel_and_moves_the_bias():
    # By hand: s = 3 / sqrt(3.75 + 0.25) = 1.5; bias 1.5 * (2 - 7) + 5 = -2.5.
    got = fold_batch_norm(
        np.full((1, 1, 1, 1), 4.0),
        np.array([2.0]),
        gain=np.array([3.0]),
        offset=np.array([5.0]),
        mean=np.array([7.0]),
        variance=np.array([3.75]),
        epsilon=0.25,
    )
    np.testing.assert_allclose(got.kernel, 6.0)
    np.testing.assert_allclose(got.bias, -2.5)


@pytest.mark.parametrize("bias", [None, draw(4, seed=2)])
def test_a_folded_convolution_includes_the_batch_norm(bias):
    maps, kernel, norm = draw(2, 5, 4, 3), draw(3, 3, 3, 4), statistics(4)
    convolved = symmetric_padding_convolution(
        jnp.asarray(maps), jnp.asarray(kernel), stride=1
    )
    # The norm as it is defined, in float64.
    values = np.asarray(convolved, np.float64) + (0 if bias is None else bias)
    values = (values - norm["mean"]) / np.sqrt(norm["variance"] + 1e-3)
    values = values * norm["gain"] + norm["offset"]
    folded = fold_batch_norm(kernel, bias, **norm)
    assert folded.kernel.dtype == folded.bias.dtype == np.float64
    got = symmetric_padding_convolution(
        jnp.asarray(maps), jnp.asarray(folded.kernel.astype(np.float32)), stride=1
    )
    np.testing.assert_allclose(
        np.asarray(got) + folded.bias, values, rtol=1e-4, atol=1e-4
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
def test_a_norm_with_an_impossible_variance_or_epsilon_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(draw(1, 1, 3, 2), **(statistics(2) | change))


def test_folding_leaves_its_arguments_alone():
    kernel, norm = draw(1, 1, 3, 2), statistics(2)
    before = kernel.copy(), {name: np.copy(value) for name, value in norm.items()}
    fold_batch_norm(kernel, **norm)
    np.testing.assert_array_equal(kernel, before[0])
    for name, value in norm.items():
        np.testing.assert_array_equal(value, before[1][name])


@pytest.mark.parametrize(
    ("window", "sides", "transform"),
    grid(
        [(2, 0), (3, 1), (3, 0)],
        [(6, 8), (7, 5), (3, 3)],
        TRANSFORMS,
        default=[
            ((2, 0), (7, 5), jax.jit),
            ((3, 1), (6, 8), jax.jit),
            ((3, 1), (7, 5), jax.jit),
            ((3, 0), (3, 3), jax.jit),
        ],
    ),
)
def test_pooling_takes_the_largest_cell_of_each_complete_window(
    window, sides, transform
):
    size, padding = window
    maps = draw(2, *sides, 3) - 5  # All negative: a zero at the edge would be seen.
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(maps, margins, constant_values=-np.inf)
    rows, columns = (range(0, side - size + 1, 2) for side in padded.shape[1:3])
    expected = [
        [padded[:, y : y + size, x : x + size].max((1, 2)) for x in columns]
        for y in rows
    ]
    run = transform(max_pool, static_argnames=("size", "stride", "padding"))
    got = run(jnp.asarray(maps), size=size, stride=2, padding=padding)
    np.testing.assert_array_equal(got, np.array(expected).transpose(2, 0, 1, 3))


def test_a_map_smaller_than_the_window_has_no_cells():
    assert max_pool(jnp.zeros((1, 1, 4, 2)), size=2, stride=2).shape == (1, 0, 2, 2)


def test_the_gradient_of_a_pooling_goes_to_the_largest_cell():
    maps = jnp.asarray(draw(1, 4, 4, 1))
    got = jax.grad(lambda maps: max_pool(maps, size=2, stride=2).sum())(maps)
    largest = max_pool(maps, size=2, stride=2).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(got, maps == largest)


def test_masking_keeps_real_cells_and_clears_even_nan():
    maps = np.full((3, 2, 3, 1), np.nan, np.float32)
    maps[:, :1, :2] = 7
    sizes = jnp.array([[1, 2], [0, 3], [2, 1]])
    got = jax.jit(mask_padding)(jnp.asarray(maps), sizes)[..., 0]
    np.testing.assert_array_equal(got[0], [[7, 7, 0], [0, 0, 0]])
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_array_equal(got[2], [[7, 0, 0], [np.nan, 0, 0]])
