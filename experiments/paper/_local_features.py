"""Hamming query expansion on the local features of a benchmark's pictures."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.datasets import Benchmark
from diffjax.images import Box, sift_descriptors
from diffjax.ranking import HammingConfig, HammingIndex, hamming_query_expansion
from experiments._collections import Collection


class _LocalDescriptors(NamedTuple):
    """Local descriptors of a list of pictures.

    Attributes:
        descriptors: Descriptors of all pictures.
        ids: Picture of each descriptor.
    """

    descriptors: Float[np.ndarray, "n 128"]
    ids: Int[np.ndarray, " n"]


class _IndexedFeatures(NamedTuple):
    """Local features of a benchmark.

    Attributes:
        pictures: Index of the database.
        queries: Descriptors of the queries.
    """

    pictures: HammingIndex
    queries: _LocalDescriptors


def score_by_local_features(
    collection: Collection,
    /,
    *,
    top: int = 100,
    min_matches: int = 5,
    max_features: int = 1000,
) -> Float[Array, "m q"]:
    """Scores all images by SIFT with Hamming embedding and query expansion."""
    truth = collection.benchmark
    if truth is None:
        raise ValueError("HQE must have pictures, got descriptors of regions.")
    features = collection.compute_once(
        f"local features, {max_features}", lambda: _index_features(truth, max_features)
    )
    return hamming_query_expansion(
        features.pictures,
        *features.queries,
        num_queries=collection.num_queries,
        top=top,
        min_matches=min_matches,
    )


def _index_features(truth: Benchmark, max_features: int) -> _IndexedFeatures:
    pictures = _describe(truth.database, (None,) * len(truth.database), max_features)
    # At least ten descriptors a word, for the medians of Hamming embedding.
    words = min(8192, max(2, len(pictures.ids) // 10))
    index = HammingIndex.build(
        *pictures,
        num_images=len(truth.database),
        config=HammingConfig(num_words=words, assignments=min(3, words)),
    )
    return _IndexedFeatures(index, _describe(truth.queries, truth.boxes, max_features))


def _describe(
    sources: Sequence[pathlib.Path], boxes: Sequence[Box | None], max_features: int
) -> _LocalDescriptors:
    descriptors = [
        sift_descriptors(source, box=box, max_features=max_features)
        for source, box in zip(sources, boxes, strict=True)
    ]
    ids = np.repeat(np.arange(len(sources)), [len(rows) for rows in descriptors])
    return _LocalDescriptors(np.concatenate(descriptors), ids)
