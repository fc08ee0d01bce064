"""Results that are kept by what they depend on: a changed setting computes its own.

A result's file is named by a hash of its settings, of the data, of the sources that
compute, of the libraries' versions and of the device, so that nothing computed by other
code is ever taken for new. Times are never
kept: whoever reports one takes it.
"""

import functools
import hashlib
import inspect
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

import diffjax
from diffjax._io import write_atomically
from diffjax.report import versions

# These only show what was computed.
_PRESENTATION_MODULES = "report", "cli"

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


@functools.cache
def sources_digest() -> str:
    """Hash of the Python sources that results are computed by."""
    package, here = pathlib.Path(diffjax.__file__).parent, pathlib.Path(__file__).parent
    paths = [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0].removesuffix(".py")
        not in _PRESENTATION_MODULES
    ]
    digest = hashlib.sha256()
    # What several experiments share computes; the others put it together.
    for path in (*paths, *sorted(here.rglob("_*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def arrays_digest(arrays: Arrays) -> str:
    """Hash of named arrays, their types and shapes."""
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
    """Computes arrays, or finds what was computed of the same before.

    Args:
        folder: Where results are kept.
        key: All that they depend on beside the sources, as JSON values.
        compute: Computes them.
        by: What `compute` calls, if that is where the work is written.
        sources: Hash of the sources; None is those of this package, of what experiments
            share, and of the module that the work is written in.

    Returns:
        The arrays.

    Raises:
        OSError: If they can't be written; what was kept before stays.
    """
    known = sources or [sources_digest(), _module_digest(by or compute)]
    where = {"versions": versions(), "device": jax.devices()[0].device_kind}
    named = json.dumps([dict(key), known, where], sort_keys=True)
    digest = hashlib.sha256(named.encode()).hexdigest()
    path = folder / f"{digest[:32]}.safetensors"
    if not path.is_file():
        dense = {name: np.array(array, order="C") for name, array in compute().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        data = safetensors.numpy.save(dense, metadata={"key": named})
        write_atomically(path, data, sync=False)
    return safetensors.numpy.load_file(path)


def _module_digest(work: Callable[..., Any]) -> str:
    """Hash of the module that a function, or an object that can be called, is from."""
    source = work if inspect.isfunction(work) else type(work)
    return hashlib.sha256(
        pathlib.Path(inspect.getfile(source)).read_bytes()
    ).hexdigest()
