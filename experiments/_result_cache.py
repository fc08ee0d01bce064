"""Caches of computed arrays, on disk, and of objects, for the life of a process.

A result's file is named by a hash of its settings, of the data, of the sources that
compute, of the libraries' versions and of the device, so that nothing computed by other
code is ever taken for new. Times are never cached: whoever reports one measures it.
"""

import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

import diffjax
from diffjax._io import write_atomically
from diffjax.report import versions

# Stages that only show results: a change of theirs computes nothing anew.
_PRESENTATION_MODULES = "report", "cli"

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
T = TypeVar("T")


class ObjectCache:
    """Base class that keeps computed objects by name for the life of an instance."""

    def compute_once(self, name: str, make: Callable[[], T]) -> T:
        """Makes an object at the first call and returns it again under its name.

        Args:
            name: Name of the object.
            make: Makes the object.
        """
        if name not in self._objects:
            self._objects[name] = make()
        return self._objects[name]

    @functools.cached_property
    def _objects(self) -> dict[str, Any]:
        return {}


@functools.cache
def sources_digest() -> str:
    """Hashes the Python sources that compute results."""
    package = pathlib.Path(diffjax.__file__).parent
    experiments = pathlib.Path(__file__).parent
    paths = [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0].removesuffix(".py")
        not in _PRESENTATION_MODULES
    ]
    digest = hashlib.sha256()
    # Private modules compute; public ones, the experiments, put results together.
    for path in (*paths, *sorted(experiments.rglob("_*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def arrays_digest(arrays: Arrays) -> str:
    """Hashes named arrays with their types and shapes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        dense = np.ascontiguousarray(array)
        digest.update(f"{name} {dense.dtype} {dense.shape}\0".encode())
        digest.update(dense.tobytes())
    return digest.hexdigest()


def load_or_compute_arrays(
    folder: pathlib.Path,
    key: Mapping[str, Any],
    compute: Callable[[], Arrays],
    *,
    by: Callable[..., Any] | None = None,
    sources: str | None = None,
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Loads arrays from the cache, or computes and stores them.

    Args:
        folder: Folder of the cache.
        key: All that the arrays depend on beside the sources, as JSON values.
        compute: Computes the arrays.
        by: Function that `compute` calls, if the work is written there.
        sources: Hash of the sources; None is those of this package, of the experiments'
            private modules, and of the module in which the work is written.

    Returns:
        The arrays.

    Raises:
        OSError: If they can't be written; what the cache held before stays.
    """
    code = sources or [sources_digest(), _module_digest(by or compute)]
    platform = {"versions": versions(), "device": jax.devices()[0].device_kind}
    identity = json.dumps([dict(key), code, platform], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    path = folder / f"{digest[:32]}.safetensors"
    if not path.is_file():
        dense = {name: np.array(array, order="C") for name, array in compute().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        data = safetensors.numpy.save(dense, metadata={"key": identity})
        write_atomically(path, data, sync=False)
    return safetensors.numpy.load_file(path)


def _module_digest(work: Callable[..., Any]) -> str:
    """Hashes the module of a function or of a callable object's class."""
    source = work if inspect.isfunction(work) else type(work)
    return hashlib.sha256(
        pathlib.Path(inspect.getfile(source)).read_bytes()
    ).hexdigest()
