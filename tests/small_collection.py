"""Small collection of region vectors in clusters, with queries."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Collection(NamedTuple):
    """Region vectors in clusters, with images and queries of several regions."""

    vectors: np.ndarray
    image_ids: np.ndarray
    queries: np.ndarray
    query_ids: np.ndarray


def draw_collection(dtype: type = np.float64) -> Collection:
    """Draws 24 images of 1 to 6 regions and 5 queries of 1 to 4, in 8 clusters."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(8, 12))

    def draw(counts):
        ids = np.repeat(np.arange(len(counts)), counts)
        vectors = centres[rng.integers(8, size=len(ids))]
        vectors = vectors + 0.8 * rng.normal(size=vectors.shape)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(dtype), ids

    vectors, image_ids = draw(rng.integers(1, 7, size=24))
    queries, query_ids = draw([1, 4, 2, 3, 1])
    return Collection(vectors, image_ids, queries, query_ids)


def scorer_arguments(
    collection: Collection, dtype: type[np.floating] = np.float32
) -> tuple[jax.Array, np.ndarray, jax.Array, np.ndarray]:
    """Arguments of a `ranking.Scorer`: the vectors as JAX arrays of a dtype."""
    return (
        jnp.asarray(collection.vectors.astype(dtype)),
        collection.image_ids,
        jnp.asarray(collection.queries.astype(dtype)),
        collection.query_ids,
    )
