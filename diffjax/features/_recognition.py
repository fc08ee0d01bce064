"""Which network's weights a file holds, and in whose naming."""

from collections.abc import Collection
from typing import NamedTuple

from ._names import NameTable
from ._namings import name_tables

_SHOWN = 3  # Names that an error lists.


class _Comparison(NamedTuple):
    """A table held against the names of a file.

    Attributes:
        architecture: The architecture that the table is of.
        table: The table.
        missing: What the file should have and has not, in the table's order.
        left_over: What it has and should not, in the file's order.
    """

    architecture: str
    table: NameTable
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    @property
    def differences(self) -> int:
        """How many names differ."""
        return len(self.missing) + len(self.left_over)


def recognise(
    architecture: str, names: Collection[str], *, source: str = "The file"
) -> NameTable:
    """Finds the naming of an architecture that a file follows to the letter.

    Args:
        architecture: What the file should hold; one of `name_tables`.
        names: The file's tensors.
        source: The file, for messages.

    Returns:
        The first of the architecture's tables with which nothing is missing and nothing
        left over.

    Raises:
        ValueError: If there is none; the message says what the file looks like.
    """
    tables = name_tables()
    nearest = min(
        (_compare(architecture, table, names) for table in tables[architecture]),
        key=lambda comparison: comparison.differences,
    )
    if nearest.differences == 0:
        return nearest.table
    every = [
        _compare(name, table, names)
        for name, known in tables.items()
        for table in known
    ]
    likeness = _likeness(min(every, key=lambda comparison: comparison.differences))
    raise ValueError(
        f"{source}: the tensors must be those of {architecture}; they look like "
        f"{likeness}. Held against {architecture} in the naming of "
        f"{nearest.table.name}, missing: {_listed(nearest.missing)}; left over: "
        f"{_listed(nearest.left_over)}."
    )


def _compare(
    architecture: str, table: NameTable, names: Collection[str]
) -> _Comparison:
    there, needed = frozenset(names), table.needed()
    known = frozenset((*needed, *table.beside))
    return _Comparison(
        architecture,
        table,
        missing=tuple(name for name in needed if name not in there),
        left_over=tuple(
            name for name in names if name not in known and not table.is_unused(name)
        ),
    )


def _likeness(nearest: _Comparison) -> str:
    """Says what a file is, or what it is most like, if it is like anything."""
    known = f"{nearest.architecture} in the naming of {nearest.table.name}"
    if nearest.differences == 0:
        return known
    if 2 * len(nearest.missing) > len(nearest.table.needed()):
        return "none of " + ", ".join(name_tables())
    return f"{known}, but not exactly"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_SHOWN]) or "nothing"
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
