import hashlib

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from matlab_files import write_5

from diffjax.features import (
    VGG16,
    EfficientNetLite0,
    PixelScaling,
    ResNet,
    forward,
    resnet50,
)
from diffjax.features import _loading as loading
from diffjax.features._loading import load_network, network_names
from diffjax.features._namings import resnet_tables, vgg16_tables
from diffjax.features._state_dict import Checkpoint
from diffjax.features._weights import efficientnet_lite0_path

DEPTHS = (1, 1, 1, 1)


def narrow_resnet(**settings):
    return ResNet(depths=DEPTHS, width=4, **settings)


def named_tables(tables):
    return {table.name: table for table in tables}


def test_a_file_of_vgg16_is_loaded_whole(tmp_path):
    # Convolution, ReLU; a pooling after the second, fourth, seventh, tenth.
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    layers = nnx.eval_shape(lambda: VGG16(rngs=nnx.Rngs(0))).layers().values()
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {"classifier.6.bias": np.zeros(1000, np.float32)}
    for place, layer in zip(places, layers, strict=True):
        *_, inputs, outputs = layer.kernel.shape
        kernel = np.zeros((outputs, inputs, 3, 3), np.float32)
        kernel[:, :3] = rng.normal(size=(outputs, 3, 3, 3), scale=0.2)
        tensors[f"features.{place}.weight"] = kernel
        tensors[f"features.{place}.bias"] = rng.normal(size=outputs).astype(np.float32)
    path = tmp_path / "vgg16.safetensors"
    safetensors.numpy.save_file(tensors, path)
    found = load_network("vgg16", path)
    assert isinstance(found.network, VGG16)
    assert (found.architecture, found.naming) == ("vgg16", "torchvision")
    assert found.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.gem_power, found.whitenings) == (None, {})
    for place, layer in zip(places, found.network.layers().values(), strict=True):
        kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
        assert (kernel == tensors[f"features.{place}.weight"]).all(), place
        assert (layer.bias[...] == tensors[f"features.{place}.bias"]).all(), place
    # A cell of the first map by hand: one convolution and a ReLU.
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    maps = forward(
        found.network, jnp.asarray(image[None]), jnp.array([[8, 8]]), names=("conv1_1",)
    )["conv1_1"]
    colours = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel, bias = tensors["features.0.weight"], tensors["features.0.bias"]
    inner = np.einsum("yxc,ocyx->o", colours[3:6, 2:5], kernel.astype(np.float64))
    np.testing.assert_allclose(
        maps[0, 4, 3], np.maximum(inner + bias, 0), rtol=1e-4, atol=1e-4
    )


def test_the_vgg16_of_a_matlab_file_is_loaded_whole(tmp_path):
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
    average = np.broadcast_to(
        np.array([123.5, 116.25, 103.0], np.float32), (224, 224, 3)
    )
    meta = {"normalization": {"averageImage": np.ascontiguousarray(average)}}
    path = tmp_path / "vgg16.mat"
    write_5(path, {"layers": records, "meta": meta})
    found = load_network("vgg16", path)
    assert isinstance(found.network, VGG16)
    assert found.naming == "matconvnet"
    assert found.network.scaling == PixelScaling((123.5, 116.25, 103.0), (1, 1, 1))
    for name, layer in found.network.layers().items():
        assert (np.asarray(layer.kernel[...]) == kernels[name]).all(), name
        assert (layer.bias[...] == biases[name][0]).all(), name
    # A cell of the first map by hand: rows before columns, RGB less its average.
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    maps = forward(
        found.network, jnp.asarray(image[None]), jnp.array([[8, 8]]), names=("conv1_1",)
    )["conv1_1"]
    colours = image[3:6, 2:5] - np.array([123.5, 116.25, 103.0])
    inner = np.einsum("yxc,yxco->o", colours, kernels["conv1_1"].astype(np.float64))
    np.testing.assert_allclose(
        maps[0, 4, 3], np.maximum(inner + biases["conv1_1"][0], 0), rtol=1e-4, atol=1e-2
    )


def test_a_checkpoint_of_cirtorch_is_loaded_with_what_lies_beside(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "_NETWORKS", {"resnet50": narrow_resnet})
    (tmp_path / "x.pth").write_bytes(b"weights")
    shapes = {
        name: layer.kernel.shape
        for name, layer in nnx.eval_shape(lambda: narrow_resnet(rngs=nnx.Rngs(0)))
        .layers()
        .items()
    }
    table = named_tables(resnet_tables(DEPTHS))["cirtorch"]
    monkeypatch.setattr(loading, "recognise", lambda *_, **__: table)
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
    found = load_network("resnet50", tmp_path / "x.pth")
    assert found.naming == "cirtorch"
    assert found.gem_power == 2.75
    assert list(found.whitenings) == [
        "end-to-end",
        "retrieval-SfM-120k/ss",
        "retrieval-SfM-120k/ms",
    ]
    # Of colours up to 1 there, up to 255 here.
    scaling = PixelScaling((127.5, 63.75, 0.0), (127.5, 255.0, 510.0))
    assert found.network.scaling == scaling
    assert found.fingerprint == hashlib.sha256(b"weights").hexdigest()


def test_a_resnet50_saved_by_torch_as_cirtorch_does_is_loaded_whole(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the parity extra")
    network = nnx.eval_shape(lambda: resnet50(rngs=nnx.Rngs(0)))
    table = named_tables(resnet_tables((3, 4, 6, 3)))["cirtorch"]
    rng = np.random.default_rng(0)
    state = {}
    for name, layer in network.layers().items():
        rows, columns, inputs, outputs = layer.kernel.shape
        kernel, *norm = table.layers[name].names()
        state[kernel] = torch.zeros(outputs, inputs, rows, columns)
        state[kernel][:, 0] = torch.arange(outputs)[:, None, None]
        # With a variance of 1 - 1e-5, the norm multiplies by its gain alone.
        for part, value in zip(norm, (2, 3, 0, 1 - 1e-5), strict=True):
            state[part] = torch.full((outputs,), float(value))
    state["pool.p"] = torch.tensor([2.5])
    fitted = {"m": rng.normal(size=(2048, 1)), "P": rng.normal(size=(4, 2048))}
    meta = {"architecture": "resnet50", "mean": [0.5] * 3, "std": [0.25] * 3}
    meta["Lw"] = {"retrieval-SfM-120k": {"ss": fitted}}
    path = tmp_path / "resnet50.pth"
    torch.save({"meta": meta, "state_dict": state}, path)
    found = load_network("resnet50", path)
    assert (found.naming, found.gem_power) == ("cirtorch", 2.5)
    assert found.network.scaling == PixelScaling(
        (127.5, 127.5, 127.5), (63.75, 63.75, 63.75)
    )
    mean, projection = found.whitenings["retrieval-SfM-120k/ss"]
    np.testing.assert_allclose(mean, fitted["m"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(projection, fitted["P"].T, rtol=1e-6)
    for name, layer in found.network.layers().items():
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
    table = named_tables(vgg16_tables())["matconvnet"]
    checkpoint = Checkpoint({}, extras, "here")
    if expected is None:
        with pytest.raises(ValueError, match="here: the file must hold an average"):
            loading._scaling(table, checkpoint)
    else:
        scaling = loading._scaling(table, checkpoint)
        assert scaling == PixelScaling(expected, (1.0, 1.0, 1.0))


def test_the_weights_of_the_pip_package_are_loaded_by_their_own_names():
    found = load_network("efficientnet-lite0", efficientnet_lite0_path())
    assert isinstance(found.network, EfficientNetLite0)
    assert (found.naming, found.whitenings) == ("lukemelas", {})
    # As the network has it without being told.
    own = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    assert found.network.scaling == own.scaling


def test_another_network_is_refused_by_name(tmp_path):
    path = tmp_path / "other.safetensors"
    names = resnet_tables((3, 4, 6, 3))[0].needed()
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
