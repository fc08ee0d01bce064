import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.networks import VGG16, PixelScaling, forward
from experiments.speed import _torch_vgg_resnet as torch_twins

NAMES = tuple(VGG16.strides)
# Of ImageNet's training pictures, as torchvision states them for 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Positions of the convolutions in torchvision's list of layers.
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def network():
    return VGG16(kernel_init=torch_twins.he_normal, rngs=nnx.Rngs(0))


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def test_every_map_agrees_with_the_same_network_in_torch(network):
    torch = pytest.importorskip(
        "torch", reason="needs the parity extra: pip install torch==2.13.0"
    )
    twin = torch_twins.vgg16_twin()
    names = [(f"features.{position}", None) for position in POSITIONS]
    network = nnx.clone(network)  # Other tests share it.
    torch_twins.copy_weights(
        network, twin, dict(zip(network.layers(), names, strict=True))
    )
    # Odd sides; torch sees the picture alone, ours in a canvas of noise.
    canvas = pixels(1, 64, 64, 3)
    scaled = (canvas[:, :51, :37] - network.scaling.mean) / network.scaling.std
    planes = torch.tensor(scaled, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = [
            maps.permute(0, 2, 3, 1).numpy()
            for maps in torch_twins.vgg16_maps(twin, planes)
        ]
    got = forward(network, jnp.asarray(canvas), jnp.array([[51, 37]]), names=NAMES)
    for name, values in zip(NAMES, expected, strict=True):
        real = got[name][:, : values.shape[1], : values.shape[2]]
        gap = np.abs(real - values).max() / np.abs(values).max()
        assert gap < 1e-4, (name, gap)


@pytest.mark.full
@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(64, 32, marks=pytest.mark.full), (37, 50)]
)
def test_a_padded_picture_gets_the_maps_it_gets_alone(network, height, width):
    picture = pixels(height, width, 3)
    canvas = np.full((1, 64, 64, 3), np.nan, np.float32)
    canvas[0, :height, :width] = picture
    sizes = jnp.array([[height, width]])
    alone = forward(network, jnp.asarray(picture[None]), sizes, names=NAMES)
    padded = forward(network, jnp.asarray(canvas), sizes, names=NAMES)
    for name, expected in alone.items():
        rows, columns = network.cells(name, np.asarray(sizes))[0]
        assert expected.shape[1:3] == (rows, columns), name
        scale = float(jnp.abs(expected).max())
        got = np.array(padded[name])
        np.testing.assert_allclose(
            got[:, :rows, :columns], expected, rtol=0, atol=1e-5 * scale, err_msg=name
        )
        got[:, :rows, :columns] = 0
        np.testing.assert_array_equal(got, 0, err_msg=name)


@pytest.fixture(scope="module")
def outline():
    return nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0)))


@settings(deadline=None, max_examples=5)
@given(height=st.integers(32, 300), width=st.integers(32, 300))
def test_real_cells_are_the_ones_that_a_picture_gets_alone(outline, height, width):
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    pairs = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    maps = jax.eval_shape(lambda n, *a: n(*a), outline, image, pairs)
    for name in NAMES:
        (cells,) = outline.cells(name, np.array([[height, width]]))
        assert maps[name].shape[1:3] == tuple(cells), name


def test_maps_have_the_channels_of_configuration_d(network):
    shape = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
    sizes = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    maps = jax.eval_shape(lambda n, *a: n(*a), network, shape, sizes)
    depths = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
    assert len(maps) == 13 + 5
    for name, got in maps.items():
        side = 224 // VGG16.strides[name]
        block = int(name.removeprefix("conv").removeprefix("pool")[0])
        assert got.shape == (2, side, side, depths[block]), name


def test_layers_are_the_convolutions_by_name(network):
    layers = network.layers()
    assert list(layers) == [name for name in NAMES if name.startswith("conv")]
    weights = sum(layer.kernel.size + layer.bias.size for layer in layers.values())
    assert weights == 14_714_688  # What is known of VGG16's convolutions.
    assert layers["conv5_3"].kernel.shape == (3, 3, 512, 512)


@pytest.mark.full
def test_eager_and_compiled_answers_agree(network):
    images, sizes = jnp.asarray(pixels(1, 64, 64, 3)), jnp.array([[33, 64]])
    eager = network(images, sizes)
    compiled = forward(network, images, sizes, names=NAMES)
    for name, expected in eager.items():
        scale = float(expected.max())
        np.testing.assert_allclose(
            compiled[name], expected, rtol=0, atol=1e-5 * scale, err_msg=name
        )


@pytest.mark.full
def test_gradients_reach_pixels_and_kernels_and_nothing_beyond_the_picture(network):
    images, sizes = jnp.asarray(pixels(1, 40, 40, 3)), jnp.array([[33, 36]])

    @jax.jit
    def slopes(network, images):
        def loss(network, images):
            return network(images, sizes)["pool2"].sum()

        return jax.grad(loss, argnums=(0, 1))(network, images)

    by_weights, by_pixels = slopes(network, images)
    inside, by_pixels = by_pixels[:, :33, :36], by_pixels.at[:, :33, :36].set(0)
    assert np.isfinite(inside).all()
    assert (inside != 0).mean() > 0.9
    np.testing.assert_array_equal(by_pixels, 0)
    for name, layer in by_weights.layers().items():
        reached = name < "conv3"
        assert bool((layer.kernel[...] != 0).any()) == reached, name
        assert bool((layer.bias[...] != 0).any()) == reached, name


def test_a_custom_scaling_replaces_the_usual_one(network):
    # Mean 10 and std 2 on x is the usual scaling on what gives the same numbers.
    custom = nnx.clone(network)
    custom.scaling = PixelScaling(mean=(10.0, 10.0, 10.0), std=(2.0, 2.0, 2.0))
    images, sizes = jnp.asarray(pixels(1, 32, 32, 3)), jnp.array([[32, 32]])
    mean, std = (
        255 * np.array(numbers, np.float32)[None, None, None] for numbers in (MEAN, STD)
    )
    moved = (images - 10) / 2 * std + mean
    got = forward(custom, images, sizes, names=("conv1_1",))["conv1_1"]
    expected = forward(network, moved, sizes, names=("conv1_1",))["conv1_1"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)
