"""Mined queries: labels from pictures on which large and small regions agree."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax.graph import knn
from diffjax.learning import (
    LabelledQueries,
    MinedLabels,
    QueryDescriptors,
    hold_out_objects,
    mine_positives,
)
from diffjax.regions import global_descriptors
from experiments._collections import Collection

_LISTED, _AGREED = 50, 5  # Neighbours that each view lists, and that must agree.
_MAX_QUERIES = 200


class MinedQueries(NamedTuple):
    """Mined queries in place of labelled ones.

    Attributes:
        training: Queries to learn from.
        held_out: Queries for early stopping: a quarter of the sets of pictures.
    """

    training: LabelledQueries
    held_out: LabelledQueries


def mine_queries(collection: Collection, *, seed: int) -> MinedQueries:
    """Mines pictures of the database as queries, by `learning.mine_positives`.

    The two views are the sums of a picture's large regions, of more than half the area
    of its largest one, and of all smaller ones. They share network and picture, so that
    they are not independent. A query's own picture does not count as an answer, but its
    regions are nodes of the graph, which those of a new picture are not.

    Args:
        collection: Pictures with boxes of regions of several sizes.
        seed: Seed of the draw of queries, and of the sets that are held out.

    Returns:
        Queries with all regions of their pictures.

    Raises:
        ValueError: If there are no boxes, a picture has regions of one size only, or
            all pictures that agree are one set.
    """
    index = collection.index
    if index.boxes is None:
        raise ValueError("learning without labels needs boxes of regions, got none.")
    ids = np.asarray(index.image_ids)
    boxes = np.asarray(index.boxes, np.float64)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    largest = np.zeros(index.num_images)
    np.maximum.at(largest, ids, area)
    large = area > largest[ids] / 2
    listed = min(_LISTED, index.num_images // 4)  # Fewer in small collections.
    views = [
        _nearest_images(index.vectors, ids, rows, count=listed)
        for rows in (large, ~large)
    ]
    agreed = min(_AGREED, listed - 1)
    labels = mine_positives(views, k=agreed, max_queries=_MAX_QUERIES, seed=seed)
    held_out = hold_out_objects(labels.objects, seed=seed)
    vectors = np.asarray(index.vectors)
    return MinedQueries(
        *(_labelled(vectors, ids, labels, chosen) for chosen in (~held_out, held_out))
    )


def _nearest_images(
    vectors: Float[Array, "n d"],
    ids: np.ndarray,
    rows: Bool[np.ndarray, " n"],
    *,
    count: int,
) -> np.ndarray:
    descriptors = global_descriptors(vectors[jnp.asarray(rows)], ids[rows])
    return np.asarray(knn(descriptors, count).indices)


def _labelled(
    vectors: Float[np.ndarray, "n d"],
    ids: np.ndarray,
    labels: MinedLabels,
    chosen: Bool[np.ndarray, " q"],
) -> LabelledQueries:
    pictures = labels.query_images[chosen]
    rows = np.isin(ids, pictures)
    return LabelledQueries(
        QueryDescriptors(
            (vectors[rows],), np.searchsorted(pictures, ids[rows]).astype(np.int32)
        ),
        labels.positives[:, chosen],
        labels.used[:, chosen],
        tuple(np.asarray(labels.objects)[chosen].tolist()),
    )
