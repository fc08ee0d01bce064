import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import safetensors.numpy
from matlab_files import StructArray, write_5, write_73
from torch_files import NEEDS_TORCH, bfloat16, legacy_file, whole_tensor, zip_file

from diffjax.weights._formats import (
    read_checkpoint,
    read_matconvnet_file,
    read_safetensors_file,
)


def safetensors_file(tensors, *, metadata=None, length=None) -> bytes:
    """A file of (dtype, array) by name, in their order; the array holds the bytes."""
    header, content = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, array) in tensors.items():
        offsets = [len(content), len(content) + array.nbytes]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        content += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + content


@pytest.fixture
def read_safetensors(tmp_path):
    """Reads bytes by way of a file."""

    def read_bytes(content):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return read_safetensors_file(path)

    return read_bytes


def test_tensors_are_in_the_order_of_the_file(read_safetensors):
    arrays = {
        "stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.array(3.5),
        "a": np.zeros((0, 4), np.int64),
    }
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    content = {n: (names[a.dtype.name], a) for n, a in arrays.items()}
    got = read_safetensors(safetensors_file(content, metadata={"format": "pt"}))
    assert list(got.tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got.tensors[name], array, strict=True)
        assert got.tensors[name].flags.writeable
    assert got.extras == {"format": "pt"}
    assert got.source.endswith("model.safetensors")


def test_half_precision_is_widened_to_float32(read_safetensors):
    numbers = np.array([0.5, -1.25, 255.0, 2.0**-14], np.float32)
    content = {
        "half": ("F16", numbers.astype(np.float16)),
        "brain": ("BF16", bfloat16(numbers)),
    }
    for array in read_safetensors(safetensors_file(content)).tensors.values():
        np.testing.assert_array_equal(array, numbers, strict=True)


def test_safetensors_files_of_the_library_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"module.{n}": rng.normal(size=(n, 3)) for n in range(4)}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path)
    got = read_safetensors_file(path)
    assert got.extras == {}
    for name, array in arrays.items():
        short = name.removeprefix("module.")
        np.testing.assert_array_equal(got.tensors[short], array, strict=True)


def test_safetensors_files_of_torch_are_read(tmp_path):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    import safetensors.torch

    tensors = {"a": torch.randn(3, 2).bfloat16(), "b": torch.randn(3).half()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path)
    got = read_safetensors_file(path).tensors
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(got[name], tensor.float().numpy(), strict=True)


FLOAT_ENTRY = {"x": ("F32", np.zeros(4, np.float32))}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        safetensors_file(FLOAT_ENTRY)[:-1],
        safetensors_file(FLOAT_ENTRY)[:40],
        safetensors_file(FLOAT_ENTRY) + b"more",
        safetensors_file(FLOAT_ENTRY, length=2**40),
        safetensors_file({"x": ("F32", np.zeros(4, np.float64))}),
        safetensors_file({"x": ("C64X", np.zeros(4, np.float64))}),
        safetensors_file({"x": ("F8_E4M3", np.zeros(4, np.uint8))})[:-1],
    ],
    ids=[
        "empty",
        "cut short",
        "header cut short",
        "too long",
        "header too large",
        "wrong size",
        "unknown type",
        "eight bits, cut short",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(read_safetensors, content):
    rule = r"^[^\n]*model\.safetensors: no readable safetensors file: [^\n]+\.$"
    with pytest.raises(ValueError, match=rule):
        read_safetensors(content)


def test_a_missing_safetensors_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_safetensors_file(tmp_path / "none.safetensors")


RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 255, (4, 5, 3)).astype(np.float32)
MATLAB_KERNEL = RNG.normal(size=(3, 3, 2, 4)).astype(
    np.float32
)  # Rows, columns, in, out.
BIAS = RNG.normal(size=(1, 4)).astype(np.float32)
GAIN, OFFSET = RNG.normal(size=(2, 4, 1)).astype(np.float32)
MOMENTS = RNG.uniform(1, 2, (4, 2)).astype(np.float32)
META = {"normalization": {"averageImage": IMAGE}, "classes": {"name": ["cat", "dog"]}}


@pytest.fixture(params=[write_5, write_73], ids=["5", "7.3"])
def read_network(request, tmp_path):
    """Reads variables by way of a file of either layout."""

    def write_and_read(variables):
        path = tmp_path / "net.mat"
        request.param(path, variables)
        return read_checkpoint(path)

    return write_and_read


def simple_layers():
    """Layers of a SimpleNN: a convolution, its activation and a batch norm."""
    return [
        {"name": "conv1_1", "type": "conv", "weights": [MATLAB_KERNEL, BIAS]},
        {"name": "relu1_1", "type": "relu"},
        {"name": "bn1", "type": "bnorm", "weights": [GAIN, OFFSET, MOMENTS]},
    ]


def dag(**changes):
    """The same as a saved DagNN."""
    parameters = {
        "conv1_1f": MATLAB_KERNEL,
        "conv1_1b": BIAS,
        "bn1m": GAIN,
        "bn1b": OFFSET,
        "bn1x": MOMENTS,
        "pool_p": np.full((1, 1), 2.9, np.float32),
    }
    none = np.zeros((0, 0))
    layers = [
        {"name": "conv1_1", "type": "dagnn.Conv", "params": ["conv1_1f", "conv1_1b"]},
        {"name": "relu1_1", "type": "dagnn.ReLU", "params": none},
        {"name": "bn1", "type": "dagnn.BatchNorm", "params": ["bn1m", "bn1b", "bn1x"]},
        {"name": "pool", "type": "dagnn.GeM", "params": ["pool_p"]},
    ]
    named = [{"name": name, "value": value} for name, value in parameters.items()]
    fields = {"layers": StructArray(layers), "params": StructArray(named), "meta": META}
    return fields | changes


def check_weights(tensors):
    """The convolution in torch's order of axes, the batch norm as mean and variance."""
    kernel = tensors["conv1_1.weight"]
    assert kernel.shape == (4, 2, 3, 3)
    for out, inside, row, column in np.ndindex(kernel.shape):
        assert (
            kernel[out, inside, row, column] == MATLAB_KERNEL[row, column, inside, out]
        )
    np.testing.assert_array_equal(tensors["conv1_1.bias"], BIAS[0], strict=True)
    np.testing.assert_array_equal(tensors["bn1.weight"], GAIN[:, 0], strict=True)
    np.testing.assert_array_equal(tensors["bn1.bias"], OFFSET[:, 0], strict=True)
    mean, deviation = MOMENTS.T
    np.testing.assert_array_equal(tensors["bn1.running_mean"], mean, strict=True)
    np.testing.assert_array_equal(tensors["bn1.running_var"], deviation**2)
    assert all(array.flags.c_contiguous for array in tensors.values())


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as net"])
def test_a_simple_network_is_read(read_network, wrapped):
    network = {"layers": simple_layers(), "meta": META}
    got = read_network({"net": network} if wrapped else network)
    check_weights(got.tensors)
    assert list(got.tensors)[:2] == ["conv1_1.weight", "conv1_1.bias"]
    assert len(got.tensors) == 6
    types = [("conv1_1", "conv"), ("relu1_1", "relu"), ("bn1", "bnorm")]
    assert got.extras["layers"] == types
    colours = IMAGE.astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(got.extras["average_image"], colours, rtol=1e-12)
    assert got.extras["meta"]["classes"] == {"name": ["cat", "dog"]}
    assert got.source.endswith("net.mat")


def test_a_simple_network_of_old_files_is_read(read_network):
    # Kernel and bias were fields of the layer, the average beside the layers.
    layer = {
        "name": "conv1_1",
        "type": "conv",
        "filters": MATLAB_KERNEL,
        "biases": BIAS,
    }
    layers = [layer, *simple_layers()[1:]]
    got = read_network({"layers": layers, "normalization": META["normalization"]})
    check_weights(got.tensors)
    assert got.extras["average_image"].shape == (3,)


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as net"])
def test_a_graph_is_read(read_network, wrapped):
    got = read_network({"net": dag()} if wrapped else dag())
    check_weights(got.tensors)
    np.testing.assert_array_equal(got.tensors["pool_p"], np.array([[2.9]], np.float32))
    assert len(got.tensors) == 7
    assert got.extras["layers"][-1] == ("pool", "dagnn.GeM")


def test_a_graph_of_one_layer_is_read(read_network):
    # MATLAB does not tell one struct from a struct array of one.
    layer = {"name": "c", "type": "dagnn.Conv", "params": ["f"]}
    params = {"name": "f", "value": MATLAB_KERNEL}
    got = read_network(dag(layers=StructArray([layer]), params=StructArray([params])))
    assert {name: a.shape for name, a in got.tensors.items()} == {
        "c.weight": (4, 2, 3, 3)
    }


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (np.ones((3, 3, 2)), (1, 2, 3, 3)),
        (np.ones((5, 5)), (1, 1, 5, 5)),
        (np.ones((1, 1, 2, 4)), (4, 2, 1, 1)),
    ],
    ids=["one output", "one input and output", "one pixel"],
)
def test_axes_that_matlab_drops_are_restored(read_network, kernel, shape):
    layers = [{"type": "conv", "weights": [kernel, np.zeros((0, 0))]}]
    got = read_network({"layers": layers})
    # Without a name it is called by its number, without a bias it has none.
    assert {name: a.shape for name, a in got.tensors.items()} == {
        "layer1.weight": shape
    }
    assert "average_image" not in got.extras


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3), (3, 1)])
def test_an_average_colour_is_taken_as_it_is(read_network, shape):
    colours = np.array([123.68, 116.779, 103.939])
    meta = {"normalization": {"averageImage": colours.reshape(shape)}}
    got = read_network({"layers": simple_layers(), "meta": meta}).extras[
        "average_image"
    ]
    np.testing.assert_array_equal(got, colours, strict=True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"x": BIAS, "y": BIAS}, "no MatConvNet network; its variables are x, y"),
        ({"net": BIAS}, "its variables are net"),
        ({"layers": BIAS}, "no list of layers"),
        ({"layers": [BIAS]}, "no list of layers"),
        ({"layers": [{"name": "conv1"}]}, "'type'"),
        (
            {"layers": [{"name": "c", "type": "conv", "weights": [np.zeros((0, 0))]}]},
            "convolution c has no kernel",
        ),
        (
            {"layers": [{"name": "b", "type": "bnorm", "weights": [GAIN]}]},
            "batch norm b has 1 parameters",
        ),
        (dag(params=StructArray([{"name": "other", "value": BIAS}])), "'conv1_1f'"),
        (
            {
                "layers": simple_layers(),
                "meta": {"normalization": {"averageImage": np.ones((4, 5))}},
            },
            "its average image has shape (4, 5)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents_are_refused_in_one_line(read_network, variables, message):
    with pytest.raises(ValueError, match=r"^[^\n]*net\.mat: [^\n]+\.$") as error:
        read_network(variables)
    assert message in str(error.value)


def test_a_missing_matlab_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_matconvnet_file(tmp_path / "none.mat")


KERNEL = np.arange(24, dtype=np.float32).reshape(4, 3, 2, 1)
WHOLE = {"conv.weight": whole_tensor("a", KERNEL)}
# The same in MATLAB's order of axes: rows, columns, inputs, outputs.
LAYER = {"name": "conv", "type": "conv", "weights": [KERNEL.transpose(2, 3, 1, 0)]}


def write_safetensors(path):
    safetensors.numpy.save_file({"conv.weight": KERNEL}, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(legacy_file(WHOLE, {"a": KERNEL.reshape(-1)})),
        lambda path: path.write_bytes(zip_file(WHOLE, {"a": KERNEL.reshape(-1)})),
        write_safetensors,
        lambda path: write_5(path, {"layers": [LAYER]}),
        lambda path: write_73(path, {"layers": [LAYER]}),
    ],
    ids=["torch, legacy", "torch, zip", "safetensors", "MATLAB 5", "MATLAB 7.3"],
)
def test_every_format_is_detected_by_its_bytes_whatever_its_name(tmp_path, write):
    path = tmp_path / "weights.bin"
    write(path)
    got = read_checkpoint(path)
    assert list(got.tensors) == ["conv.weight"]
    np.testing.assert_array_equal(got.tensors["conv.weight"], KERNEL, strict=True)
    assert got.source == str(path)
    assert read_checkpoint(str(path)).tensors.keys() == got.tensors.keys()


def packed() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, KERNEL)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html><title>404 Not Found", "a web page"),
        (b"\n\n <html lang=en>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page"),
        (b'{"error": "Repository not found"}', "a text in JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (gzip.compress(b"weights"), "a compressed file"),
        (packed(), "a tar archive"),
        (one_array(), "a single NumPy array"),
        (pickle.dumps({"w": [1.0]}), "a pickle that torch did not write"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a picture"),
        (b"some words", "of an unknown format, which starts with b'some words'"),
        (b"\x00" * 5000, "of an unknown format"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_the_error_names_the_format_of_other_files(tmp_path, content, kind):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    rule = r"^[^\n]*weights\.pth: no file of weights; it seems to be [^\n]+\.$"
    with pytest.raises(ValueError, match=rule) as error:
        read_checkpoint(path)
    assert kind in str(error.value)


def test_the_error_names_a_folder(tmp_path):
    with pytest.raises(ValueError, match="a folder, not a file of weights"):
        read_checkpoint(tmp_path)


def test_the_error_names_a_zip_file_of_other_contents(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, x=KERNEL)
    with pytest.raises(ValueError, match=r"a zip file with 0 entries data\.pkl"):
        read_checkpoint(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")
