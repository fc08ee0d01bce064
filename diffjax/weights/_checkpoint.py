"""Checkpoint: the tensors of a weights file, and the network made of them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from diffjax.networks import Network
from diffjax.types import Whitening

# What training scripts call the weights among the other things that they save; where a
# file has several dicts of tensors, the first of these is the network.
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
_DATA_PARALLEL_PREFIX = "module."  # What torch.nn.DataParallel puts before each name.
_HALF_PRECISION_DTYPES = (np.dtype(np.float16), np.dtype(jnp.bfloat16))


class Checkpoint(NamedTuple):
    """The contents of a file of weights.

    Attributes:
        tensors: The weights by name, in the file's order, each a contiguous array of
            its own; half precision and bfloat16 are widened to float32.
        extras: Whatever else the file holds, by name: plain Python and NumPy values.
        source: The file, for messages.
    """

    tensors: dict[str, Shaped[np.ndarray, "..."]]
    extras: dict[str, Any]
    source: str


def select_state_dict(contents: object, *, source: str) -> Checkpoint:
    """Chooses the weights among the contents of a file.

    They are the dict under the first usual name ("state_dict", "model", ...) that holds
    an array, else the contents themselves if they hold one, else the only dict among
    them that does. What is no array beside them goes to the extras, and a "module."
    before all names, which torch.nn.DataParallel puts there, is taken off.

    Args:
        contents: Plain Python values and NumPy arrays.
        source: The file, for messages.

    Returns:
        The weights, and everything else as extras.

    Raises:
        ValueError: If there is no dict of arrays, or no telling which; without the
            file's name.
    """
    if not isinstance(contents, dict):
        raise ValueError(f"it holds a {type(contents).__name__}, not a dict of tensors")
    chosen = _find_state_dict_key(contents)
    weights = contents if chosen is None else contents[chosen]
    rest = {} if chosen is None else {k: v for k, v in contents.items() if k != chosen}
    tensors = {}
    extras = {}
    for name, value in weights.items():
        if isinstance(value, np.ndarray):
            if not isinstance(name, str):
                raise ValueError(f"tensor {name!r} has no name")
            tensors[name] = value
        else:
            extras[str(name)] = value
    extras |= {str(name): value for name, value in rest.items()}
    if contents and not tensors:
        raise ValueError("it holds no tensors")
    if all(name.startswith(_DATA_PARALLEL_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(_DATA_PARALLEL_PREFIX): a for name, a in tensors.items()
        }
    return Checkpoint(tensors, extras, source)


def to_native_array(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Copies an array: contiguous, this machine's byte order, half widened to float32.

    Every number of half precision or bfloat16 is one of float32, so nothing is lost.
    """
    dtype = array.dtype.newbyteorder("=")
    return array.astype(
        np.float32 if dtype in _HALF_PRECISION_DTYPES else dtype, order="C"
    )


def _find_state_dict_key(contents: dict) -> Any | None:
    """Finds the entry that is the dict of weights; None if that is `contents`."""
    found = [key for key, value in contents.items() if _contains_arrays(value)]
    for name in _STATE_DICT_KEYS:
        if name in found:
            return name
    if _contains_arrays(contents):
        return None
    if len(found) > 1:
        names = ", ".join(map(repr, found))
        raise ValueError(f"it holds several dicts of tensors, {names}: keep one")
    return found[0] if found else None


def _contains_arrays(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(item, np.ndarray) for item in value.values()
    )


class PretrainedNetwork(NamedTuple):
    """A network with the weights of a file, and what else the file knows.

    Attributes:
        network: The network.
        architecture: Its name, one of `network_names`.
        naming: Whose names the file's tensors have, such as torchvision.
        fingerprint: SHA-256 of the file, in hexadecimal digits.
        gem_power: Power of the generalised-mean pooling that the weights were trained
            with; None where the file has none.
        whitenings: Whitenings of descriptors, by name: `end-to-end` was learned with
            the network, `DATASET/ss` and `DATASET/ms` were fitted to its descriptors of
            one scale and of several.
    """

    network: Network
    architecture: str
    naming: str
    fingerprint: str
    gem_power: float | None
    whitenings: dict[str, Whitening]
