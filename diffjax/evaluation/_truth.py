"""What evaluation needs to know of a benchmark, and how it is checked."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

Images = Int[np.ndarray, " _"] | Sequence[int]


@runtime_checkable
class Truth(Protocol):
    """The part of a benchmark that evaluation needs."""

    @property
    def positives(self) -> Sequence[Images]:
        """Per query the right answers."""
        ...

    @property
    def junk(self) -> Sequence[Images]:
        """Per query the answers that do not count."""
        ...


def check_truth(
    truth: Truth, *, columns: int, name: str, num_images: int | None
) -> None:
    """Refuses a truth that can not belong to the rankings or scores at hand.

    Args:
        truth: The truth.
        columns: Queries that were ranked or scored.
        name: What holds one column per query.
        num_images: Images in the database; None if that is not known.

    Raises:
        ValueError: If the numbers of queries differ, or the truth names an image that
            is not in the database; with the query and the image.
    """
    wanted = len(truth.positives)
    if columns != wanted:
        raise ValueError(
            f"{name} must have one column per query, {wanted}, got {columns}."
        )
    if len(truth.junk) != wanted:
        raise ValueError(
            f"junk must have one entry per query, {wanted}, got {len(truth.junk)}."
        )
    for kind, lists in (("positives", truth.positives), ("junk", truth.junk)):
        for query, images in enumerate(lists):
            check_in_database(kind, images, num_images=num_images, query=query)


def check_in_database(
    name: str, images: Images, *, num_images: int | None, query: int | None = None
) -> None:
    """Refuses numbers that are no images of the database.

    Raises:
        ValueError: With the first such number, and the query if there is one.
    """
    numbers = np.asarray(images)
    outside = numbers < 0
    rule = "count from 0"
    if num_images is not None:
        outside |= numbers >= num_images
        rule = f"be images of the database, 0 to {num_images - 1}"
    if outside.any():
        raise ValueError(
            f"{name} must {rule}, got {numbers[outside][0]}{in_query(query)}."
        )


def in_query(query: int | None) -> str:
    """Names the query in an error, where there are several."""
    return "" if query is None else f" (query {query})"
