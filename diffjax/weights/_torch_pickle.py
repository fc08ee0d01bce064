"""Restricted unpickler for the pickles in torch files; runs nothing in them."""

import io
import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple, TypeGuard, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from ._checkpoint import to_native_array

_STORAGE_DTYPES = {
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
}

# Booleans, numbers and strings of a stated size: no objects, no records.
_NUMPY_DTYPE = re.compile(r"[biufcSU][1-9][0-9]{0,5}")
_STORAGE_KEY = re.compile(r"\w+")

# How often, all told, what is read may repeat the bytes of its file: views that share
# a storage are copied apart, so a small file could ask for any amount of memory.
_MAX_FILE_MULTIPLE = 8

# Reads beyond the end of these give what there is, and allocate no more.
Stream = io.BytesIO | mmap.mmap

# What a damaged or hostile stream makes the unpickler raise.
PICKLE_ERRORS = (
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


class MemoryBudget:
    """Counts the bytes that a file still may ask for."""

    def __init__(self, file_size: int) -> None:
        """Allows a file of `file_size` bytes a fixed multiple of it."""
        self._file_size = file_size
        self._left = _MAX_FILE_MULTIPLE * file_size

    def spend(self, size: int) -> None:
        """Takes `size` bytes; refuses what goes beyond the multiple."""
        self._left -= size
        if self._left < 0:
            raise ValueError(
                f"it asks for more than {_MAX_FILE_MULTIPLE} times its "
                f"{self._file_size} bytes"
            )


class Storage(NamedTuple):
    """A flat array that tensors are views of.

    Attributes:
        key: Its name within the file.
        dtype: Type of its elements.
        size: How many it has.
    """

    key: str
    dtype: np.dtype
    size: int


class TensorView(NamedTuple):
    """A view of a storage, in elements; it was checked to lie within.

    Attributes:
        storage: The storage it looks at.
        offset: Where in the storage its first element lies.
        shape: Its extents.
        strides: Steps in the storage between neighbours along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchUnpickler(pickle.Unpickler):
    """Reads one pickle; knows the names that weights need and refuses all others.

    No name stands for what it says: each is a stand-in of this module, which checks
    what it is given and keeps it as plain data. Tensors come out as `TensorView`,
    NumPy's arrays as `Pickled`.

    Args:
        stream: The file, at the start of the pickle; it is left behind its end.
        budget: What the file may ask for.
        storages: The storages met so far by key; new ones are added.
    """

    def __init__(
        self, stream: Stream, *, budget: MemoryBudget, storages: dict[str, Storage]
    ) -> None:
        """Checks the pickle's announcements before anything acts on them."""
        # Python 2 kept NumPy's bytes in strings; latin-1 leaves each byte as it is.
        super().__init__(io.BytesIO(_read_validated_pickle(stream)), encoding="latin1")
        self._budget = budget
        self._storages = storages
        numpy_arrays = {
            f"{module}.multiarray.{name}": function
            for module in ("numpy.core", "numpy._core")
            for name, function in [("_reconstruct", Pickled), ("scalar", self._scalar)]
        }
        builtins = {
            f"{module}.{name}": function
            for module in ("builtins", "__builtin__")
            for name, function in [
                ("bytes", _rebuild_empty_bytes),
                ("set", self._container_factory(set)),
            ]
        }
        functions = {
            "collections.OrderedDict": self._container_factory(_Dict),
            "torch.Size": self._container_factory(tuple),
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            "torch._utils._rebuild_tensor": _rebuild_tensor_view,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor_view,
            "numpy.ndarray": _refuse_ndarray_call,
            "numpy.dtype": _Dtype,
            "_codecs.encode": self._encode,
        }
        self._stand_ins = functions | numpy_arrays | builtins

    def find_class(self, module: str, name: str) -> object:
        """Returns what stands for a pickled name, here nothing that can do harm."""
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        known = self._stand_ins.get(f"{module}.{name}")
        if known is None:
            raise ValueError(f"it asks for {module}.{name}, which no state dict needs")
        return _StandIn(known)

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage that a pickled reference means, still without data."""
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or view not in ([], [None]):
            raise ValueError("it refers to something other than a whole storage")
        if not isinstance(storage_type, _StorageType):
            raise ValueError(f"it describes a storage {key!r} without a type")
        if (
            not isinstance(key, str)
            or not _STORAGE_KEY.fullmatch(key)
            or not _is_natural_number(size)
        ):
            raise ValueError(f"it describes a storage {key!r} without a name or size")
        storage = Storage(key, storage_type.dtype, size)
        if self._storages.setdefault(key, storage) != storage:
            raise ValueError(f"its tensors disagree about storage {key}")
        return storage

    def _encode(self, text: object, encoding: object) -> bytes:
        """Stands for the way in which protocol 2 keeps bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError(f"it asks for a text in {encoding!r}, not latin1")
        self._budget.spend(len(text))
        return text.encode("latin1")

    def _scalar(self, dtype: object, content: object) -> "Pickled":
        """Stands for NumPy's scalar of a dtype and bytes."""
        scalar = Pickled()
        scalar.__setstate__((1, (), dtype, False, content))
        scalar.value = scalar.value[()]
        return scalar

    def _container_factory(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for a container, made empty or of the items of another."""

        def copied(items: object = ()) -> object:
            if not isinstance(items, list | tuple):
                raise ValueError(f"it makes a {kind.__name__} of no list")
            self._budget.spend(8 * len(items))
            return kind(items)

        return copied


class _StandIn:
    """What a pickled name becomes: it can be called and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("it sets the attributes of a function")


class _StorageType(NamedTuple):
    """The type of a storage's elements."""

    dtype: np.dtype


class _Dict(dict):
    """An `OrderedDict`; the attributes that torch hangs on it are left out."""

    def __setstate__(self, state: object) -> None:
        """Forgets `_metadata`, which holds the versions of a network's layers."""


class _Dtype:
    """A NumPy dtype of plain elements."""

    def __init__(self, name: object, *_: object) -> None:
        """Takes the name, such as f8, which says nothing of the byte order yet."""
        if not isinstance(name, str) or not _NUMPY_DTYPE.fullmatch(name):
            raise ValueError(f"it asks for NumPy's dtype {name!r}, which is not plain")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order."""
        _, order, subtype, *_ = state
        if order not in ("<", ">", "|", "=") or subtype is not None:
            raise ValueError("it describes a NumPy dtype of unknown byte order")
        self.dtype = self.dtype.newbyteorder(order)


class Pickled:
    """A NumPy array or scalar, whose contents follow in the pickle.

    Attributes:
        value: It, as a view of the pickle's bytes; None until they have come.
    """

    def __init__(self, *_: object) -> None:
        """Takes NumPy's class, shape (0,) and dtype, none of which mean anything."""
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        """Takes the contents; refuses objects and what does not fit its bytes."""
        _, shape, dtype, fortran, content = state
        if isinstance(content, str):
            content = content.encode("latin1")
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("it describes a NumPy array of objects")
        if not _are_natural_numbers(shape) or (
            math.prod(shape) * dtype.dtype.itemsize != len(content)
        ):
            raise ValueError(
                f"a NumPy array of shape {shape} and dtype {dtype.dtype} does not fit "
                f"its {len(content)} bytes"
            )
        flat = np.frombuffer(content, dtype.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def _rebuild_tensor_view(
    storage: object, offset: object, shape: object, strides: object, *_: object
) -> TensorView:
    """Stands for torch's view of a storage; refuses one that leaves it."""
    if not isinstance(storage, Storage) or not _is_natural_number(offset):
        raise ValueError("it describes a tensor without a storage or an offset")
    if not _are_natural_numbers(shape) or not _are_natural_numbers(strides):
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
    return TensorView(storage, offset, shape, strides)


def _rebuild_parameter(data: object, *_: object) -> object:
    """Stands for torch's parameter, of which the tensor counts."""
    return data


def _rebuild_empty_bytes() -> bytes:
    """Stands for `bytes`, which protocol 2 asks only for empty ones."""
    return b""


def _refuse_ndarray_call(*_: object) -> None:
    """Stands for NumPy's class, which is only named, never called."""
    raise ValueError("it makes a NumPy array in a way that NumPy does not")


def _read_validated_pickle(stream: Stream) -> bytes:
    """Reads the bytes of one pickle up to its end.

    The unpickler allocates what a pickle announces (a text of so many bytes, a memo of
    so many places) before it looks whether that is there; here it is looked at first.
    """
    start = stream.tell()
    opcodes = pickletools.genops(cast("IO[bytes]", stream))  # It reads and tells.
    for count, (opcode, argument, _) in enumerate(opcodes):
        puts = opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"}
        if puts and isinstance(argument, int) and argument > count:
            raise ValueError(f"it numbers an object {argument}, of at most {count}")
        # An object that another library has registered would come by no name.
        if opcode.name.startswith("EXT"):
            raise ValueError("it asks for an object by its number in a registry")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def _is_natural_number(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _are_natural_numbers(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `values` can be a shape."""
    return isinstance(values, tuple) and all(
        _is_natural_number(value) for value in values
    )


_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)


class StorageBytes(NamedTuple):
    """Where the elements of a storage lie.

    Attributes:
        buffer: The bytes that hold them, and perhaps others.
        start: Position of the first in the buffer, in bytes.
    """

    buffer: Any
    start: int


def materialize_values(
    root: object, *, elements: Mapping[str, StorageBytes], budget: MemoryBudget
):
    """Replaces what stands for tensors and arrays, at any depth, by arrays.

    Args:
        root: What `TorchUnpickler` read.
        elements: The storages by key.
        budget: What the file still may ask for.

    Returns:
        The same dicts, lists, tuples and sets, where every array is its own.

    Raises:
        ValueError: If something else is among them, or something contains itself.
    """
    begun: dict[int, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, TensorView):
            budget.spend(_size_in_bytes(value))
            return _materialize_tensor(value, elements[value.storage.key])
        if isinstance(value, Pickled) and value.value is not None:
            budget.spend(value.value.nbytes)
            array = value.value
            return to_native_array(array) if isinstance(array, np.ndarray) else array
        if type(value) in _PLAIN_TYPES:
            return value
        # Once each: a file could name one list twice in a list, and that twice ...
        if id(value) not in begun:
            begun[id(value)] = _UNFINISHED
            begun[id(value)] = container(value)
        if begun[id(value)] is _UNFINISHED:
            raise ValueError(f"it holds a {type(value).__name__} that contains itself")
        return begun[id(value)]

    def container(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        if type(value) in {list, tuple, set}:
            return type(value)(plain(item) for item in value)
        kind = type(value).__name__.strip("_")
        raise ValueError(f"it holds a {kind} that is part of no array")

    return plain(root)


_UNFINISHED = object()


def _size_in_bytes(tensor: TensorView) -> int:
    return int(np.prod(tensor.shape, dtype=object)) * tensor.storage.dtype.itemsize


def _materialize_tensor(
    tensor: TensorView, elements: StorageBytes
) -> Shaped[np.ndarray, "..."]:
    """Copies what a tensor sees of its storage."""
    dtype = tensor.storage.dtype
    # NumPy checks again that this stays within the buffer.
    view = np.ndarray(
        tensor.shape,
        dtype,
        buffer=elements.buffer,
        offset=elements.start + tensor.offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in tensor.strides),
    )
    return to_native_array(view)
