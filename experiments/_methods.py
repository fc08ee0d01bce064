"""Every method of the comparison under one signature, so that a table is a loop."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax import ranking
from diffjax.index import Index, IndexConfig
from diffjax.pooling import pool
from experiments._collections import Collection, Outcome
from experiments._local_features import by_local_features
from experiments._whole import Vectors, crow_vectors, netvlad_vectors

_GLOBAL_NEAREST = "global descriptors, nearest neighbours"
_GLOBAL_EXPANSION = "global descriptors, query expansion"
_REGIONAL_NEAREST = "regional descriptors, nearest neighbours"
_REGIONAL_EXPANSION = "regional descriptors, query expansion"

# What the paper has for all its experiments.
PAPER = MappingProxyType(
    {
        "global": IndexConfig(k=50, query_k=10, pooling="sum"),
        "regional": IndexConfig(k=200, query_k=200),
        "reduced": IndexConfig(k=50, query_k=50),
    }
)
MEANS = 5  # Regions that are left of an image's, as in the paper.


# Scores all images of a collection for all its queries, at some settings.
Score = Callable[..., Float[Array, "m q"]]


class Method(NamedTuple):
    """A method of the comparison.

    Attributes:
        score: What it does.
        group: Its part of the table.
        of_pictures: Whether it needs the pictures themselves.
    """

    score: Score
    group: str
    of_pictures: bool = False


def by_regions(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
    """Regional diffusion."""
    index = collection.built(dataclasses.replace(PAPER["regional"], **settings))
    return collection.scores(index)


def by_images(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
    """Global diffusion."""
    config = dataclasses.replace(PAPER["global"], **settings)
    index = collection.built(config, of_images=True)
    return collection.scores(index, of_images=True)


def by_means(
    collection: Collection, /, *, components: int = MEANS, **settings: Any
) -> Float[Array, "m q"]:
    """Regional diffusion on a few means of each image's regions."""
    index = index_of_means(collection, components=components, **settings)
    found = index.search(collection.regions, collection.query_ids, top=1)
    return pool(
        found.solution.value,
        index.image_ids,
        weights=index.weights,
        num_images=collection.index.num_images,
    )


def index_of_means(
    collection: Collection, *, components: int = MEANS, **settings: Any
) -> Index:
    """Builds the graph of a few means of each image's regions."""
    means = collection.means(components)
    config = dataclasses.replace(PAPER["reduced"], **settings)
    n = len(means.vectors)
    return Index.build(
        means.vectors,
        means.image_ids,
        config=dataclasses.replace(
            config,
            k=min(config.k, n),
            query_k=min(config.query_k, n),
            warn_residual=float("inf"),
        ),
    )


def by_vectors(scorer: ranking.Scorer) -> Score:
    """A method of the library that takes vectors, on a collection."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        return scorer(
            collection.index.vectors,
            collection.index.image_ids,
            collection.regions,
            collection.query_ids,
            **settings,
        )

    return score


def by_globals(scorer: ranking.Scorer) -> Score:
    """A method of the library on global descriptors, each a region of its own."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        return scorer(
            collection.whole,
            np.arange(len(collection.whole), dtype=np.int32),
            collection.asked,
            np.arange(len(collection.asked), dtype=np.int32),
            **settings,
        )

    return score


def _by_whole(describe: Callable[..., Vectors]) -> Score:
    """Nearest neighbours of a descriptor of whole pictures."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        pictures, queries = describe(collection.benchmark, **settings)
        return ranking.nearest_neighbors(
            jnp.asarray(pictures),
            np.arange(len(pictures), dtype=np.int32),
            jnp.asarray(queries),
            np.arange(len(queries), dtype=np.int32),
        )

    return score


def outcome_of(name: str, collection: Collection, /, **settings: Any) -> Outcome:
    """Judges a method at some settings, or finds what was kept of it.

    Args:
        name: One of `METHODS`.
        collection: The benchmark.
        settings: The method's own.
    """

    def score():
        return METHODS[name].score(collection, **settings)

    return collection.outcome(name, settings, score)


def scores_of(
    name: str, collection: Collection, /, **settings: Any
) -> Float[Array, "m q"]:
    """Scores all images by a method, or finds what was kept; as `outcome_of`."""

    def compute():
        return {"scores": np.asarray(METHODS[name].score(collection, **settings))}

    what = f"{name}, scores"
    return jnp.asarray(collection.remembered(what, settings, compute)["scores"])


# In the order of the paper's table 2.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "CroW": Method(_by_whole(crow_vectors), _GLOBAL_NEAREST, of_pictures=True),
        "NetVLAD": Method(
            _by_whole(netvlad_vectors), _GLOBAL_NEAREST, of_pictures=True
        ),
        "R-MAC": Method(by_globals(ranking.nearest_neighbors), _GLOBAL_NEAREST),
        "R-MAC + AQE": Method(
            by_globals(ranking.average_query_expansion), _GLOBAL_EXPANSION
        ),
        "R-MAC + alpha-QE": Method(
            by_globals(ranking.alpha_query_expansion), _GLOBAL_EXPANSION
        ),
        "R-MAC + DBA": Method(
            by_globals(ranking.database_augmentation), _GLOBAL_EXPANSION
        ),
        "R-MAC + SCSM": Method(by_globals(ranking.scsm_reranking), _GLOBAL_EXPANSION),
        "R-MAC + HN": Method(by_globals(ranking.hello_neighbor), _GLOBAL_EXPANSION),
        "R-MAC + k-reciprocal": Method(
            by_globals(ranking.k_reciprocal), _GLOBAL_EXPANSION
        ),
        "global diffusion": Method(by_images, _GLOBAL_EXPANSION),
        "R-match": Method(by_vectors(ranking.r_match), _REGIONAL_NEAREST),
        "HQE on SIFT": Method(by_local_features, _REGIONAL_EXPANSION, of_pictures=True),
        "R-match + AQE": Method(
            by_vectors(ranking.r_match_expansion), _REGIONAL_EXPANSION
        ),
        "regional diffusion, 5 means": Method(by_means, _REGIONAL_EXPANSION),
        "regional diffusion": Method(by_regions, _REGIONAL_EXPANSION),
    }
)
