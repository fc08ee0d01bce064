import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax.networks import (
    VGG16,
    EfficientNetLite0,
    Network,
    PixelScaling,
    ResNet,
    _resnet,
    forward,
)
from experiments.speed import _torch_vgg_resnet as torch_twins

NETWORKS = [VGG16, ResNet, EfficientNetLite0]
CUSTOM = PixelScaling((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@functools.cache
def small(seed=0):
    draw = torch_twins.he_normal
    return ResNet(depths=(1, 1, 1, 1), width=4, kernel_init=draw, rngs=nnx.Rngs(seed))


@functools.cache
def outline(network, scaling=CUSTOM):
    """A network of shapes alone, without weights."""
    return nnx.eval_shape(lambda: network(rngs=nnx.Rngs(0), scaling=scaling))


def images_of(*shape):
    numbers = np.random.default_rng(0).integers(0, 256, (*shape, 3))
    return jnp.asarray(numbers.astype(np.uint8))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_follows_the_protocol(network):
    outlined = outline(network)
    assert isinstance(outlined, Network)
    assert outlined.scaling == CUSTOM
    shapes = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.float32)
    pairs = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    maps = jax.eval_shape(lambda n, *a: n(*a), outlined, shapes, pairs)
    assert set(maps) == set(outlined.strides)
    for name, stride in outlined.strides.items():
        assert maps[name].shape[:3] == (2, 96 // stride, 64 // stride)
        cells = outlined.cells(name, np.array([[96, 64]]))
        np.testing.assert_array_equal(cells, [[96 // stride, 64 // stride]])
    # Every weight has a name, and the deepest map is the last.
    layers = outlined.layers().values()
    assert len(jax.tree.leaves(nnx.state(outlined))) == 2 * len(layers)
    assert list(outlined.strides.values())[-1] == max(outlined.strides.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_without_a_name_the_deepest_map_is_computed_and_a_batch_may_be_empty(network):
    outlined, sizes = outline(network), jnp.zeros((0, 2), jnp.int32)
    images = images_of(0, 64, 32)
    maps = jax.eval_shape(lambda n, i: forward(n, i, sizes), outlined, images)
    deepest = list(outlined.strides)[-1]
    assert list(maps) == [deepest]
    stride = outlined.strides[deepest]
    assert maps[deepest].shape[:3] == (0, 64 // stride, 32 // stride)


@pytest.mark.parametrize("network", NETWORKS)
def test_unknown_names_of_maps_are_refused(network):
    first = next(iter(network.strides))
    message = rf"names must be among {first}, .*, got \['neck'\]\."
    with pytest.raises(ValueError, match=message):
        forward(
            outline(network),
            images_of(1, 64, 64),
            jnp.array([[64, 64]]),
            names=(first, "neck"),
        )


@pytest.mark.parametrize(
    ("network", "name", "sizes", "rule"),
    [
        (VGG16, "pool5", (31, 40), "from 32 px, one cell of 'pool5', to"),
        (VGG16, "conv5_3", (15, 40), "from 16 px, one cell of 'conv5_3', to"),
        (VGG16, "pool5", (64, 81), "to the canvas, 64 x 80"),
        (ResNet, "layer4", (64, 31), "from 32 px, one cell of 'layer4', to"),
        (ResNet, "conv1", (1, 40), "from 2 px, one cell of 'conv1', to"),
        (ResNet, "conv1", (65, 40), "to the canvas, 64 x 80"),
        (VGG16, "conv1_1", (0, 40), "from 1 px, one cell of 'conv1_1', to"),
    ],
)
def test_sizes_below_a_cell_or_beyond_the_canvas_are_refused(
    network, name, sizes, rule
):
    shown = f"got {sizes[0]} x {sizes[1]}."
    message = rf"sizes must be .*{re.escape(rule)}.*{re.escape(shown)}"
    with pytest.raises(ValueError, match=message):
        forward(
            outline(network),
            images_of(2, 64, 80),
            jnp.array([[64, 80], sizes]),
            names=(next(iter(network.strides)), name),
        )


def test_sizes_off_the_grid_are_refused():
    message = r"sizes must be multiples of 32 px from 32 px.*, got 64 x 48\."
    with pytest.raises(ValueError, match=message):
        forward(outline(EfficientNetLite0), images_of(1, 64, 64), jnp.array([[64, 48]]))


def test_a_canvas_off_the_grid_is_refused():
    message = r"images .* multiples of 32 px, got 64 x 80\."
    with pytest.raises(ValueError, match=message):
        forward(outline(EfficientNetLite0), images_of(1, 64, 80), jnp.array([[64, 64]]))


@pytest.mark.parametrize("shape", [(1, 64, 64, 1), (64, 64, 3)])
def test_images_without_a_batch_of_three_channels_are_refused(shape, unchecked):
    # One channel would be taken for three.
    message = rf"images must have shape .*, got {re.escape(str(shape))}\."
    with pytest.raises(ValueError, match=message):
        forward(outline(ResNet), jnp.zeros(shape), jnp.array([[64, 64]]))


def test_sizes_of_another_number_of_pictures_are_refused(unchecked):
    # One pair for two pictures would be taken for both.
    message = r"sizes must have shape \(2, 2\), .*, got \(1, 2\)\."
    with pytest.raises(ValueError, match=message):
        forward(outline(ResNet), images_of(2, 64, 64), jnp.array([[64, 64]]))


# One shape for all programs, so that few are compiled.
SHAPE = (3, 40, 40)
SIZES = ((40, 40), (37, 33), (32, 40))


def test_a_second_call_or_other_weights_compile_nothing(monkeypatch):
    images, sizes = images_of(*SHAPE), jnp.array(SIZES)
    first = forward(small(), images, sizes)["layer4"]
    monkeypatch.delattr(
        _resnet, "mask_padding"
    )  # Traced again, the network would call it.
    forward(small(), images + 1, sizes)
    second = forward(small(seed=1), images, sizes)["layer4"]
    assert (first != second).any()  # The weights are arguments: the change is seen.
    with pytest.raises(NameError):
        forward(small(), images[:2], sizes[:2])


def test_layers_after_the_named_maps_are_not_computed():
    def work(name):
        run = functools.partial(forward, names=(name,))
        sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        compiled = jax.jit(run).lower(small(), images_of(1, 32, 32), sizes).compile()
        costs = compiled.cost_analysis()
        assert costs is not None
        return costs["flops"]

    assert work("conv1") < work("layer1")


def test_the_maps_of_a_picture_do_not_depend_on_its_batch_mates():
    network, images, sizes = small(), images_of(*SHAPE), jnp.array(SIZES)
    others, turned = images[::-1].at[1].set(images[1]), sizes[::-1]
    first = forward(network, images, sizes)["layer4"]
    second = forward(network, others, turned)["layer4"]
    np.testing.assert_array_equal(first[1], second[1])


def test_bytes_and_floats_give_the_same_maps():
    network, images, sizes = small(), images_of(*SHAPE), jnp.array(SIZES)
    from_bytes = forward(network, images, sizes)["layer4"]
    from_floats = forward(network, images.astype(jnp.float32), sizes)["layer4"]
    np.testing.assert_allclose(from_floats, from_bytes, rtol=1e-5, atol=1e-5)


def test_traced_sizes_are_not_checked():
    sizes = jax.ShapeDtypeStruct((3, 2), jnp.int32)
    maps = jax.eval_shape(forward, small(), images_of(*SHAPE), sizes)
    assert maps["layer4"].shape == (3, 2, 2, 128)


def test_pixels_are_scaled_channel_by_channel():
    # By hand: (9 - 1) / 4, (12 - 2) / 5, (15 - 3) / 6.
    pixel = jnp.array([9, 12, 15], jnp.uint8)[None, None, None]
    np.testing.assert_array_equal(CUSTOM.apply(pixel)[0, 0, 0], [2, 2, 2])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "scaling",
    [
        ((0, 0, 0), (1, 0, 1)),
        ((0, 0, 0), (1, np.nan, 1)),
        ((0, np.inf, 0), (1, 1, 1)),
        ((0, 0), (1, 1, 1)),
    ],
)
def test_an_impossible_scaling_is_refused(network, scaling, unchecked):
    with pytest.raises(ValueError, match=r"scaling must have .*, got mean .* and std"):
        outline(network, scaling=PixelScaling(*scaling))
