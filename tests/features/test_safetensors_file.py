import json

import numpy as np
import pytest
import safetensors.numpy
from torch_files import NEEDS_TORCH, bfloat16

from diffjax.features._safetensors_file import read_safetensors_file


def safetensors_file(tensors, *, metadata=None, length=None) -> bytes:
    """A file of (dtype, array) by name, in their order; the array holds the bytes."""
    header, content = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, array) in tensors.items():
        places = [len(content), len(content) + array.nbytes]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": places,
        }
        content += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + content


@pytest.fixture
def read(tmp_path):
    """Reads bytes by way of a file."""

    def read_bytes(content):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return read_safetensors_file(path)

    return read_bytes


def test_tensors_come_in_the_order_of_the_file(read):
    arrays = {
        "stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.array(3.5),
        "a": np.zeros((0, 4), np.int64),
    }
    names = {"float32": "F32", "float64": "F64", "int64": "I64"}
    content = {n: (names[a.dtype.name], a) for n, a in arrays.items()}
    found = read(safetensors_file(content, metadata={"format": "pt"}))
    assert list(found.tensors) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.tensors[name], array, strict=True)
        assert found.tensors[name].flags.writeable
    assert found.extras == {"format": "pt"}
    assert found.source.endswith("model.safetensors")


def test_half_precision_is_widened_to_float32(read):
    numbers = np.array([0.5, -1.25, 255.0, 2.0**-14], np.float32)
    content = {
        "half": ("F16", numbers.astype(np.float16)),
        "brain": ("BF16", bfloat16(numbers)),
    }
    for array in read(safetensors_file(content)).tensors.values():
        np.testing.assert_array_equal(array, numbers, strict=True)


def test_agrees_with_the_library_that_writes_them(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"module.{n}": rng.normal(size=(n, 3)) for n in range(4)}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path)
    found = read_safetensors_file(path)
    assert found.extras == {}
    for name, array in arrays.items():
        short = name.removeprefix("module.")
        np.testing.assert_array_equal(found.tensors[short], array, strict=True)


def test_agrees_with_torch(tmp_path):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    import safetensors.torch

    tensors = {"a": torch.randn(3, 2).bfloat16(), "b": torch.randn(3).half()}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path)
    found = read_safetensors_file(path).tensors
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy(), strict=True)


NUMBERS = {"x": ("F32", np.zeros(4, np.float32))}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        safetensors_file(NUMBERS)[:-1],
        safetensors_file(NUMBERS)[:40],
        safetensors_file(NUMBERS) + b"more",
        safetensors_file(NUMBERS, length=2**40),
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
def test_a_damaged_file_is_refused_in_one_line(read, content):
    rule = r"^[^\n]*model\.safetensors: no readable safetensors file: [^\n]+\.$"
    with pytest.raises(ValueError, match=rule):
        read(content)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_safetensors_file(tmp_path / "none.safetensors")
