"""`diffjax info`: what is in an index, and what computes here."""

import pathlib
from typing import Annotated

from tyro.conf import Positional, arg

from diffjax.index import describe_file, verify
from diffjax.native import find_library

from ._usage import UsageError, say


def info(
    index: Positional[Annotated[pathlib.Path | None, arg(metavar="[INDEX]")]] = None,
    *,
    verify_: Annotated[bool, arg(name="verify")] = False,
) -> None:
    """Say what is in an index, and what computes here: native kernels or JAX's own.

    Args:
        index: Folder that `diffjax index` or `index-vectors` made; without it only what
            computes here.
        verify_: Also compare every byte with its hash.
    """
    rows = []
    if verify_:
        if index is None:
            raise UsageError("--verify needs the INDEX to verify: name it.")
        verify(index)
    if index is not None:
        rows += describe_file(index).items()
    rows += [("verified", "every byte")] if verify_ else []
    rows.append(("products here", find_library().description))
    width = max(len(name) for name, _ in rows)
    say("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
