"""Results that are kept by what they depend on: a changed setting computes its own.

A result's file is named by a hash of its settings, of the data and of the sources that
compute, so that nothing computed by other code is ever taken for new.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Shaped

import diffjax

_LAST = "report", "demo", "commands", "cli"  # These only show what was computed.

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]


@functools.cache
def sources_digest() -> str:
    """Hash of the Python sources that results are computed by."""
    package, here = pathlib.Path(diffjax.__file__).parent, pathlib.Path(__file__).parent
    paths = [
        path
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0].removesuffix(".py") not in _LAST
    ]
    digest = hashlib.sha256()
    # What several experiments share computes; the others put it together.
    for path in (*paths, *sorted(here.glob("_*.py"))):
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


def kept(
    folder: pathlib.Path,
    key: Mapping[str, Any],
    compute: Callable[[], Arrays],
    *,
    sources: str | None = None,
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Computes arrays, or finds what was computed of the same before.

    Args:
        folder: Where results are kept.
        key: All that they depend on beside the sources, as JSON values.
        compute: Computes them.
        sources: Hash of the sources; None is those of this package.

    Returns:
        The arrays.
    """
    named = json.dumps([dict(key), sources or sources_digest()], sort_keys=True)
    digest = hashlib.sha256(named.encode()).hexdigest()
    path = folder / f"{digest[:32]}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        dense = {name: np.array(array, order="C") for name, array in compute().items()}
        aside = path.with_suffix(".part")
        safetensors.numpy.save_file(dense, aside, metadata={"key": named})
        aside.replace(path)
    return safetensors.numpy.load_file(path)
