import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from diffjax.features._convolution import (
    depthwise_convolution,
    full_convolution,
    grouped_depthwise,
    pointwise_convolution,
    shifted_depthwise,
    symmetric_convolution,
)

DEPTHWISE = [depthwise_convolution, grouped_depthwise, shifted_depthwise]
TRANSFORMS = [
    pytest.param(lambda function, **_: function, id="eager"),
    pytest.param(jax.jit, id="jit"),
]


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


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


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("convolve", DEPTHWISE)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("sides", [(8, 6), (7, 9), (1, 2)])
def test_depthwise_convolution_agrees_with_scipy(
    transform, convolve, stride, size, sides
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
    found = run(jnp.asarray(maps), jnp.asarray(kernel), stride=stride)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


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
    found = full_convolution(jnp.asarray(maps), jnp.asarray(kernel), stride=stride)
    np.testing.assert_allclose(found[0], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("sides", [(8, 6), (7, 9), (1, 2)])
def test_symmetric_convolution_has_as_many_zeros_before_as_behind(
    transform, stride, size, sides
):
    maps, kernel = draw(1, *sides, 2), draw(size, size, 2, 3)
    margin = (size - 1) // 2
    padded = np.pad(maps[0].astype(np.float64), [(margin, margin)] * 2 + [(0, 0)])
    expected = np.stack(
        [
            # In three dimensions: "valid" leaves one place along the channels.
            scipy.signal.correlate(padded, kernel[..., o].astype(np.float64), "valid")
            for o in range(3)
        ],
        axis=-1,
    )[::stride, ::stride, 0]
    run = transform(symmetric_convolution, static_argnames="stride")
    found = run(jnp.asarray(maps), jnp.asarray(kernel), stride=stride)
    assert found.shape[1:3] == tuple(-(-side // stride) for side in sides)
    np.testing.assert_allclose(found[0], expected, rtol=2e-5, atol=2e-5)


def test_both_kinds_of_padding_agree_where_the_window_is_centred():
    maps, kernel = jnp.asarray(draw(1, 7, 9, 2)), jnp.asarray(draw(3, 3, 2, 3))
    for stride in (1, 2):  # Odd sides: `SAME` needs an even number of zeros, too.
        found = symmetric_convolution(maps, kernel, stride=stride)
        expected = full_convolution(maps, kernel, stride=stride)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("general", [full_convolution, symmetric_convolution])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_convolution_is_one_with_a_kernel_of_one_cell(general, stride):
    maps, kernel = jnp.asarray(draw(2, 4, 5, 6)), jnp.asarray(draw(1, 1, 6, 3))
    found = pointwise_convolution(maps, kernel, stride=stride)
    expected = general(maps, kernel, stride=stride)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolve", DEPTHWISE)
def test_a_unit_impulse_brings_out_the_kernel_turned_by_half_a_circle(convolve):
    impulse = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1)
    kernel = jnp.asarray(draw(5, 5, 1, 1))
    found = convolve(impulse, kernel, stride=1)[0, 1:6, 1:6, 0]
    np.testing.assert_array_equal(found, kernel[::-1, ::-1, 0, 0])


def test_channels_do_not_mix():
    maps, kernel = jnp.asarray(draw(1, 6, 6, 4)), jnp.asarray(draw(3, 3, 1, 4))
    alone = depthwise_convolution(maps[..., 2:3], kernel[..., 2:3], stride=1)
    together = depthwise_convolution(maps, kernel, stride=1)[..., 2:3]
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", False), ("cuda", True)])
def test_the_platform_chooses_when_the_program_is_lowered(platform, grouped):
    maps, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 1, 4))
    run = jax.jit(depthwise_convolution, static_argnames="stride")
    traced = run.trace(maps, kernel, stride=1)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == grouped


def test_precision_is_stated_and_never_left_to_the_device():
    maps, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 4, 4))
    for convolve, weights in [
        (full_convolution, kernel),
        (symmetric_convolution, kernel),
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

    def run(maps, kernel):
        # Finite differences come as NumPy arrays.
        return depthwise_convolution(*map(jnp.asarray, (maps, kernel)), stride=2)

    check_grads(run, (maps, kernel), order=2, modes=["rev"])


def test_vmap_over_pictures_is_the_batch():
    maps, kernel = jnp.asarray(draw(3, 6, 6, 4)), jnp.asarray(draw(3, 3, 1, 4))
    one = jax.vmap(lambda one: depthwise_convolution(one[None], kernel, stride=2)[0])
    expected = depthwise_convolution(maps, kernel, stride=2)
    np.testing.assert_allclose(one(maps), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sides", [(2, 3), (3, 4)])
def test_a_window_without_a_centre_cannot_be_symmetric(sides):
    shown = f"{sides[0]} x {sides[1]}"
    with pytest.raises(ValueError, match=rf"kernel .* odd sides, got {shown}\."):
        symmetric_convolution(
            jnp.zeros((1, 6, 6, 4)), jnp.zeros((*sides, 4, 2)), stride=1
        )
