"""One split of a benchmark's objects, and what is learned and judged on it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from configs.learn import LearnConfig
from diffjax.evaluation import evaluate
from diffjax.learning import (
    FitConfig,
    LabelledQueries,
    LearningProblem,
    Parameters,
    QueryDescriptors,
    QuerySplit,
    RelevanceLists,
    images_of_objects,
    problem,
    refresh_neighbors,
    score_images,
)
from diffjax.ranking import rank
from diffjax.regions import fit_supervised_whitening, list_matching_pairs
from experiments._collections import Collection

T = TypeVar("T")

_QUERIES_AT_ONCE = (
    64  # Queries that are scored together, so that one program serves all.
)


@dataclasses.dataclass(frozen=True)
class LearningTask:
    """A split of a benchmark to learn on.

    Attributes:
        collection: The benchmark.
        split: Which queries learn, choose and test.
        config: Settings.
        number: Of the split.
    """

    collection: Collection
    split: QuerySplit
    config: LearnConfig
    number: int = 0

    @property
    def seed(self) -> int:
        """Of what is drawn anew for every split."""
        return self.config.seed + self.number

    @property
    def learns(self) -> Bool[np.ndarray, " q"]:
        """Queries that are not tested."""
        return self.split.train | self.split.held_out

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return int(self.collection.index.vectors.shape[1])

    @functools.cached_property
    def problem(self) -> LearningProblem:
        """The collection with its graph."""
        return self.collection.compute_once(
            f"problem, k {self.config.k}",
            lambda: problem(
                self.collection.index.vectors,
                self.collection.index.image_ids,
                k=self.config.k,
            ),
        )

    def compute_once(self, name: str, make: Callable[[], T]) -> T:
        """Makes something of the split once, and finds it the next time."""
        if name not in self._computed:
            self._computed[name] = make()
        return self._computed[name]

    @functools.cached_property
    def _computed(self) -> dict[str, Any]:
        return {}

    def labelled(self, chosen: Bool[np.ndarray, " q"]) -> LabelledQueries:
        """Some of the queries with their answers."""
        own, truth = self.collection, self.collection.truth
        numbers = np.flatnonzero(chosen)
        rows = chosen[own.query_ids]
        positives = np.zeros((own.index.num_images, len(numbers)), bool)
        used = np.ones_like(positives)
        for place, query in enumerate(numbers):
            positives[np.asarray(truth.positives[query], int), place] = True
            used[np.asarray(truth.junk[query], int), place] = False
        ids = np.searchsorted(numbers, own.query_ids[rows]).astype(np.int32)
        return LabelledQueries(
            QueryDescriptors((np.asarray(own.regions)[rows],), ids),
            positives,
            used,
            tuple(str(truth.objects[query]) for query in numbers),
        )

    def precision(
        self, learned: Parameters, chosen: Bool[np.ndarray, " q"]
    ) -> Float[np.ndarray, " q"]:
        """Average precision of some queries; NaN for the others."""
        where = self.problem
        if learned.projection is not None:
            where = refresh_neighbors(where, learned, k=self.config.k)
        numbers = np.flatnonzero(chosen)
        scores = _score_in_blocks(learned, where, self.collection, numbers, self.config)
        truth = self.collection.truth
        own = {
            name: [getattr(truth, name)[query] for query in numbers]
            for name in ("positives", "junk")
        }
        found = evaluate(
            rank(scores),
            RelevanceLists(**own),
            num_images=self.collection.index.num_images,
        )
        everywhere = np.full(len(chosen), np.nan)
        everywhere[numbers] = np.asarray(found.average_precision)
        return everywhere

    def images_of(self, chosen: Bool[np.ndarray, " q"]) -> list[np.ndarray]:
        """Pictures of each object of some queries, if they are two or more."""
        return list(images_of_objects(self.labelled(chosen)).values())

    def fit_supervised_projection(
        self, chosen: Bool[np.ndarray, " q"], *, shrinkage: float
    ) -> Float[Array, "p d"]:
        """The closed form: directions in which pictures of one object differ least."""
        images = self.images_of(chosen)
        known = np.concatenate(images)
        labels = np.repeat(np.arange(len(images)), [len(each) for each in images])
        fitted = fit_supervised_whitening(
            self.collection.global_vectors,
            known[list_matching_pairs(labels)],
            dim=self.config.rank,
            shrinkage=shrinkage,
        )
        projection = jnp.asarray(fitted.projection).T
        # Lengths are made 1 after it; entries as large as identity's learn as fast.
        return projection * jnp.sqrt(self.config.rank / jnp.sum(projection**2))


def describe_settings(config: FitConfig) -> str:
    """Settings that differ from the usual ones, in words."""
    usual = dataclasses.asdict(FitConfig())
    own = dataclasses.asdict(config).items()
    return ", ".join(f"{key} {value}" for key, value in own if value != usual[key])


def _score_in_blocks(
    learned: Parameters,
    where: LearningProblem,
    collection: Collection,
    numbers: np.ndarray,
    config: LearnConfig,
) -> Float[Array, "m q"]:
    """Scores all images for some queries, in blocks of one shape."""
    counts = np.bincount(collection.query_ids, minlength=collection.num_queries)
    starts = np.cumsum(counts) - counts
    most = int(counts.max())
    ids = np.asarray(collection.index.image_ids)
    regions = np.asarray(collection.regions)
    parts = []
    for begin in range(0, len(numbers), _QUERIES_AT_ONCE):
        some = numbers[begin : begin + _QUERIES_AT_ONCE]
        slots = np.arange(most)
        real = np.zeros((_QUERIES_AT_ONCE, most), bool)
        real[: len(some)] = slots < counts[some, None]
        rows = np.zeros((_QUERIES_AT_ONCE, most), int)
        rows[: len(some)] = np.minimum(starts[some, None] + slots, len(regions) - 1)
        owner = np.where(real, np.arange(_QUERIES_AT_ONCE)[:, None], _QUERIES_AT_ONCE)
        asked = QueryDescriptors(
            (regions[rows.ravel()],), owner.ravel().astype(np.int32)
        )
        scores = score_images(
            learned,
            where,
            asked,
            query_k=config.fit.query_k,
            max_steps=config.fit.search_steps or config.fit.max_steps,
            num_images=collection.index.num_images,
            num_queries=_QUERIES_AT_ONCE,
            max_regions=int(np.bincount(ids).max()),
        )
        parts.append(jax.block_until_ready(scores)[:, : len(some)])
    return jnp.concatenate(parts, axis=1)
