"""Export cache: weights and StableHLO programs of a network, stored on disk."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax import export
from jaxtyping import Array, Float, Int, UInt8

from diffjax._io import file_digest, write_atomically
from diffjax.networks import Network

from ._checkpoint import PretrainedNetwork

# Source files that an exported program depends on.
_SOURCE_FOLDERS = tuple(
    pathlib.Path(__file__).parents[1] / name for name in ("networks", "weights")
)
_ENVIRONMENT_PREFIXES = "JAX_", "XLA_"  # Variables that change what a program computes.
_DESCRIPTION_KEY = "description"
_HASH_BYTES = hashlib.sha256().digest_size

ExportedProgram = Callable[..., dict[str, Array]]


class _NetworkDescription(NamedTuple):
    """Description of a network beside its weights; see `PretrainedNetwork`."""

    architecture: str
    strides: dict[str, int]
    multiple: int
    gem_power: float | None


class ExportedNetwork:
    """Network as stored programs; the Flax module is only built for a new shape.

    A program is the StableHLO of the traced network as `jax.export` stores it: the same
    operations, so the same bits. It is compiled, or taken from JAX's cache of compiled
    programs, at its first call.

    Attributes:
        strides: Pixels per cell of each named map, as in the network.
        multiple: Multiple that the sides of pictures must have, as in the network.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        description: _NetworkDescription,
        weights: list[Array],
        build: Callable[[], Network],
    ) -> None:
        """Stores a description, weights, and `build`, which makes the Flax module."""
        self.strides: Mapping[str, int] = description.strides
        self.multiple = description.multiple
        self._folder = folder
        self._weights = weights
        self._build = build
        self._programs: dict[str, ExportedProgram] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        images: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
        *,
        names: tuple[str, ...],
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes the named maps; `sizes` must fulfil the rules of `forward`."""
        shape = "x".join(map(str, images.shape))
        name = "-".join((*names, shape, str(images.dtype)))
        with self._lock:  # One of several threads builds, the others wait.
            if name not in self._programs:
                path = self._folder / f"{name}.stablehlo"
                self._programs[name] = self._load_program(path, images, sizes, names)
        return self._programs[name](self._weights, images, sizes)

    def _load_program(
        self,
        path: pathlib.Path,
        images: Array,
        sizes: Array,
        names: tuple[str, ...],
    ) -> ExportedProgram:
        stored = _read_cached(path)
        if stored is None:
            tree = jax.tree.structure(self._build())

            def run_network(weights, images, sizes):
                maps = jax.tree.unflatten(tree, weights)(images, sizes)
                return {name: maps[name] for name in names}

            exported = export.export(jax.jit(run_network))(self._weights, images, sizes)
            stored = bytes(exported.serialize())
            _write_cached(path, stored)
        return jax.jit(export.deserialize(bytearray(stored)).call)


class CachedNetwork(NamedTuple):
    """Network from the export cache, without the whitenings of its weights file.

    Attributes:
        network: The network, as stored programs.
        architecture: Name of the architecture, as in `PretrainedNetwork`.
        fingerprint: SHA-256 of the weights file, as in `PretrainedNetwork`.
        gem_power: Power of GeM or None, as in `PretrainedNetwork`.
    """

    network: ExportedNetwork
    architecture: str
    fingerprint: str
    gem_power: float | None


def load_or_export_network(
    load: Callable[[], PretrainedNetwork], weights: pathlib.Path, folder: pathlib.Path
) -> CachedNetwork:
    """Loads a network from the export cache; exports it if the cache lacks it.

    An entry is valid as long as the weights, the sources of `networks` and `weights`,
    the version of JAX and its settings are the same. A damaged file is written again.

    Args:
        load: Loads the network; called at most once, and only when needed.
        weights: Path of the weights file that `load` reads.
        folder: Folder of the cache.

    Returns:
        The network that `load` returns, without its whitenings.

    Raises:
        ValueError: If `load` raises it.
        OSError: If `load` raises it, or `weights` can't be read.
    """
    load = functools.cache(load)
    fingerprint = file_digest(weights)
    entry = folder / f"{weights.stem}-{_cache_key(fingerprint)}"
    path = entry / "weights.safetensors"
    stored = _deserialize_network(_read_cached(path))
    if stored is None:
        pretrained = load()
        network = pretrained.network
        description = _NetworkDescription(
            architecture=pretrained.architecture,
            strides=dict(network.strides),
            multiple=network.multiple,
            gem_power=pretrained.gem_power,
        )
        arrays = jax.tree.leaves(network)
        _write_cached(path, _serialize_network(description, arrays))
        stored = description, arrays
    description, arrays = stored
    return CachedNetwork(
        network=ExportedNetwork(entry, description, arrays, lambda: load().network),
        architecture=description.architecture,
        fingerprint=fingerprint,
        gem_power=description.gem_power,
    )


def _cache_key(fingerprint: str) -> str:
    """Hashes everything that the stored weights and programs depend on."""
    settings = [
        jax.__version__,
        jax.default_backend(),
        jax.config.values["jax_enable_x64"],
        sorted(
            pair
            for pair in os.environ.items()
            if pair[0].startswith(_ENVIRONMENT_PREFIXES)
        ),
    ]
    digest = hashlib.sha256(json.dumps([fingerprint, settings]).encode())
    for path in sorted(p for f in _SOURCE_FOLDERS for p in f.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _serialize_network(description: _NetworkDescription, arrays: list[Array]) -> bytes:
    named = {str(number): np.asarray(array) for number, array in enumerate(arrays)}
    text = json.dumps(description._asdict()).encode()
    return safetensors.numpy.save(
        named | {_DESCRIPTION_KEY: np.frombuffer(text, np.uint8)}
    )


def _deserialize_network(
    stored: bytes | None,
) -> tuple[_NetworkDescription, list[Array]] | None:
    if stored is None:
        return None
    arrays = safetensors.numpy.load(stored)
    text = arrays.pop(_DESCRIPTION_KEY).tobytes()
    description = _NetworkDescription(**json.loads(text))
    return description, [
        jax.device_put(arrays[str(number)]) for number in range(len(arrays))
    ]


def _write_cached(path: pathlib.Path, data: bytes) -> None:
    """Writes data after its hash; a folder that can't be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(data).digest() + data, sync=False)


def _read_cached(path: pathlib.Path) -> bytes | None:
    """Reads cached data; None if the file is missing or its hash does not fit."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    data = stored[_HASH_BYTES:]
    return data if hashlib.sha256(data).digest() == stored[:_HASH_BYTES] else None
