"""Restricted unpickler for the pickles in torch files; it runs no code in them."""

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
# Largest memory of the contents, in multiples of the file's size: views that share a
# storage are copied separately, so a small file could ask for any amount of memory.
_MAX_FILE_MULTIPLE = 8
_PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)
_UNFINISHED = object()  # Marks a container whose conversion has begun.
# Reading beyond the end of a stream returns the bytes up to it, and allocates no more.
Stream = io.BytesIO | mmap.mmap
# Errors of the unpickler for damaged or hostile streams.
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
    """Memory budget: the bytes that the contents of a file may still take."""

    def __init__(self, file_size: int) -> None:
        """Sets the budget to a fixed multiple of `file_size` bytes."""
        self._file_size = file_size
        self._remaining = _MAX_FILE_MULTIPLE * file_size

    def spend(self, size: int) -> None:
        """Subtracts `size` bytes; raises where the budget is exceeded."""
        self._remaining -= size
        if self._remaining < 0:
            raise ValueError(
                f"it asks for more than {_MAX_FILE_MULTIPLE} times its "
                f"{self._file_size} bytes"
            )


class Storage(NamedTuple):
    """Storage: a flat array that tensors are views of.

    Attributes:
        key: Name of the storage within the file.
        dtype: Type of the elements.
        size: Number of elements.
    """

    key: str
    dtype: np.dtype
    size: int


class TensorView(NamedTuple):
    """Tensor as a view of a storage, in units of elements, within its bounds.

    Attributes:
        storage: The storage.
        offset: Position of the first element in the storage.
        shape: Shape of the tensor.
        strides: Steps in the storage between neighbours along each axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchUnpickler(pickle.Unpickler):
    """Unpickler that knows the names that weights need and refuses all others.

    No pickled name resolves to the object that it names: it resolves to a stand-in of
    this module, which checks its arguments and stores them as plain data. Tensors
    become `TensorView`, NumPy arrays become `Pickled`.

    Args:
        stream: The file, at the start of the pickle; reading moves it to the end.
        budget: Memory that the contents may take.
        storages: Storages read so far, by key; new ones are added.
    """

    def __init__(
        self, stream: Stream, *, budget: MemoryBudget, storages: dict[str, Storage]
    ) -> None:
        """Validates the opcodes of the pickle before any is executed."""
        # Python 2 pickled NumPy's bytes as strings; latin-1 keeps each byte as it is.
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
        """Returns the stand-in for a pickled name; raises for unknown names."""
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        function = self._stand_ins.get(f"{module}.{name}")
        if function is None:
            raise ValueError(f"it asks for {module}.{name}, which no state dict needs")
        return _StandIn(function)

    def persistent_load(self, pid: Any) -> Storage:
        """Returns the storage of a pickled reference, without its data."""
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
        """Stands for `_codecs.encode`, with which protocol 2 pickles bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError(f"it asks for a text in {encoding!r}, not latin1")
        self._budget.spend(len(text))
        return text.encode("latin1")

    def _scalar(self, dtype: object, content: object) -> "Pickled":
        """Stands for the NumPy function that makes a scalar of a dtype and bytes."""
        scalar = Pickled()
        scalar.__setstate__((1, (), dtype, False, content))
        scalar.value = scalar.value[()]
        return scalar

    def _container_factory(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for a container type, called with a list of items or nothing."""

        def make_container(items: object = ()) -> object:
            if not isinstance(items, list | tuple):
                raise ValueError(f"it makes a {kind.__name__} of no list")
            self._budget.spend(8 * len(items))
            return kind(items)

        return make_container


class _StandIn:
    """Stand-in for a pickled name: it can be called and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("it sets the attributes of a function")


class _StorageType(NamedTuple):
    """Stand-in for a storage class of torch: the type of its elements."""

    dtype: np.dtype


class _Dict(dict):
    """Stand-in for `OrderedDict`; attributes that torch adds are ignored."""

    def __setstate__(self, state: object) -> None:
        """Ignores `_metadata`, which holds the versions of a network's layers."""


class _Dtype:
    """Stand-in for a NumPy dtype of plain elements."""

    def __init__(self, name: object, *_: object) -> None:
        """Takes the name, such as f8; the byte order follows as state."""
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
    """Stand-in for a NumPy array or scalar, whose contents follow in the pickle.

    Attributes:
        value: The array or scalar, as a view of the pickle's bytes; None before the
            contents are read.
    """

    def __init__(self, *_: object) -> None:
        """Ignores the arguments: NumPy's class, shape (0,) and a placeholder dtype."""
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        """Takes the contents; refuses objects, and shapes that do not fit the bytes."""
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
    """Stands for torch's tensor constructor; refuses views outside their storage."""
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
    """Stands for torch's parameter constructor; returns the tensor."""
    return data


def _rebuild_empty_bytes() -> bytes:
    """Stands for `bytes`, which protocol 2 calls for empty bytes alone."""
    return b""


def _refuse_ndarray_call(*_: object) -> None:
    """Stands for `numpy.ndarray`, which pickles name and never call."""
    raise ValueError("it makes a NumPy array in a way that NumPy does not")


def _read_validated_pickle(stream: Stream) -> bytes:
    """Reads the bytes of one pickle up to its end, and validates the opcodes.

    The unpickler allocates the sizes that a pickle announces (the bytes of a text, the
    entries of a memo) before it reads the data; this function checks the sizes first.
    """
    start = stream.tell()
    opcodes = pickletools.genops(cast("IO[bytes]", stream))
    for count, (opcode, argument, _) in enumerate(opcodes):
        puts = opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"}
        if puts and isinstance(argument, int) and argument > count:
            raise ValueError(f"it numbers an object {argument}, of at most {count}")
        # Objects registered by other libraries are pickled without their names.
        if opcode.name.startswith("EXT"):
            raise ValueError("it asks for an object by its number in a registry")
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def _is_natural_number(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _are_natural_numbers(values: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `values` is a tuple of natural numbers, as a shape is."""
    return isinstance(values, tuple) and all(
        _is_natural_number(value) for value in values
    )


class StorageBytes(NamedTuple):
    """Location of the elements of a storage.

    Attributes:
        buffer: Bytes that contain the elements.
        start: Position of the first element in the buffer, in bytes.
    """

    buffer: Any
    start: int


def materialize_values(
    root: object, *, elements: Mapping[str, StorageBytes], budget: MemoryBudget
):
    """Replaces the stand-ins for tensors and arrays, at any depth, by arrays.

    Args:
        root: Value that `TorchUnpickler` returned.
        elements: Elements of the storages, by key.
        budget: Memory that the contents may still take.

    Returns:
        Copies of the dicts, lists, tuples and sets, whose arrays share no memory.

    Raises:
        ValueError: If there are values of other types, or a container contains itself.
    """
    converted: dict[int, Any] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, TensorView):
            budget.spend(_size_in_bytes(value))
            return _materialize_tensor(value, elements[value.storage.key])
        if isinstance(value, Pickled) and value.value is not None:
            budget.spend(value.value.nbytes)
            array = value.value
            return to_native_array(array) if isinstance(array, np.ndarray) else array
        if type(value) in _PLAIN_TYPES:
            return value
        # Each container once: a list may hold one list twice, which holds one twice ...
        if id(value) not in converted:
            converted[id(value)] = _UNFINISHED
            converted[id(value)] = convert_container(value)
        if converted[id(value)] is _UNFINISHED:
            raise ValueError(f"it holds a {type(value).__name__} that contains itself")
        return converted[id(value)]

    def convert_container(value: Any) -> Any:
        if isinstance(value, dict):
            return {convert(key): convert(item) for key, item in value.items()}
        if type(value) in {list, tuple, set}:
            return type(value)(convert(item) for item in value)
        kind = type(value).__name__.strip("_")
        raise ValueError(f"it holds a {kind} that is part of no array")

    return convert(root)


def _size_in_bytes(tensor: TensorView) -> int:
    return int(np.prod(tensor.shape, dtype=object)) * tensor.storage.dtype.itemsize


def _materialize_tensor(
    tensor: TensorView, elements: StorageBytes
) -> Shaped[np.ndarray, "..."]:
    """Copies the elements of a tensor out of its storage."""
    dtype = tensor.storage.dtype
    # NumPy checks again that the view stays within the buffer.
    view = np.ndarray(
        tensor.shape,
        dtype,
        buffer=elements.buffer,
        offset=elements.start + tensor.offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in tensor.strides),
    )
    return to_native_array(view)
