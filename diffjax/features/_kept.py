"""A network as its weights and its programs, kept: neither is made twice."""

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

from diffjax._files import file_digest, write_whole

from ._network import Network
from ._pretrained import Pretrained

_SOURCES = pathlib.Path(__file__).parent
_SETTINGS = "JAX_", "XLA_"  # Variables that change what a program computes.
_FACTS = "facts"
_HASH = hashlib.sha256().digest_size

Program = Callable[..., dict[str, Array]]


class _Facts(NamedTuple):
    """What is known of a network beside its weights; see `Pretrained`."""

    architecture: str
    strides: dict[str, int]
    multiple: int
    gem_power: float | None


class KeptNetwork:
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
        facts: _Facts,
        weights: list[Array],
        build: Callable[[], Network],
    ) -> None:
        """Takes what `keep_network` found; `build` makes the network itself."""
        self.strides: Mapping[str, int] = facts.strides
        self.multiple = facts.multiple
        self._folder = folder
        self._weights = weights
        self._build = build
        self._programs: dict[str, Program] = {}
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
                self._programs[name] = self._program(path, images, sizes, names)
        return self._programs[name](self._weights, images, sizes)

    def _program(
        self,
        path: pathlib.Path,
        images: Array,
        sizes: Array,
        names: tuple[str, ...],
    ) -> Program:
        stored = _read(path)
        if stored is None:
            tree = jax.tree.structure(self._build())

            def run(weights, images, sizes):
                maps = jax.tree.unflatten(tree, weights)(images, sizes)
                return {name: maps[name] for name in names}

            traced = export.export(jax.jit(run))(self._weights, images, sizes)
            stored = bytes(traced.serialize())
            _write(path, stored)
        return jax.jit(export.deserialize(bytearray(stored)).call)


class Kept(NamedTuple):
    """A network that was kept, and what else its file of weights knows.

    Attributes:
        network: The network.
        architecture: As of `Pretrained`.
        fingerprint: As of `Pretrained`.
        gem_power: As of `Pretrained`.
    """

    network: KeptNetwork
    architecture: str
    fingerprint: str
    gem_power: float | None


def keep_network(
    load: Callable[[], Pretrained], weights: pathlib.Path, folder: pathlib.Path
) -> Kept:
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
    home = folder / f"{weights.stem}-{_key(fingerprint)}"
    path = home / "weights.safetensors"
    found = _unpack(_read(path))
    if found is None:
        pretrained = load()
        network = pretrained.network
        facts = _Facts(
            architecture=pretrained.architecture,
            strides=dict(network.strides),
            multiple=network.multiple,
            gem_power=pretrained.gem_power,
        )
        arrays = jax.tree.leaves(network)
        _write(path, _pack(facts, arrays))
        found = facts, arrays
    facts, arrays = found
    return Kept(
        network=KeptNetwork(home, facts, arrays, lambda: load().network),
        architecture=facts.architecture,
        fingerprint=fingerprint,
        gem_power=facts.gem_power,
    )


def _key(fingerprint: str) -> str:
    """Identifies all that a network's weights and programs depend on."""
    settings = [
        jax.__version__,
        jax.default_backend(),
        jax.config.values["jax_enable_x64"],
        sorted(pair for pair in os.environ.items() if pair[0].startswith(_SETTINGS)),
    ]
    found = hashlib.sha256(json.dumps([fingerprint, settings]).encode())
    for path in sorted(_SOURCES.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:24]


def _pack(facts: _Facts, arrays: list[Array]) -> bytes:
    named = {str(number): np.asarray(array) for number, array in enumerate(arrays)}
    text = json.dumps(facts._asdict()).encode()
    return safetensors.numpy.save(named | {_FACTS: np.frombuffer(text, np.uint8)})


def _unpack(stored: bytes | None) -> tuple[_Facts, list[Array]] | None:
    if stored is None:
        return None
    arrays = safetensors.numpy.load(stored)
    facts = _Facts(**json.loads(arrays.pop(_FACTS).tobytes()))
    return facts, [jnp.asarray(arrays[str(number)]) for number in range(len(arrays))]


def _write(path: pathlib.Path, data: bytes) -> None:
    """Keeps a file behind its hash; one that can't be kept is made the next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, hashlib.sha256(data).digest() + data, sync=False)


def _read(path: pathlib.Path) -> bytes | None:
    """Gives what was kept; None if there is nothing, or not what was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    data = stored[_HASH:]
    return data if hashlib.sha256(data).digest() == stored[:_HASH] else None
