"""Methods of the comparison under one signature, so that a table is a loop."""

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

from ._crow_netvlad import PictureVectors, crow_vectors, netvlad_vectors
from ._local_features import score_by_local_features

_GLOBAL_NEAREST = "global descriptors, nearest neighbours"
_GLOBAL_EXPANSION = "global descriptors, query expansion"
_REGIONAL_NEAREST = "regional descriptors, nearest neighbours"
_REGIONAL_EXPANSION = "regional descriptors, query expansion"

# Settings of the paper, the same in all its experiments.
PAPER_SETTINGS = MappingProxyType(
    {
        "global": IndexConfig.of(k=50, query_k=10, pooling="sum"),
        "regional": IndexConfig.of(k=200, query_k=200),
        "reduced": IndexConfig.of(k=50, query_k=50),
    }
)
MEANS = 5  # Means that replace the regions of an image, as in the paper.

# Scores all images of a collection for all its queries, at some settings.
Score = Callable[..., Float[Array, "m q"]]


class Method(NamedTuple):
    """Method of the comparison.

    Attributes:
        score: Scores all images of a collection for all its queries.
        group: Its part of the table.
        needs_pictures: Whether it reads the pictures, not only region vectors.
    """

    score: Score
    group: str
    needs_pictures: bool = False


def score_by_regional_diffusion(
    collection: Collection, /, **settings: Any
) -> Float[Array, "m q"]:
    """Scores all images by regional diffusion."""
    index = collection.build_index(PAPER_SETTINGS["regional"].replace(**settings))
    return collection.scores(index)


def score_by_global_diffusion(
    collection: Collection, /, **settings: Any
) -> Float[Array, "m q"]:
    """Scores all images by global diffusion."""
    config = PAPER_SETTINGS["global"].replace(**settings)
    index = collection.build_index(config, of_images=True)
    return collection.scores(index, of_images=True)


def score_by_mixture_diffusion(
    collection: Collection, /, *, components: int = MEANS, **settings: Any
) -> Float[Array, "m q"]:
    """Scores all images by diffusion on a few means of each image's regions."""
    index = index_of_means(collection, components=components, **settings)
    answers = index.search(collection.regions, collection.query_ids, top=1)
    return pool(
        answers.solution.value,
        index.image_ids,
        weights=index.weights,
        num_images=collection.index.num_images,
    )


def index_of_means(
    collection: Collection, *, components: int = MEANS, **settings: Any
) -> Index:
    """Builds the graph of a few means of each image's regions."""
    means = collection.means(components)
    config = PAPER_SETTINGS["reduced"].replace(**settings)
    n = len(means.vectors)
    return Index.build(
        means.vectors,
        means.image_ids,
        config=config.replace(
            k=min(config.graph.k, n),
            query_k=min(config.search.query_k, n),
            warn_residual=float("inf"),
        ),
    )


def score_on_regions(scorer: ranking.Scorer) -> Score:
    """Applies a scorer of the library to the regions of a collection."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        return scorer(
            collection.index.vectors,
            collection.index.image_ids,
            collection.regions,
            collection.query_ids,
            **settings,
        )

    return score


def score_on_global_vectors(scorer: ranking.Scorer) -> Score:
    """Applies a scorer of the library to global descriptors, one region an image."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        return scorer(
            collection.global_vectors,
            np.arange(len(collection.global_vectors), dtype=np.int32),
            collection.global_queries,
            np.arange(len(collection.global_queries), dtype=np.int32),
            **settings,
        )

    return score


def _score_on_pictures(describe: Callable[..., PictureVectors]) -> Score:
    """Ranks whole pictures by a descriptor's nearest neighbours."""

    def score(collection: Collection, /, **settings: Any) -> Float[Array, "m q"]:
        indexed = collection.index.pictures
        if collection.benchmark is None or indexed is None:
            raise ValueError("CroW and NetVLAD must have pictures, got vectors only.")
        pictures, queries = describe(
            collection.benchmark, indexed.descriptor, **settings
        )
        return ranking.nearest_neighbors(
            jnp.asarray(pictures),
            np.arange(len(pictures), dtype=np.int32),
            jnp.asarray(queries),
            np.arange(len(queries), dtype=np.int32),
        )

    return score


def method_outcome(name: str, collection: Collection, /, **settings: Any) -> Outcome:
    """Evaluates a method at some settings, or loads its cached outcome.

    Args:
        name: One of `METHODS`.
        collection: The benchmark.
        settings: Settings of the method; others have their defaults.
    """

    def score():
        return METHODS[name].score(collection, **settings)

    return collection.evaluate_method(name, settings, score)


def method_scores(
    name: str, collection: Collection, /, **settings: Any
) -> Float[Array, "m q"]:
    """Scores all images by a method, or loads cached scores; as `method_outcome`."""

    def compute():
        return {"scores": np.asarray(METHODS[name].score(collection, **settings))}

    cached = collection.load_or_compute(f"{name}, scores", settings, compute)
    return jnp.asarray(cached["scores"])


# In the order of the paper's table 2.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "CroW": Method(
            _score_on_pictures(crow_vectors), _GLOBAL_NEAREST, needs_pictures=True
        ),
        "NetVLAD": Method(
            _score_on_pictures(netvlad_vectors), _GLOBAL_NEAREST, needs_pictures=True
        ),
        "R-MAC": Method(
            score_on_global_vectors(ranking.nearest_neighbors), _GLOBAL_NEAREST
        ),
        "R-MAC + AQE": Method(
            score_on_global_vectors(ranking.average_query_expansion), _GLOBAL_EXPANSION
        ),
        "R-MAC + alpha-QE": Method(
            score_on_global_vectors(ranking.alpha_query_expansion), _GLOBAL_EXPANSION
        ),
        "R-MAC + DBA": Method(
            score_on_global_vectors(ranking.database_augmentation), _GLOBAL_EXPANSION
        ),
        "R-MAC + SCSM": Method(
            score_on_global_vectors(ranking.scsm_reranking), _GLOBAL_EXPANSION
        ),
        "R-MAC + HN": Method(
            score_on_global_vectors(ranking.hello_neighbor), _GLOBAL_EXPANSION
        ),
        "R-MAC + k-reciprocal": Method(
            score_on_global_vectors(ranking.k_reciprocal), _GLOBAL_EXPANSION
        ),
        "global diffusion": Method(score_by_global_diffusion, _GLOBAL_EXPANSION),
        "R-match": Method(score_on_regions(ranking.r_match), _REGIONAL_NEAREST),
        "HQE on SIFT": Method(
            score_by_local_features, _REGIONAL_EXPANSION, needs_pictures=True
        ),
        "R-match + AQE": Method(
            score_on_regions(ranking.r_match_expansion), _REGIONAL_EXPANSION
        ),
        "regional diffusion, 5 means": Method(
            score_by_mixture_diffusion, _REGIONAL_EXPANSION
        ),
        "regional diffusion": Method(score_by_regional_diffusion, _REGIONAL_EXPANSION),
    }
)
