"""Checkpoints: the tensors of a weights file, and the network loaded from them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from diffjax.networks import Network
from diffjax.types import Whitening

# Names under which training scripts save the state dict beside other things. Where a
# file has several dicts of tensors, the first of these names is the network.
_STATE_DICT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
_DATA_PARALLEL_PREFIX = "module."  # torch.nn.DataParallel puts it before each name.
_HALF_PRECISION_DTYPES = (np.dtype(np.float16), np.dtype(jnp.bfloat16))


class Checkpoint(NamedTuple):
    """Contents of a weights file.

    Attributes:
        tensors: Weights by name, in the order of the file. Each is a contiguous array
            that shares no memory; half precision and bfloat16 are widened to float32.
        extras: Everything else in the file, by name: plain Python and NumPy values.
        source: Name of the file, for error messages.
    """

    tensors: dict[str, Shaped[np.ndarray, "..."]]
    extras: dict[str, Any]
    source: str


def select_state_dict(contents: object, *, source: str) -> Checkpoint:
    """Selects the state dict, a dict of arrays, in the contents of a file.

    The state dict is the entry under the first usual name ("state_dict", "model", ...)
    that holds an array, else the contents themselves if they hold an array, else the
    only entry that is a dict with an array. Everything else goes to the extras. A
    prefix "module." of all names, which torch.nn.DataParallel adds, is removed.

    Args:
        contents: Plain Python values and NumPy arrays.
        source: Name of the file, for error messages.

    Returns:
        The weights, with everything else as extras.

    Raises:
        ValueError: If there is no dict of arrays, or several and none with a usual
            name. The message does not name the file.
    """
    if not isinstance(contents, dict):
        raise ValueError(f"it holds a {type(contents).__name__}, not a dict of tensors")
    key = _find_state_dict_key(contents)
    weights = contents if key is None else contents[key]
    others = {} if key is None else {k: v for k, v in contents.items() if k != key}
    tensors = {}
    extras = {}
    for name, value in weights.items():
        if isinstance(value, np.ndarray):
            if not isinstance(name, str):
                raise ValueError(f"tensor {name!r} has no name")
            tensors[name] = value
        else:
            extras[str(name)] = value
    extras |= {str(name): value for name, value in others.items()}
    if contents and not tensors:
        raise ValueError("it holds no tensors")
    if all(name.startswith(_DATA_PARALLEL_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(_DATA_PARALLEL_PREFIX): array
            for name, array in tensors.items()
        }
    return Checkpoint(tensors, extras, source)


def to_native_array(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Copies an array to contiguous memory, native byte order and at least float32.

    Half precision and bfloat16 are widened to float32, which loses nothing: it has
    every number of theirs. Other types are kept.
    """
    dtype = array.dtype.newbyteorder("=")
    return array.astype(
        np.float32 if dtype in _HALF_PRECISION_DTYPES else dtype, order="C"
    )


def _find_state_dict_key(contents: dict) -> Any | None:
    """Finds the key of the state dict; None if it is `contents` itself."""
    candidates = [key for key, value in contents.items() if _contains_arrays(value)]
    for name in _STATE_DICT_KEYS:
        if name in candidates:
            return name
    if _contains_arrays(contents):
        return None
    if len(candidates) > 1:
        names = ", ".join(map(repr, candidates))
        raise ValueError(f"it holds several dicts of tensors, {names}: keep one")
    return candidates[0] if candidates else None


def _contains_arrays(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(item, np.ndarray) for item in value.values()
    )


class PretrainedNetwork(NamedTuple):
    """Network with the weights of a file, its pooling power and its whitenings.

    Attributes:
        network: The network.
        architecture: Name of the architecture, one of `network_names`.
        naming: Name of the name map that the tensors follow, such as torchvision.
        fingerprint: SHA-256 of the file, in hexadecimal digits.
        gem_power: Power of the generalised-mean pooling that the weights were trained
            with; None where the file has none.
        whitenings: Whitenings of descriptors, by name: `end-to-end` was learned with
            the network, `DATASET/ss` and `DATASET/ms` were fitted afterwards, to
            descriptors of one scale and of several.
    """

    network: Network
    architecture: str
    naming: str
    fingerprint: str
    gem_power: float | None
    whitenings: dict[str, Whitening]
