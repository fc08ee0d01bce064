import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.networks import ResNet, forward, resnet50, resnet101
from experiments.speed import _torch_vgg_resnet as torch_twins

NAMES = tuple(ResNet.strides)
# A block of each kind: first with and without stride, and one that follows.
SMALL = {"depths": (1, 2, 1, 1), "width": 4}
PARITY = "needs the parity extra: pip install torch==2.13.0"


@pytest.fixture(scope="module")
def network():
    return make_small()


def make_small():
    return ResNet(**SMALL, kernel_init=torch_twins.he_normal, rngs=nnx.Rngs(0))


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def twins(network, **settings):
    """The network with the weights of its twin, and the twin."""
    twin = torch_twins.resnet_twin(**settings)
    names = {name: torch_twins.resnet_names(name) for name in network.layers()}
    network = nnx.clone(network)  # Other tests share it.
    torch_twins.copy_weights(network, twin, names)
    return network, twin


def planes_of(network, images):
    torch = pytest.importorskip("torch", reason=PARITY)
    scaled = (images - network.scaling.mean) / network.scaling.std
    return torch.tensor(scaled, dtype=torch.float32).permute(0, 3, 1, 2)


def assert_maps_agree(got, expected):
    for name, planes in zip(NAMES, expected, strict=True):
        values = planes.permute(0, 2, 3, 1).numpy()
        real = got[name][:, : values.shape[1], : values.shape[2]]
        gap = np.abs(real - values).max() / np.abs(values).max()
        assert gap < 1e-4, (name, gap)


@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(64, 64, marks=pytest.mark.full), (47, 33)]
)
def test_every_map_agrees_with_the_same_network_in_torch(network, height, width):
    torch = pytest.importorskip("torch", reason=PARITY)
    network, twin = twins(network, **SMALL)
    # Torch sees the picture alone, ours in a canvas of noise.
    canvas, sizes = pixels(1, 64, 72, 3), jnp.array([[height, width]])
    with torch.inference_mode():
        planes = planes_of(network, canvas[:, :height, :width])
        expected = list(torch_twins.resnet_maps(twin, planes))
    assert_maps_agree(
        forward(network, jnp.asarray(canvas), sizes, names=NAMES), expected
    )


@pytest.mark.full  # The small network above has a block of each kind.
def test_the_whole_resnet50_agrees_with_the_one_in_torch():
    torch = pytest.importorskip("torch", reason=PARITY)
    zeros = nnx.initializers.zeros
    network, twin = twins(resnet50(kernel_init=zeros, rngs=nnx.Rngs(0)))
    images = pixels(1, 64, 64, 3)
    with torch.inference_mode():
        expected = list(torch_twins.resnet_maps(twin, planes_of(network, images)))
    got = forward(network, jnp.asarray(images), jnp.array([[64, 64]]), names=NAMES)
    assert_maps_agree(got, expected)


@jax.jit
def slopes(network, images, sizes):
    """Gradients of the squares of the deepest map, by weights and by pixels."""

    def loss(network, images):
        return (network(images, sizes)["layer4"] ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))(network, images)


@pytest.mark.full
def test_the_gradient_in_pixels_agrees_with_the_one_in_torch(network):
    pytest.importorskip("torch", reason=PARITY)
    network, twin = twins(network, **SMALL)
    images = pixels(1, 40, 40, 3)
    planes = planes_of(network, images[:, :33, :36]).requires_grad_()
    *_, last = torch_twins.resnet_maps(twin, planes)
    last.square().sum().backward()
    # Of scaled planes: over std it is that of pixels.
    expected = planes.grad.permute(0, 2, 3, 1).numpy() / network.scaling.std
    _, got = slopes(network, jnp.asarray(images), jnp.array([[33, 36]]))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got[:, :33, :36], expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.full
@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(32, 64, marks=pytest.mark.full), (37, 51)]
)
def test_a_padded_picture_gets_the_maps_it_gets_alone(network, height, width):
    picture = pixels(height, width, 3)
    canvas = np.full((1, 64, 72, 3), np.nan, np.float32)
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


@settings(deadline=None, max_examples=8)
@given(height=st.integers(32, 64), width=st.integers(32, 72))
def test_the_padding_has_no_influence(network, height, width):
    sizes, picture = jnp.array([[height, width]]), pixels(1, height, width, 3)
    zeros, noise = np.zeros((1, 64, 72, 3), np.float32), pixels(1, 64, 72, 3)[:, ::-1]
    got = []
    for canvas in (zeros, noise.copy()):
        canvas[:, :height, :width] = picture
        images = jnp.asarray(canvas)
        got.append(forward(network, images, sizes, names=NAMES))
    for name in NAMES:
        np.testing.assert_array_equal(got[0][name], got[1][name], err_msg=name)


@pytest.fixture(scope="module")
def outline():
    shallow = {"depths": (1, 1, 1, 1), "width": 1}
    return nnx.eval_shape(lambda: ResNet(**shallow, rngs=nnx.Rngs(0)))


@settings(deadline=None, max_examples=5)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_real_cells_are_the_ones_that_a_picture_gets_alone(outline, height, width):
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    pairs = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    maps = jax.eval_shape(lambda n, *a: n(*a), outline, image, pairs)
    for name in NAMES:
        (cells,) = outline.cells(name, np.array([[height, width]]))
        assert maps[name].shape[1:3] == tuple(cells), name


@pytest.mark.parametrize(
    ("make", "weights", "layers"),
    # Torchvision counts 25,557,032 and 44,549,160: of these are 2048 * 1000 + 1000 in
    # the classifier, and folding leaves one number of a batch norm's two (26,560 and
    # 52,672 channels that are normalised).
    [
        (resnet50, 25_557_032 - 2_049_000 - 26_560, 53),
        (resnet101, 44_549_160 - 2_049_000 - 52_672, 104),
    ],
)
def test_the_known_networks_have_the_known_weights(make, weights, layers):
    network = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    named = network.layers()
    count = sum(layer.kernel.size + layer.bias.size for layer in named.values())
    assert (len(named), count) == (layers, weights)
    widths = {name.partition(".")[0]: layer.bias.size for name, layer in named.items()}
    # The last convolution of each layer sets its channels.
    assert list(widths.values()) == [64, 256, 512, 1024, 2048]


def test_maps_have_the_stated_strides_and_channels():
    shallow = {"depths": (1, 1, 1, 1), "width": 64}
    network = nnx.eval_shape(lambda: ResNet(**shallow, rngs=nnx.Rngs(0)))
    shape = jax.ShapeDtypeStruct((2, 224, 256, 3), jnp.uint8)
    pairs = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    maps = jax.eval_shape(lambda n, *a: n(*a), network, shape, pairs)
    channels = dict(zip(NAMES, (64, 64, 256, 512, 1024, 2048), strict=True))
    for name, stride in ResNet.strides.items():
        assert maps[name].shape == (2, 224 // stride, 256 // stride, channels[name])


def test_layers_have_the_usual_names(network):
    assert list(network.layers())[:10] == [
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.0.conv3",
        "layer1.0.downsample",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.conv3",
        "layer2.0.downsample",
        "layer2.1.conv1",
    ]


def test_the_stride_is_that_of_the_middle_convolution(network):
    strides = {name: layer.stride for name, layer in network.layers().items()}
    assert {name for name, stride in strides.items() if stride == 2} == {
        "conv1",
        *(f"layer{n}.0.{name}" for n in (2, 3, 4) for name in ("conv2", "downsample")),
    }


@pytest.mark.full
def test_eager_and_compiled_answers_agree(network):
    block = network.blocks[1][0]  # With a stride, so a convolution beside the others.
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 16)), jnp.float32)
    sizes = jnp.array([[9, 5], [7, 8]])
    compiled = jax.jit(lambda block, maps, sizes: block(maps, sizes))
    np.testing.assert_allclose(
        block(maps, sizes), compiled(block, maps, sizes), rtol=1e-5, atol=1e-5
    )


@pytest.mark.full
def test_gradients_reach_pixels_and_kernels_and_nothing_beyond_the_picture(network):
    images, sizes = jnp.asarray(pixels(1, 40, 40, 3)), jnp.array([[33, 36]])
    by_weights, by_pixels = slopes(network, images, sizes)
    inside, by_pixels = by_pixels[:, :33, :36], by_pixels.at[:, :33, :36].set(0)
    assert np.isfinite(inside).all()
    assert (inside != 0).mean() > 0.9
    np.testing.assert_array_equal(by_pixels, 0)
    for name, layer in by_weights.layers().items():
        assert (layer.kernel[...] != 0).any(), name
        assert (layer.bias[...] != 0).any(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (1, 1, 1)}, r"depths .* four numbers .*, got \(1, 1, 1\)\."),
        ({"depths": (1, 0, 1, 1)}, r"depths .* at least 1, got \(1, 0, 1, 1\)\."),
        ({"width": 0}, r"width must be at least 1, got 0\."),
    ],
)
def test_impossible_depths_and_widths_are_refused(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ResNet(**settings, rngs=nnx.Rngs(0))
