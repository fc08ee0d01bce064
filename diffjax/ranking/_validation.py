"""Validation of the arguments that all scorers share."""

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_ids, check_not_downcast, count_ids


def check_scorer_arguments(
    vectors: Float[Array, "n d"],
    image_ids: Int[Array | np.ndarray, " n"],
    queries: Float[Array, "r d"],
    query_ids: Int[Array | np.ndarray, " r"],
    *,
    num_images: int | None,
    num_queries: int | None,
) -> dict[str, int]:
    """Validates the arguments of a `Scorer`, and counts its images and queries.

    Args:
        vectors: Region vectors of the database.
        image_ids: Image of every region.
        queries: Region vectors of the queries.
        query_ids: Query of every row of `queries`.
        num_images: Number of images, or None to read it from `image_ids`.
        num_queries: Number of queries, or None to read it from `query_ids`.

    Returns:
        `num_images` and `num_queries` as the compiled functions take them.

    Raises:
        ValueError: If ids decrease or skip a number, dimensions differ, or a count is
            missing under jit or too small.
    """
    check_not_downcast("vectors", vectors)
    check_not_downcast("queries", queries)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries must have the database's {vectors.shape[1]} dimensions, got "
            f"{queries.shape[1]}."
        )
    check_ids("image_ids", image_ids, rows=vectors.shape[0])
    check_ids("query_ids", query_ids, rows=queries.shape[0])
    return {
        "num_images": count_ids(
            "image_ids", image_ids, count=num_images, count_name="num_images"
        ),
        "num_queries": count_ids(
            "query_ids", query_ids, count=num_queries, count_name="num_queries"
        ),
    }


def check_not_negative(name: str, number: int) -> None:
    """Refuses a negative number of answers or neighbours.

    Raises:
        ValueError: If the number is below 0.
    """
    if number < 0:
        raise ValueError(f"{name} must be at least 0, got {number}.")
