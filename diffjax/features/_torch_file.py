"""Reading a torch state dict without torch, and without running what it contains."""

import collections
import math
import os
import pathlib
import pickle
from typing import BinaryIO, NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Shaped

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_ZIP_SIGNATURE = b"PK\x03\x04"

_DTYPES = {
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}

# What a damaged or hostile stream makes the unpickler raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Storage(NamedTuple):
    """A flat array that tensors are views of.

    Attributes:
        key: Its name within the file.
        dtype: NumPy's name of the element type.
        size: How many elements it has.
    """

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage, in elements.

    Attributes:
        storage: The storage it looks at.
        offset: Where in the storage its first element lies.
        shape: Its extents.
        strides: Steps in the storage between neighbours along each axis.
    """

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDictUnpickler(pickle.Unpickler):
    """Knows the three names that a state dict is made of, and refuses all others."""

    def find_class(self, module: str, name: str) -> object:
        """Returns what stands for a pickled name, here nothing that can do harm."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise ValueError(f"it asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, pid: tuple) -> _Storage:
        """Returns the storage that a pickled reference means, still without data."""
        kind, storage_type, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise ValueError("it refers to something other than a whole storage")
        if not isinstance(key, str) or not _is_count(size):
            raise ValueError("it describes a storage without a name or size")
        return _Storage(key, _DTYPES[storage_type], size)

    @staticmethod
    def _rebuild_tensor(
        storage: object, offset: object, shape: object, strides: object, *_: object
    ) -> _Tensor:
        if not isinstance(storage, _Storage) or not _is_count(offset):
            raise ValueError("it describes a tensor without a storage or an offset")
        if not _are_counts(shape) or not _are_counts(strides):
            raise ValueError("it describes a tensor without a shape or strides")
        if len(shape) != len(strides) or math.prod(shape) > storage.size:
            raise ValueError(
                f"a tensor of shape {shape} and strides {strides} does not fit a "
                f"storage of {storage.size} elements"
            )
        last = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if math.prod(shape) and offset + last >= storage.size:
            raise ValueError(
                f"a tensor of shape {shape} and strides {strides} at offset {offset} "
                f"reaches beyond its storage of {storage.size} elements"
            )
        return _Tensor(storage, offset, shape, strides)


def read_torch_file(path: str | pathlib.Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads a state dict in torch's legacy container, the one that is not a zip file.

    The container is a row of pickles (magic number, protocol version, facts about the
    machine that wrote it, state dict, keys of the storages) followed by the storages,
    each as its length and its elements. A tensor is a view (offset, shape, strides) of
    a storage, and many are transposed: the strides are respected.

    Args:
        path: The file, usually `*.pth` or `*.pt`.

    Returns:
        The tensors by name, in the file's order, each a contiguous array of its own.

    Raises:
        ValueError: If the file is the newer zip container, is no state dict, is cut
            short, or asks for any class beyond what a state dict needs. Nothing in the
            file is ever run.
        OSError: If the file can't be read.

    References:
        torch/serialization.py of PyTorch, `_legacy_save` and `_legacy_load`,
        https://github.com/pytorch/pytorch.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        if file.read(len(_ZIP_SIGNATURE)) == _ZIP_SIGNATURE:
            raise ValueError(
                f"{path}: this is torch's zip container, which is not read yet; save "
                "it with torch.save(..., _use_new_zipfile_serialization=False)."
            )
        file.seek(0)
        try:
            _check_header(file)
            tensors = _read_tensors(file)
            storages = _read_storages(file, tensors)
        except _PICKLE_ERRORS as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{path}: no readable torch state dict: {reason}."
            ) from error
    return {
        name: _materialise(tensor, storages[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(_is_count(value) for value in values)


def _check_header(file: BinaryIO) -> None:
    """Reads the first three pickles and refuses what the format does not know."""
    magic_number, version, system = (_StateDictUnpickler(file).load() for _ in range(3))
    if magic_number != _MAGIC_NUMBER:
        raise ValueError("it does not start with torch's magic number")
    if version != _PROTOCOL_VERSION:
        raise ValueError(f"its protocol is {version!r}, not {_PROTOCOL_VERSION}")
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise ValueError("it was not written on a little-endian machine")


def _read_tensors(file: BinaryIO) -> dict[str, _Tensor]:
    """Reads the pickle of the state dict."""
    tensors = _StateDictUnpickler(file).load()
    if not isinstance(tensors, dict):
        raise ValueError(f"it holds a {type(tensors).__name__}, not a dict of tensors")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f"entry {name!r} is a {type(value).__name__}, no tensor")
    return tensors


def _read_storages(
    file: BinaryIO, tensors: dict[str, _Tensor]
) -> dict[str, Shaped[np.ndarray, " e"]]:
    """Reads the keys and, in their order, each storage's length and elements."""
    wanted = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if any(tensor.storage != wanted[tensor.storage.key] for tensor in tensors.values()):
        raise ValueError("two tensors disagree about the storage that they share")
    keys = _StateDictUnpickler(file).load()
    if not isinstance(keys, list) or set(keys) != wanted.keys():
        raise ValueError("its list of storages does not fit its tensors")
    size = os.fstat(file.fileno()).st_size
    storages = {}
    for key in keys:
        _, dtype, length = wanted[key]
        header = file.read(8)
        if len(header) < 8 or size - file.tell() < length * np.dtype(dtype).itemsize:
            raise ValueError("it is cut short")
        if int.from_bytes(header, "little") != length:
            raise ValueError(f"storage {key} has not the {length} elements announced")
        storages[key] = np.fromfile(file, dtype, length)
    return storages


def _materialise(
    tensor: _Tensor, storage: Shaped[np.ndarray, " e"]
) -> Shaped[np.ndarray, "..."]:
    """Copies what a tensor sees of its storage; the bounds were checked on reading."""
    strides = [step * storage.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return view.copy(order="C")
