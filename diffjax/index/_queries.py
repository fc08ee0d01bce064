"""Query pictures, described as the pictures of an index were."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.data import Box, PictureSource
from diffjax.features import Described, describe_pictures

from ._describer import describer
from ._pictures import PictureInfo


class QueryRegions(NamedTuple):
    """Regions of query pictures, before whitening.

    Attributes:
        vectors: One row per region.
        query_ids: Picture of every row.
    """

    vectors: Float[np.ndarray, "r c"]
    query_ids: Int[np.ndarray, " r"]


def describe_queries(
    info: PictureInfo | None,
    pictures: Sequence[PictureSource],
    *,
    boxes: Sequence[Box | None] | None,
    weights: str | os.PathLike[str] | None,
    progress: Callable[[str, int, int], None] | None,
) -> QueryRegions:
    """Describes query pictures; see `Index.describe`."""
    if not pictures:
        raise ValueError("pictures must be at least one, got none.")
    if info is None:
        raise ValueError(
            "the index must be one of pictures, got one of vectors: search it with "
            "vectors."
        )
    config = info.descriptor
    if weights is not None:
        config = dataclasses.replace(config, weights=os.fspath(weights))
    describe = describer(config, progress=progress)
    if describe.weights != info.weights:
        raise ValueError(
            f"the index was made with weights {info.weights[:16]} of {config.network}, "
            f"here are {describe.weights[:16]}: name that file, or build the index "
            "again."
        )
    found: dict[int, np.ndarray] = {}
    results = describe_pictures(
        pictures,
        describe,
        boxes=boxes,
        sides=config.sides,
        batch_size=describe.batch_size,
        at_once=describe.at_once,
    )
    with contextlib.closing(results):
        for result in results:
            if not isinstance(result, Described):
                source = pictures[result.position]
                name = source if isinstance(source, str | os.PathLike) else "picture"
                raise ValueError(f"{name}: {result.reason}")
            found[result.position] = result.vectors
            if progress:
                progress("describing queries", len(found), len(pictures))
    each = [found[position] for position in range(len(pictures))]
    ids = np.repeat(np.arange(len(each), dtype=np.int32), [len(v) for v in each])
    return QueryRegions(np.concatenate(each), ids)
