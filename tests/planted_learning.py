"""Collections whose best parameters are known, because they were made so."""

import jax.numpy as jnp
import numpy as np

from diffjax.learning._labels import LabelledQueries
from diffjax.learning._training_graphs import QueryDescriptors


def unit_vectors(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype("f4")


def make_labelled_queries(vectors, queries, objects, asked, *, chosen):
    """Queries of some objects; right are the images of the query's object."""
    is_chosen = np.isin(asked, chosen)
    views = queries if isinstance(queries, tuple) else (queries,)
    positives = np.asarray(objects)[:, None] == asked[is_chosen][None]
    return LabelledQueries(
        queries=QueryDescriptors(
            tuple(v[is_chosen] for v in views), np.arange(is_chosen.sum())
        ),
        positives=positives,
        used=np.ones_like(positives),
        objects=tuple(f"object {o}" for o in asked[is_chosen]),
    )


def split_objects(vectors, queries, objects, asked):
    """Queries of the first two thirds of all objects, and those of the others."""
    last = objects.max() * 2 // 3
    first = np.arange(last + 1)
    rest = np.arange(last + 1, objects.max() + 1)
    datasets = [
        make_labelled_queries(vectors, queries, objects, asked, chosen=chosen)
        for chosen in (first, rest)
    ]
    return datasets[0], datasets[1]


def noisy_dimensions(
    *, objects=9, per_object=10, queries_per_object=2, dims=6, noise=0.8, seed=0
):
    """Clusters in the first half of the dimensions, nothing but noise in the second."""
    rng = np.random.default_rng(seed)
    centres = unit_vectors(rng.normal(size=(objects, dims)))

    def draw(owner):
        signal = centres[owner] + 0.25 * rng.normal(size=(len(owner), dims))
        return unit_vectors(
            np.concatenate([signal, noise * rng.normal(size=signal.shape)], axis=1)
        )

    owner = np.repeat(np.arange(objects), per_object)
    asked = np.repeat(np.arange(objects), queries_per_object)
    return draw(owner), draw(asked), owner, asked


def curves(*, objects=9, per_object=12, queries_per_object=1, seed=0):
    """Every object is a curve that is asked for at its beginning.

    Its end is far from there, and only steps along the curve lead to it: scores that
    do not spread far find the beginnings of other curves first.
    """
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, objects, 16))
    start = start * 0.7 + rng.normal(size=16)  # All begin in the same region.
    angle = np.linspace(0, np.pi / 2, per_object)[None, :, None]
    points = np.cos(angle) * start[:, None] + np.sin(angle) * end[:, None]
    points = unit_vectors(points + 0.05 * rng.normal(size=points.shape))
    asked = np.repeat(np.arange(objects), queries_per_object)
    queries = unit_vectors(points[asked, 0] + 0.02 * rng.normal(size=(len(asked), 16)))
    owner = np.repeat(np.arange(objects), per_object)
    return points.reshape(-1, 16), queries, owner, asked


def simple_objective(scores, positives, used, *, queries_used=None, max_positives=None):
    """Softmax of standardised scores: small, smooth and without branches."""
    del used, queries_used, max_positives
    z = scores - scores.mean(0, keepdims=True)
    z = z / (jnp.sqrt((z**2).mean(0, keepdims=True)) + 1e-12)
    likely = z - jnp.log(jnp.exp(z).sum(0, keepdims=True))
    right = positives.astype(scores.dtype)
    return -((likely * right).sum(0) / jnp.maximum(right.sum(0), 1)).mean()
