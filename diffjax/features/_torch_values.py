"""From what torch's pickles describe to plain Python and NumPy values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from ._state_dict import own_array
from ._torch_pickle import Budget, Pickled, Tensor

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Elements(NamedTuple):
    """Where the elements of a storage lie.

    Attributes:
        buffer: The bytes that hold them, and perhaps others.
        start: Position of the first in the buffer, in bytes.
    """

    buffer: Any
    start: int


def plain_values(root: object, *, elements: Mapping[str, Elements], budget: Budget):
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
        if isinstance(value, Tensor):
            budget.spend(_size_in_bytes(value))
            return _materialise(value, elements[value.storage.key])
        if isinstance(value, Pickled) and value.value is not None:
            budget.spend(value.value.nbytes)
            array = value.value
            return own_array(array) if isinstance(array, np.ndarray) else array
        if type(value) in _PLAIN:
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


def _size_in_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=object)) * tensor.storage.dtype.itemsize


def _materialise(tensor: Tensor, elements: Elements) -> Shaped[np.ndarray, "..."]:
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
    return own_array(view)
