"""Queries with their answers, and batches of them of one shape."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffjax._arguments import check_ids

from ._problem import Problem, Queries


class Labelled(NamedTuple):
    """Queries and what is right for them.

    Attributes:
        queries: Their regions.
        positives: Right images of each query.
        used: Images that count for each query: not junk, not its own picture.
        objects: What each query shows; empty where that is not known.
    """

    queries: Queries
    positives: Bool[Array | np.ndarray, "m q"]
    used: Bool[Array | np.ndarray, "m q"]
    objects: tuple[str, ...] = ()


class Table(NamedTuple):
    """The queries that ask something, made ready to be drawn from.

    Attributes:
        vectors: For every view the regions of all queries.
        rows: Which of them are a query's, -1 in places that are left over.
        positives: Right images, one row per query.
        used: Images that count, one row per query.
        numbers: Which queries they are among those that were given.
    """

    vectors: tuple[Float[Array, "r _"], ...]
    rows: Int[Array, "q s"]
    positives: Bool[Array, "q m"]
    used: Bool[Array, "q m"]
    numbers: Int[Array, " q"]


class Answers(NamedTuple):
    """Right and ignored images per query, as `evaluate` takes them.

    Attributes:
        positives: Right answers.
        junk: Answers that do not count.
    """

    positives: Sequence[Int[np.ndarray, " _"]]
    junk: Sequence[Int[np.ndarray, " _"]]


def make_table(name: str, labelled: Labelled, problem: Problem) -> Table:
    """Checks labelled queries and leaves out those that ask nothing.

    Args:
        name: What the caller calls them.
        labelled: The queries, concrete.
        problem: The collection.

    Raises:
        ValueError: If shapes contradict the collection, or no query has both a positive
            and a negative.
    """
    ids = np.asarray(labelled.queries.query_ids)
    positives, used = np.asarray(labelled.positives), np.asarray(labelled.used)
    count = positives.shape[1]
    images = int(np.asarray(problem.image_ids)[-1]) + 1
    check_ids(f"{name}.query_ids", ids, rows=labelled.queries.vectors[0].shape[0])
    if ids.size and ids[-1] + 1 != count:
        raise ValueError(
            f"{name}.positives must have one column per query, {ids[-1] + 1}, got "
            f"{count}."
        )
    if positives.shape != (images, count) or used.shape != positives.shape:
        raise ValueError(
            f"{name} must have positives and used of shape [{images}, {count}], the "
            f"images of the collection, got {list(positives.shape)} and "
            f"{list(used.shape)}: are the labels those of another index?"
        )
    if labelled.objects and len(labelled.objects) != count:
        raise ValueError(
            f"{name}.objects must be one per query, {count}, got "
            f"{len(labelled.objects)}."
        )
    right = positives & used
    numbers = np.flatnonzero(right.any(0) & (~right & used).any(0))
    if not numbers.size:
        raise ValueError(
            f"{name} must have a query with a positive and a negative image, got none "
            f"among {count}."
        )
    starts, ends = np.searchsorted(ids, numbers), np.searchsorted(ids, numbers + 1)
    slots = np.arange((ends - starts).max())
    rows = starts[:, None] + slots
    rows = np.where(rows < ends[:, None], rows, -1)
    return Table(
        vectors=tuple(jnp.asarray(each) for each in labelled.queries.vectors),
        rows=jnp.asarray(rows, jnp.int32),
        positives=jnp.asarray(right[:, numbers].T),
        used=jnp.asarray(used[:, numbers].T),
        numbers=jnp.asarray(numbers, jnp.int32),
    )


def images_of_objects(*labelled: Labelled) -> dict[str, Int[np.ndarray, " _"]]:
    """Lists the images that show an object, if they are two or more.

    Args:
        labelled: Queries with objects; several are put together.

    Returns:
        By the object's name, sorted, the images that are right for any of its queries.
    """
    shown: dict[str, np.ndarray] = {}
    for each in labelled:
        positives = np.asarray(each.positives)
        for query, name in enumerate(each.objects):
            shown[name] = (
                shown.get(name, np.zeros(len(positives), bool)) | (positives[:, query])
            )
    images = {name: np.flatnonzero(shown[name]) for name in sorted(shown)}
    return {name: each for name, each in images.items() if each.size > 1}


def split_table(table: Table, parts: Int[np.ndarray, " q"]) -> tuple[Table, ...]:
    """Splits the queries of a table; all parts have one shape.

    Args:
        table: The table.
        parts: Part of every query, from 0 upwards, each with one at least.

    Returns:
        The parts. Places that are left over ask nothing and have no positive.
    """
    size = int(np.bincount(parts).max())

    def part(number):
        own = np.flatnonzero(parts == number)
        chosen = np.pad(own, (0, size - own.size))
        real = jnp.arange(size)[:, None] < own.size
        return table._replace(
            rows=jnp.where(real, table.rows[chosen], -1),
            positives=table.positives[chosen] & real,
            used=table.used[chosen] & real,
            numbers=table.numbers[chosen],
        )

    return tuple(part(number) for number in range(int(parts.max()) + 1))


def take(table: Table, chosen: Int[Array, " b"]) -> Queries:
    """Takes some queries out of a table, in a shape that depends on their number only.

    Args:
        table: The table.
        chosen: Rows of it; -1 is no query, and gets a column of zeros.

    Returns:
        Their regions. Rows that are left over belong to a query past the last.
    """
    count = chosen.shape[0]
    rows = table.rows[jnp.maximum(chosen, 0)]
    rows = jnp.where(chosen[:, None] >= 0, rows, -1)
    owner = jnp.arange(count, dtype=jnp.int32)[:, None]
    ids = jnp.where(rows >= 0, owner, count).reshape(-1)
    there = jnp.maximum(rows, 0).reshape(-1)
    return Queries(tuple(each[there] for each in table.vectors), ids)


def answers(table: Table) -> Answers:
    """Lists what is right and what is ignored for every query of a table."""
    return Answers(
        [np.flatnonzero(row) for row in np.asarray(table.positives)],
        [np.flatnonzero(~row) for row in np.asarray(table.used)],
    )
