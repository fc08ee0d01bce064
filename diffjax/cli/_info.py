"""Command `diffjax info`: what is in an index, and what computes here."""

import pathlib

from diffjax.index import describe_file
from diffjax.index import verify as verify_file
from diffjax.native import find_library

from ._usage import UsageError, say


def info(*, index: pathlib.Path | None, verify: bool) -> None:
    """Prints what is in an index, and whether native kernels or JAX compute here."""
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
