"""Command `diffjax info`: properties of an index, and of the native kernels."""

import pathlib

from diffjax.index import describe_file
from diffjax.index import verify as verify_file
from diffjax.native import find_library

from ._console import UsageError, say


def info(*, index: pathlib.Path | None, verify: bool) -> None:
    """Prints the properties of an index, and whether native kernels are available."""
    rows = []
    if verify:
        if index is None:
            raise UsageError("--verify needs the INDEX to verify: name it.")
        verify_file(index)
    if index is not None:
        rows += describe_file(index).items()
    rows += [("verified", "every byte")] if verify else []
    rows.append(("products here", find_library().description))
    width = max(len(name) for name, _ in rows)
    say("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
