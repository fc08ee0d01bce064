import functools
import hashlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from matlab_files import write_5

from diffjax.networks import (
    VGG16,
    EfficientNetLite0,
    PixelScaling,
    ResNet,
    _vgg,
    forward,
    resnet50,
)
from diffjax.regions import whiten
from diffjax.weights import _load as loading
from diffjax.weights._checkpoint import Checkpoint
from diffjax.weights._load import (
    load_network,
    network_names,
    read_gem_power,
    read_pixel_scaling,
    read_whitenings,
)
from diffjax.weights._names import resnet_name_maps, vgg16_name_maps
from diffjax.weights._zoo import efficientnet_lite0_path

DIM = 6


def checkpoint(tensors=(), **meta):
    return Checkpoint(dict(tensors), {"meta": meta} if meta else {}, "here")


def layer(weight, bias):
    return checkpoint({"whiten.weight": weight, "whiten.bias": bias})


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, DIM))
def test_the_whitening_of_a_learned_layer_gives_the_output_of_the_layer(seed, size):
    rng = np.random.default_rng(seed)
    # Rows of lengths 1 and above at right angles, turned: the mean stays small.
    turn, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    weight = (rng.uniform(1, 30, (size, 1)) * turn[:size]).astype(np.float32)
    bias = rng.normal(size=size).astype(np.float32)
    (name, whitening), *others = read_whitenings(layer(weight, bias)).items()
    assert (name, others) == ("end-to-end", [])
    assert whitening.projection.shape == (DIM, size)
    vectors = rng.normal(size=(5, DIM)).astype(np.float32)
    expected = vectors.astype(np.float64) @ weight.T + bias
    mean, projection = map(np.asarray, whitening)
    got = (vectors - mean) @ projection
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_is_the_smallest_that_gives_the_bias():
    # W (x - m) with W = (2 0 0; 0 4 0): m = -(b1 / 2, b2 / 4, anything), so 0 there.
    weight = np.array([[2, 0, 0], [0, 4, 0]], np.float32)
    got = read_whitenings(layer(weight, np.array([6, 8], np.float32)))["end-to-end"]
    np.testing.assert_allclose(got.mean, [-3, -2, 0], atol=1e-6)
    np.testing.assert_array_equal(got.projection, weight.T)


def test_a_layer_without_full_row_rank_is_refused_unless_a_mean_exists():
    weight = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    message = "here: whiten.bias must be -W m .* full row rank; got .* off by"
    with pytest.raises(ValueError, match=message):
        read_whitenings(layer(weight, np.array([1, 1, 3], np.float32)))
    # 1 + 1 = 2: this one has a mean.
    got = read_whitenings(layer(weight, np.array([1, 1, 2], np.float32)))["end-to-end"]
    np.testing.assert_allclose(got.mean, [-1, -1], rtol=1e-6)
    # A bias of 0 always has one.
    got = read_whitenings(layer(weight, np.zeros(3, np.float32)))["end-to-end"]
    np.testing.assert_array_equal(got.mean, 0)


def test_a_mean_too_large_for_single_precision_is_refused():
    # m = (0, -1e7): W m is -1e7 + 1e7 in its first row, and loses what is small.
    weight = np.array([[1, 1], [1, 1 + 1e-7]])
    with pytest.raises(ValueError, match="full row rank"):
        read_whitenings(layer(weight, np.array([0.3, 1.3])))


@pytest.mark.parametrize("column", [True, False], ids=["column", "vector"])
def test_fitted_whitenings_are_applied_as_cirtorch_does(column):
    rng = np.random.default_rng(0)
    shape = (DIM, 1) if column else (DIM,)
    fitted = {
        kind: {"m": rng.normal(size=shape), "P": rng.normal(size=(size, DIM))}
        for kind, size in (("ss", DIM), ("ms", 4))
    }
    whitenings = read_whitenings(checkpoint(Lw={"SfM-30k": fitted, "SfM-120k": {}}))
    assert list(whitenings) == ["SfM-30k/ss", "SfM-30k/ms"]
    # In cirtorch a vector is a column: P (x - m), divided by its length.
    vectors = rng.normal(size=(DIM, 3)).astype(np.float32)
    for kind, arrays in fitted.items():
        expected = arrays["P"] @ (vectors - arrays["m"].reshape(DIM, 1))
        expected /= np.linalg.norm(expected, axis=0)
        got = whiten(jnp.asarray(vectors.T), whitenings[f"SfM-30k/{kind}"])
        np.testing.assert_allclose(got, expected.T, rtol=1e-5, atol=1e-5)


def test_a_file_without_whitenings_power_and_scaling_has_none():
    for empty in (checkpoint(), checkpoint(architecture="vgg16"), checkpoint(Lw={})):
        assert read_whitenings(empty) == {}
        assert read_gem_power(empty) is None
        assert read_pixel_scaling(empty) is None


def test_colours_from_0_to_1_are_scaled_to_255():
    got = read_pixel_scaling(
        checkpoint(mean=[0.2, 0.4, 0.6], std=np.array([1, 2, 3.0]))
    )
    assert got == PixelScaling((51, 102, 153), (255, 510, 765))


@pytest.mark.parametrize("shape", [(1,), ()])
def test_the_power_is_a_number(shape):
    power = read_gem_power(checkpoint({"pool.p": np.full(shape, 2.5, np.float32)}))
    assert isinstance(power, float)
    assert power == 2.5


@pytest.mark.parametrize(
    "tensor", [np.zeros(1), -np.ones(1), np.ones(2), np.array([np.nan])]
)
def test_an_impossible_power_is_refused(tensor):
    with pytest.raises(ValueError, match=r"here: pool\.p must be"):
        read_gem_power(checkpoint({"pool.p": tensor}))


SQUARE = np.eye(2)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (checkpoint({"whiten.weight": SQUARE}), "whiten.bias is missing"),
        (checkpoint({"whiten.bias": np.ones(2)}), "whiten.weight is missing"),
        (layer(SQUARE, np.ones(3)), "a vector that fit, got shapes (2, 2) and (3,)"),
        (layer(np.ones((2, 2, 1)), np.ones(2)), "must be a matrix"),
        (layer(np.ones((0, 2)), np.ones(0)), "must be a matrix"),
        (layer(SQUARE * np.nan, np.ones(2)), "whiten.weight must be finite"),
        (layer(SQUARE, np.array([1, np.inf])), "whiten.bias must be finite"),
        (checkpoint(Lw=[1]), "Lw must be a mapping, got a list"),
        (checkpoint(Lw={"a": 3}), "Lw a must be a mapping, got a int"),
        (checkpoint(Lw={"a": {"ss": SQUARE}}), "Lw a/ss must be a mapping"),
        (checkpoint(Lw={"a": {"ss": {"m": np.ones(2)}}}), "P of Lw a/ss is missing"),
        (
            checkpoint(Lw={"a": {"ms": {"m": np.ones(3), "P": SQUARE}}}),
            "Lw a/ms must be a matrix and a vector that fit, got shapes (2, 2)",
        ),
        (
            checkpoint(Lw={"a": {"ss": {"m": "mean", "P": SQUARE}}}),
            "m of Lw a/ss must be numbers, got str",
        ),
        (checkpoint(mean=[0.5], std=[1, 1, 1]), "mean and std in meta must be three"),
        (checkpoint(mean=["a"], std=[1, 1, 1]), "meta mean must be numbers"),
    ],
)
def test_impossible_whitenings_and_scalings_are_refused_in_one_line(
    unchecked, broken, said
):
    with pytest.raises(ValueError, match=f"^here: .*{re.escape(said)}") as raised:
        _ = read_pixel_scaling(broken), read_whitenings(broken)
    assert "\n" not in str(raised.value)


DEPTHS = (1, 1, 1, 1)


def narrow_resnet(**settings):
    return ResNet(depths=DEPTHS, width=4, **settings)


def named_tables(tables):
    return {table.name: table for table in tables}


@pytest.fixture
def narrow_vgg16(monkeypatch):
    """VGG16 has few channels, so that its files are small."""
    monkeypatch.setattr(
        _vgg, "_BLOCKS", ((4,) * 2, (5,) * 2, (6,) * 3, (7,) * 3, (8,) * 3)
    )


@pytest.mark.usefixtures("narrow_vgg16")
def test_every_tensor_of_a_vgg16_file_is_loaded(tmp_path):
    # Convolution, ReLU; a pooling after the second, fourth, seventh, tenth.
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    layers = nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0))).layers().values()
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {"classifier.6.bias": np.zeros(1000, np.float32)}
    for position, layer in zip(positions, layers, strict=True):
        *_, inputs, outputs = layer.kernel.shape
        kernel = np.zeros((outputs, inputs, 3, 3), np.float32)
        kernel[:, :3] = rng.normal(size=(outputs, 3, 3, 3), scale=0.2)
        tensors[f"features.{position}.weight"] = kernel
        tensors[f"features.{position}.bias"] = rng.normal(size=outputs).astype(
            np.float32
        )
    path = tmp_path / "vgg16.safetensors"
    safetensors.numpy.save_file(tensors, path)
    got = load_network("vgg16", path)
    assert isinstance(got.network, VGG16)
    assert (got.architecture, got.naming) == ("vgg16", "torchvision")
    assert got.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (got.gem_power, got.whitenings) == (None, {})
    loaded = got.network.layers().values()
    for position, layer in zip(positions, loaded, strict=True):
        kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
        name = f"features.{position}"
        np.testing.assert_array_equal(kernel, tensors[f"{name}.weight"], err_msg=name)
        np.testing.assert_array_equal(layer.bias, tensors[f"{name}.bias"], err_msg=name)
    # A cell of the first map by hand: one convolution and a ReLU.
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    maps = forward(
        got.network, jnp.asarray(image[None]), jnp.array([[8, 8]]), names=("conv1_1",)
    )["conv1_1"]
    colours = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel, bias = tensors["features.0.weight"], tensors["features.0.bias"]
    inner = np.einsum("yxc,ocyx->o", colours[3:6, 2:5], kernel.astype(np.float64))
    np.testing.assert_allclose(
        maps[0, 4, 3], np.maximum(inner + bias, 0), rtol=1e-4, atol=1e-4
    )


@pytest.mark.usefixtures("narrow_vgg16")
def test_every_tensor_of_a_vgg16_in_a_matlab_file_is_loaded(tmp_path):
    layers = nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0))).layers()
    rng = np.random.default_rng(0)
    kernels, biases, records = {}, {}, []
    for name, layer in layers.items():
        kernel = np.zeros(layer.kernel.shape, np.float32)
        kernel[:, :, :3] = rng.normal(size=(*kernel.shape[:2], 3, kernel.shape[3]))
        bias = rng.normal(size=(1, kernel.shape[3])).astype(np.float32)
        kernels[name], biases[name] = kernel, bias
        records.append({"name": name, "type": "conv", "weights": [kernel, bias]})
        records.append({"name": name.replace("conv", "relu"), "type": "relu"})
    classifier = [np.zeros((7, 7, 2, 3), np.float32), np.zeros((1, 3), np.float32)]
    records.append({"name": "fc6", "type": "conv", "weights": classifier})
    average = np.broadcast_to(np.array([123.5, 116.25, 103.0], np.float32), (16, 16, 3))
    meta = {"normalization": {"averageImage": np.ascontiguousarray(average)}}
    path = tmp_path / "vgg16.mat"
    write_5(path, {"layers": records, "meta": meta})
    got = load_network("vgg16", path)
    assert isinstance(got.network, VGG16)
    assert got.naming == "matconvnet"
    assert got.network.scaling == PixelScaling((123.5, 116.25, 103.0), (1, 1, 1))
    for name, layer in got.network.layers().items():
        assert (np.asarray(layer.kernel[...]) == kernels[name]).all(), name
        assert (layer.bias[...] == biases[name][0]).all(), name
    # A cell of the first map by hand: rows before columns, RGB less its average.
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    maps = forward(
        got.network, jnp.asarray(image[None]), jnp.array([[8, 8]]), names=("conv1_1",)
    )["conv1_1"]
    colours = image[3:6, 2:5] - np.array([123.5, 116.25, 103.0])
    inner = np.einsum("yxc,yxco->o", colours, kernels["conv1_1"].astype(np.float64))
    np.testing.assert_allclose(
        maps[0, 4, 3], np.maximum(inner + biases["conv1_1"][0], 0), rtol=1e-4, atol=1e-2
    )


def test_a_checkpoint_of_cirtorch_is_loaded_with_power_and_whitenings(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "_ARCHITECTURES", {"resnet50": narrow_resnet})
    (tmp_path / "x.pth").write_bytes(b"weights")
    shapes = {
        name: layer.kernel.shape
        for name, layer in nnx.eval_shape(lambda: narrow_resnet(rngs=nnx.Rngs(0)))
        .layers()
        .items()
    }
    table = named_tables(resnet_name_maps(DEPTHS))["cirtorch"]
    monkeypatch.setattr(loading, "detect_name_map", lambda *_, **__: table)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (h, w, i, o) in shapes.items():
        kernel, *norm = table.layers[name].names()
        tensors[kernel] = rng.normal(size=(o, i, h, w))
        tensors |= {name: rng.uniform(0.5, 1.5, o) for name in norm}
    tensors["pool.p"] = np.array([2.75])
    tensors["whiten.weight"] = rng.normal(size=(8, 128))
    tensors["whiten.bias"] = rng.normal(size=8)
    fitted = {"m": rng.normal(size=(128, 1)), "P": rng.normal(size=(128, 128))}
    whitenings = {"retrieval-SfM-120k": {"ss": fitted, "ms": fitted}}
    meta = {"mean": [0.5, 0.25, 0], "std": [0.5, 1, 2], "Lw": whitenings}
    checkpoint = Checkpoint(tensors, {"meta": meta}, "x.pth")
    monkeypatch.setattr(loading, "read_checkpoint", lambda _: checkpoint)
    got = load_network("resnet50", tmp_path / "x.pth")
    assert got.naming == "cirtorch"
    assert got.gem_power == 2.75
    assert list(got.whitenings) == [
        "end-to-end",
        "retrieval-SfM-120k/ss",
        "retrieval-SfM-120k/ms",
    ]
    # Colours go up to 1 in cirtorch, up to 255 in `PixelScaling`.
    scaling = PixelScaling((127.5, 63.75, 0.0), (127.5, 255.0, 510.0))
    assert got.network.scaling == scaling
    assert got.fingerprint == hashlib.sha256(b"weights").hexdigest()


def test_every_tensor_of_a_resnet50_that_torch_saved_is_loaded(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    # As deep as it is, so that it has all names, but narrow.
    narrow = functools.partial(resnet50, width=4)
    monkeypatch.setattr(loading, "_ARCHITECTURES", {"resnet50": narrow})
    network = nnx.eval_shape(lambda: narrow(rngs=nnx.Rngs(0)))
    table = named_tables(resnet_name_maps((3, 4, 6, 3)))["cirtorch"]
    rng = np.random.default_rng(0)
    state = {}
    for name, layer in network.layers().items():
        rows, columns, inputs, outputs = layer.kernel.shape
        kernel, *norm = table.layers[name].names()
        state[kernel] = torch.zeros(outputs, inputs, rows, columns)
        state[kernel][:, 0] = torch.arange(outputs)[:, None, None]
        # With a variance of 1 - 1e-5, the norm multiplies by its gain alone.
        for field, value in zip(norm, (2, 3, 0, 1 - 1e-5), strict=True):
            state[field] = torch.full((outputs,), float(value))
    state["pool.p"] = torch.tensor([2.5])
    fitted = {"m": rng.normal(size=(128, 1)), "P": rng.normal(size=(4, 128))}
    meta = {"architecture": "resnet50", "mean": [0.5] * 3, "std": [0.25] * 3}
    meta["Lw"] = {"retrieval-SfM-120k": {"ss": fitted}}
    path = tmp_path / "resnet50.pth"
    torch.save({"meta": meta, "state_dict": state}, path)
    got = load_network("resnet50", path)
    assert (got.naming, got.gem_power) == ("cirtorch", 2.5)
    assert got.network.scaling == PixelScaling(
        (127.5, 127.5, 127.5), (63.75, 63.75, 63.75)
    )
    mean, projection = got.whitenings["retrieval-SfM-120k/ss"]
    np.testing.assert_allclose(mean, fitted["m"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(projection, fitted["P"].T, rtol=1e-6)
    for name, layer in got.network.layers().items():
        kernel = np.asarray(layer.kernel[...])
        assert not kernel[:, :, 1:].any(), name
        expected = np.broadcast_to(
            2 * np.arange(kernel.shape[-1]), kernel[:, :, 0].shape
        )
        np.testing.assert_allclose(kernel[:, :, 0], expected, rtol=1e-6)
        np.testing.assert_array_equal(layer.bias[...], 3)


@pytest.mark.parametrize(
    ("extras", "expected"),
    [
        ({"average_image": np.array([123.5, 116.25, 103.0])}, (123.5, 116.25, 103.0)),
        ({}, None),
        ({"average_image": np.zeros(4)}, None),
    ],
)
def test_matconvnet_takes_the_mean_from_the_file(extras, expected):
    table = named_tables(vgg16_name_maps())["matconvnet"]
    checkpoint = Checkpoint({}, extras, "here")
    if expected is None:
        with pytest.raises(ValueError, match="here: the file must hold an average"):
            loading._choose_scaling(table, checkpoint)
    else:
        scaling = loading._choose_scaling(table, checkpoint)
        assert scaling == PixelScaling(expected, (1.0, 1.0, 1.0))


def test_the_weights_of_the_pip_package_are_loaded_by_the_names_of_lukemelas():
    got = load_network("efficientnet-lite0", efficientnet_lite0_path())
    assert isinstance(got.network, EfficientNetLite0)
    assert (got.naming, got.whitenings) == ("lukemelas", {})
    default = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    assert got.network.scaling == default.scaling


def test_the_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    names = resnet_name_maps((3, 4, 6, 3))[0].required_names()
    safetensors.numpy.save_file({n: np.zeros(1, np.float32) for n in names}, path)
    with pytest.raises(
        ValueError, match=r"other\.safetensors: .* those of vgg16; they"
    ):
        load_network("vgg16", path)
    # The right names alone do not make it the right network.
    with pytest.raises(ValueError, match=r"as resnet50: tensor conv1\.weight must"):
        load_network("resnet50", path)


def test_unknown_architectures_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of vgg16, .*'alexnet'"):
        load_network("alexnet", tmp_path / "none.pth")
    with pytest.raises(OSError, match=r"none\.pth"):
        load_network("vgg16", tmp_path / "none.pth")
    names = "vgg16", "resnet50", "resnet101", "efficientnet-lite0"
    assert network_names() == names
