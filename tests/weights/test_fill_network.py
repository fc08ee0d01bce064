import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax.networks import VGG16, EfficientNetLite0, ResNet, _vgg, forward
from diffjax.weights._formats import read_checkpoint
from diffjax.weights._load import fill_network
from diffjax.weights._names import detect_name_map, resnet_name_maps, vgg16_name_maps
from diffjax.weights._zoo import efficientnet_lite0_path, load_efficientnet_lite0

DEPTHS = (1, 2, 1, 1)
WIDTH = 4
# torchvision's strides: of the 3 x 3 convolution and the shortcut.
STRIDES = {"1": 1, "2": 2, "3": 2, "4": 2}


@pytest.fixture(scope="module")
def resnet_tensors():
    """A narrow ResNet in torchvision's names, with batch norms that do something."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (WIDTH, 3, 7, 7)}
    norms = {"bn1": WIDTH}
    channels = WIDTH
    for number, depth in enumerate(DEPTHS, start=1):
        inner = WIDTH * 2 ** (number - 1)
        for block in range(depth):
            at = f"layer{number}.{block}."
            shapes[f"{at}conv1"] = inner, channels, 1, 1
            shapes[f"{at}conv2"] = inner, inner, 3, 3
            shapes[f"{at}conv3"] = 4 * inner, inner, 1, 1
            norms |= {f"{at}bn1": inner, f"{at}bn2": inner, f"{at}bn3": 4 * inner}
            if block == 0:
                shapes[f"{at}downsample.0"] = 4 * inner, channels, 1, 1
                norms[f"{at}downsample.1"] = 4 * inner
            channels = 4 * inner
    tensors = {
        f"{name}.weight": rng.normal(size=s, scale=np.prod(s[1:]) ** -0.5)
        for name, s in shapes.items()
    }
    for name, size in norms.items():
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, size)
        tensors[f"{name}.bias"] = rng.normal(size=size)
        tensors[f"{name}.running_mean"] = rng.normal(size=size)
        # Some are as small as epsilon, which must therefore be the right one.
        tensors[f"{name}.running_var"] = rng.choice([1e-5, 0.5, 2.0], size)
        tensors[f"{name}.num_batches_tracked"] = np.array(7)
    return {
        name: tensor.astype(np.float32) if tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


def in_cirtorch_names(tensors, prefix):
    """The children of torchvision's network in a row: conv1, bn1, ReLU, pooling, ..."""
    positions = {"conv1": 0, "bn1": 1} | {f"layer{k}": k + 3 for k in (1, 2, 3, 4)}
    renamed = {}
    for name, tensor in tensors.items():
        child, _, rest = name.partition(".")
        renamed[f"{prefix}{positions[child]}.{rest}"] = tensor
    return renamed


def unfolded_maps(tensors, pixels):
    """The ResNet's maps by explicit batch norms, in NumPy and float64."""

    def windows(x, size, stride):
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return view[:, ::stride, ::stride]

    def pad(x, size, value=0.0):
        margin = (size // 2,) * 2
        return np.pad(x, ((0, 0), margin, margin), constant_values=value)

    def convolve(x, name, stride=1):
        kernel = tensors[f"{name}.weight"].astype(np.float64)
        size = kernel.shape[2]
        inputs = windows(pad(x, size), size, stride)
        return np.tensordot(kernel, inputs, axes=((1, 2, 3), (0, 3, 4)))

    def normalise(x, name):
        gain, offset, mean, variance = (
            tensors[f"{name}.{key}"].astype(np.float64)[:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gain + offset

    def relu(x):
        return np.maximum(x, 0)

    x = relu(normalise(convolve(pixels.transpose(2, 0, 1), "conv1", 2), "bn1"))
    maps = {"conv1": x}
    x = maps["pool1"] = windows(pad(x, 3, -np.inf), 3, 2).max((3, 4))
    for number, depth in enumerate(DEPTHS, start=1):
        for block in range(depth):
            at = f"layer{number}.{block}."
            stride = STRIDES[str(number)] if block == 0 else 1
            y = relu(normalise(convolve(x, f"{at}conv1"), f"{at}bn1"))
            y = relu(normalise(convolve(y, f"{at}conv2", stride), f"{at}bn2"))
            y = normalise(convolve(y, f"{at}conv3"), f"{at}bn3")
            if block == 0:
                x = convolve(x, f"{at}downsample.0", stride)
                x = normalise(x, f"{at}downsample.1")
            x = relu(x + y)
        maps[f"layer{number}"] = x
    return {name: x.transpose(1, 2, 0) for name, x in maps.items()}


@functools.cache
def _narrow_shapes():
    return nnx.eval_shape(lambda: ResNet(depths=DEPTHS, width=WIDTH, rngs=nnx.Rngs(0)))


def narrow_resnet():
    """A narrow ResNet of shapes alone, which `fill_network` gives weights."""
    return nnx.clone(_narrow_shapes())


def test_a_resnet_of_every_name_map_gives_the_maps_of_explicit_batch_norms(
    resnet_tensors,
):
    tables = {table.name: table for table in resnet_name_maps(DEPTHS)}
    files = {
        "torchvision": resnet_tensors,
        "cirtorch": in_cirtorch_names(resnet_tensors, "features."),
        "cirtorch-features": in_cirtorch_names(resnet_tensors, ""),
    }
    assert set(files) == set(tables)
    image = np.random.default_rng(1).integers(0, 256, (48, 72, 3)).astype(np.uint8)
    colours = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = unfolded_maps(resnet_tensors, colours)
    images, sizes = jnp.asarray(image[None]), jnp.array([[48, 72]])
    names = tuple(ResNet.strides)
    for table_name, tensors in files.items():
        network = narrow_resnet()
        fill_network(network, tensors, tables[table_name])
        got = forward(network, images, sizes, names=names)
        for name in names:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                *(got[name][0], expected[name]),
                rtol=0,
                atol=1e-5 * scale,
                err_msg=f"{table_name} {name}",
            )


def test_every_tensor_is_used_once_or_listed_as_unused(resnet_tensors, unchecked):
    used = collections.Counter()

    class Counted(dict):
        def __getitem__(self, name):
            used[name] += 1
            return super().__getitem__(name)

    (table, *_) = resnet_name_maps(DEPTHS)
    fill_network(narrow_resnet(), Counted(resnet_tensors), table)
    for name in resnet_tensors:
        assert used[name] == (not table.is_ignored(name)), name


def test_filling_gives_the_same_network_whatever_weights_it_had(resnet_tensors):
    (table, *_) = resnet_name_maps(DEPTHS)
    network = narrow_resnet()
    fill_network(network, resnet_tensors, table)
    first = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(network))]
    for layer in network.layers().values():
        for parameter in (layer.kernel, layer.bias):
            parameter.set_value(jnp.asarray(np.asarray(parameter[...]) + 1))
    fill_network(network, resnet_tensors, table)
    second = jax.tree.leaves(nnx.state(network))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_folding_is_done_in_double_precision(resnet_tensors):
    (table, *_) = resnet_name_maps(DEPTHS)
    network = narrow_resnet()
    fill_network(network, resnet_tensors, table)
    gain, offset, mean, variance = (
        resnet_tensors[f"bn1.{field}"].astype(np.float64)
        for field in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + 1e-5)
    kernel = resnet_tensors["conv1.weight"].transpose(2, 3, 1, 0) * scale
    np.testing.assert_array_equal(network.conv1.kernel[...], kernel.astype(np.float32))
    bias = (offset - mean * scale).astype(np.float32)
    np.testing.assert_array_equal(network.conv1.bias[...], bias)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "layer2.1.conv2.weight",
            lambda x: x[..., :2],
            "here: tensor layer2.1.conv2.weight must have shape (8, 8, 3, 3), got (8,",
        ),
        # A matrix stands for a convolution of one cell only.
        (
            "layer2.1.conv2.weight",
            lambda x: x[..., 0, 0],
            "must have shape (8, 8, 3, 3), got (8, 8).",
        ),
        ("bn1.bias", lambda x: x[:, None], "bn1.bias must have shape (4,), got (4, 1)"),
        (
            "conv1.weight",
            lambda x: np.where(np.arange(7) == 3, np.nan, x),
            "infinite or larger numbers in tensor conv1.weight.",
        ),
        ("bn1.running_var", lambda x: x + np.inf, "in tensor bn1.running_var."),
        ("bn1.bias", lambda x: x + np.float64(1e39), "in tensor bn1.bias."),
        (
            "layer4.0.bn3.running_var",
            lambda x: x - 9,
            "here: batch norm layer4.0.bn3 does not fit: variance must be at least 0",
        ),
        (
            "conv1.weight",
            lambda x: x.astype(np.int8),
            "here: tensor conv1.weight must be of floating point, got int8.",
        ),
    ],
)
def test_tensors_of_other_shapes_or_impossible_values_are_refused(
    resnet_tensors, unchecked, name, change, said
):
    tensors = resnet_tensors | {name: change(resnet_tensors[name])}
    (table, *_) = resnet_name_maps(DEPTHS)
    with pytest.raises(ValueError, match=re.escape(said)):
        fill_network(narrow_resnet(), tensors, table, source="here")


def vgg16_tensors(network):
    """Weights for a VGG16 by torchvision's names; most are 0, for speed."""
    rng = np.random.default_rng(0)
    # Convolution, ReLU; a pooling after the second, fourth, seventh, tenth.
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    tensors = {}
    for position, layer in zip(positions, network.layers().values(), strict=True):
        rows, columns, inputs, outputs = layer.kernel.shape
        kernel = np.zeros((outputs, inputs, rows, columns), np.float32)
        kernel[:, :8] = rng.normal(size=kernel[:, :8].shape, scale=0.2)
        tensors[f"features.{position}.weight"] = kernel
        tensors[f"features.{position}.bias"] = rng.normal(size=outputs).astype(
            np.float32
        )
    return tensors


def assert_holds(network, tensors):
    """The network has these weights, which come in the order of its layers."""
    values = iter(tensors.values())
    for name, layer in network.layers().items():
        kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
        assert (kernel == next(values)).all(), name
        assert (layer.bias[...] == next(values)).all(), name


def test_a_vgg16_of_every_name_map_has_the_weights_of_the_file(monkeypatch):
    narrow = ((2,) * 2, (3,) * 2, (4,) * 3, (5,) * 3, (6,) * 3)
    monkeypatch.setattr(_vgg, "_BLOCKS", narrow)
    shapes = nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0)))
    tensors = vgg16_tensors(shapes)
    layer_names = [
        f"{name}.{key}" for name in shapes.layers() for key in ("weight", "bias")
    ]
    renamed = {
        "cirtorch-features": [name.removeprefix("features.") for name in tensors],
        "matconvnet": layer_names,
    }
    for table in vgg16_name_maps():
        names = renamed.get(table.name, list(tensors))
        network = nnx.clone(shapes)
        fill_network(network, dict(zip(names, tensors.values(), strict=True)), table)
        assert_holds(network, tensors)


def test_efficientnet_by_the_names_of_timm():
    # The same weights by timm's names, translated line by line.
    repeats = (1, 2, 2, 3, 3, 4, 1)
    blocks = [f"{s}.{r}" for s, size in enumerate(repeats) for r in range(size)]
    tensors = {}
    for name, tensor in read_checkpoint(efficientnet_lite0_path()).tensors.items():
        new = re.sub("^_conv_stem", "conv_stem", name)
        new = re.sub("^_conv_head", "conv_head", new)
        new = re.sub(r"^_bn(\d)", lambda m: f"bn{int(m[1]) + 1}", new)
        new = re.sub("^_fc", "classifier", new)
        if parts := re.match(r"_blocks\.(\d+)\._(.*)", name):
            first = parts[1] == "0"
            inner = parts[2].replace("expand_conv", "conv_pw")
            inner = inner.replace("depthwise_conv", "conv_dw")
            inner = inner.replace("project_conv", "conv_pw" if first else "conv_pwl")
            shift = 0 if first else 1
            inner = re.sub(r"^bn(\d)", lambda m: f"bn{int(m[1]) + shift}", inner)  # noqa: B023  # Called at once.
            new = f"blocks.{blocks[int(parts[1])]}.{inner}"
        tensors[new] = tensor
    # The same classifier as a convolution of one cell.
    tensors["classifier.weight"] = tensors["classifier.weight"][:, :, None, None]
    table = detect_name_map("efficientnet-lite0", tensors)
    assert table.name == "timm"
    network = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    fill_network(network, tensors, table)
    expected = load_efficientnet_lite0()
    jax.tree.map(np.testing.assert_array_equal, nnx.state(network), nnx.state(expected))
