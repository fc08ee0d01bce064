"""Export cache: a network's weights and StableHLO programs, kept on disk."""

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
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax import export
from jaxtyping import Array, Float, Int, UInt8

from diffjax._io import file_digest, write_atomically
from diffjax.networks import Network

from ._checkpoint import PretrainedNetwork

# Sources that an exported program is made by.
_SOURCE_FOLDERS = tuple(
    pathlib.Path(__file__).parents[1] / name for name in ("networks", "weights")
)
_ENVIRONMENT_PREFIXES = "JAX_", "XLA_"  # Variables that change what a program computes.
_DESCRIPTION_KEY = "facts"
_HASH_BYTES = hashlib.sha256().digest_size

ExportedProgram = Callable[..., dict[str, Array]]


class _NetworkDescription(NamedTuple):
    """What is known of a network beside its weights; see `PretrainedNetwork`."""

    architecture: str
    strides: dict[str, int]
    multiple: int
    gem_power: float | None


class ExportedNetwork:
    """Gives a network's maps; the network itself is built for a new shape alone.

    A program is what tracing the network gave, StableHLO as `jax.export` stores it:
    the same operations, so the same bits. It is compiled, or taken from JAX's cache of
    compiled programs, when it is first called.

    Attributes:
        strides: As of the network.
        multiple: As of the network.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        facts: _NetworkDescription,
        weights: list[Array],
        build: Callable[[], Network],
    ) -> None:
        """Keeps an exported network, and `build`, which makes the network itself."""
        self.strides: Mapping[str, int] = facts.strides
        self.multiple = facts.multiple
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
        """Computes the named maps; `sizes` must be as `forward` wants them."""
        shape = "x".join(map(str, images.shape))
        name = "-".join((*names, shape, str(images.dtype)))
        with self._lock:  # Of several threads one builds, the others wait.
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

            def run(weights, images, sizes):
                maps = jax.tree.unflatten(tree, weights)(images, sizes)
                return {name: maps[name] for name in names}

            traced = export.export(jax.jit(run))(self._weights, images, sizes)
            stored = bytes(traced.serialize())
            _write_cached(path, stored)
        return jax.jit(export.deserialize(bytearray(stored)).call)


class CachedNetwork(NamedTuple):
    """A network that was kept, and what else its file of weights knows.

    Attributes:
        network: The network.
        architecture: As of `PretrainedNetwork`.
        fingerprint: As of `PretrainedNetwork`.
        gem_power: As of `PretrainedNetwork`.
    """

    network: ExportedNetwork
    architecture: str
    fingerprint: str
    gem_power: float | None


def load_or_export_network(
    load: Callable[[], PretrainedNetwork], weights: pathlib.Path, folder: pathlib.Path
) -> CachedNetwork:
    """Loads a network as far as an earlier call did not keep it in a folder.

    What was kept is used as long as the weights, the sources of this stage, the version
    of JAX and its settings are the same; a file that is damaged is made anew.

    Args:
        load: Loads the network; called if it is needed, and then once.
        weights: The file that it loads.
        folder: Where networks are kept.

    Returns:
        What `load` gives, but for its whitenings.

    Raises:
        ValueError: As `load`.
        OSError: As `load`, or if `weights` can't be read.
    """
    load = functools.cache(load)
    fingerprint = file_digest(weights)
    home = folder / f"{weights.stem}-{_cache_key(fingerprint)}"
    path = home / "weights.safetensors"
    found = _deserialize_network(_read_cached(path))
    if found is None:
        pretrained = load()
        network = pretrained.network
        facts = _NetworkDescription(
            architecture=pretrained.architecture,
            strides=dict(network.strides),
            multiple=network.multiple,
            gem_power=pretrained.gem_power,
        )
        arrays = jax.tree.leaves(network)
        _write_cached(path, _serialize_network(facts, arrays))
        found = facts, arrays
    facts, arrays = found
    return CachedNetwork(
        network=ExportedNetwork(home, facts, arrays, lambda: load().network),
        architecture=facts.architecture,
        fingerprint=fingerprint,
        gem_power=facts.gem_power,
    )


def _cache_key(fingerprint: str) -> str:
    """Identifies all that a network's weights and programs depend on."""
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
    found = hashlib.sha256(json.dumps([fingerprint, settings]).encode())
    for path in sorted(p for f in _SOURCE_FOLDERS for p in f.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:24]


def _serialize_network(facts: _NetworkDescription, arrays: list[Array]) -> bytes:
    named = {str(number): np.asarray(array) for number, array in enumerate(arrays)}
    text = json.dumps(facts._asdict()).encode()
    return safetensors.numpy.save(
        named | {_DESCRIPTION_KEY: np.frombuffer(text, np.uint8)}
    )


def _deserialize_network(
    stored: bytes | None,
) -> tuple[_NetworkDescription, list[Array]] | None:
    if stored is None:
        return None
    arrays = safetensors.numpy.load(stored)
    facts = _NetworkDescription(**json.loads(arrays.pop(_DESCRIPTION_KEY).tobytes()))
    return facts, [jnp.asarray(arrays[str(number)]) for number in range(len(arrays))]


def _write_cached(path: pathlib.Path, data: bytes) -> None:
    """Keeps a file behind its hash; one that can't be kept is made the next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(data).digest() + data, sync=False)


def _read_cached(path: pathlib.Path) -> bytes | None:
    """Gives what was kept; None if there is nothing, or not what was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    data = stored[_HASH_BYTES:]
    return data if hashlib.sha256(data).digest() == stored[:_HASH_BYTES] else None
