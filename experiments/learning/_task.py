"""Learning task: one split of a benchmark's objects, to learn and to test on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from configs.learn import LearnConfig
from diffjax.evaluation import evaluate
from diffjax.learning import (
    FitConfig,
    LabelledQueries,
    Parameters,
    QueryDescriptors,
    QuerySplit,
    RelevanceLists,
    TrainingGraphs,
    images_of_objects,
    refresh_neighbors,
    score_images,
    training_graphs,
)
from diffjax.ranking import rank
from diffjax.regions import fit_supervised_whitening, list_matching_pairs
from experiments._collections import Collection
from experiments._result_cache import ObjectCache

_BATCH = 64  # Queries that are scored together, so that one program serves all.


@dataclasses.dataclass(frozen=True)
class LearningTask(ObjectCache):
    """Split of a benchmark to learn on.

    Attributes:
        collection: The benchmark.
        split: Masks of the training, held-out and test queries.
        config: Settings.
        number: Number of the split.
    """

    collection: Collection
    split: QuerySplit
    config: LearnConfig
    number: int = 0

    @property
    def seed(self) -> int:
        """Seed of random choices within the split."""
        return self.config.seed + self.number

    @property
    def is_training(self) -> Bool[np.ndarray, " q"]:
        """Mask of the queries that are not tested."""
        return self.split.train | self.split.held_out

    @property
    def dim(self) -> int:
        """Number of dimensions of the vectors."""
        return int(self.collection.index.vectors.shape[1])

    @functools.cached_property
    def training_graphs(self) -> TrainingGraphs:
        """Collection with its graph, as `learning.fit` takes it."""
        return self.collection.compute_once(
            f"training_graphs, k {self.config.k}",
            lambda: training_graphs(
                self.collection.index.vectors,
                self.collection.index.image_ids,
                k=self.config.k,
            ),
        )

    def labelled(self, chosen: Bool[np.ndarray, " q"]) -> LabelledQueries:
        """Selects queries with their answers."""
        collection, truth = self.collection, self.collection.truth
        numbers = np.flatnonzero(chosen)
        rows = chosen[collection.query_ids]
        positives = np.zeros((collection.index.num_images, len(numbers)), bool)
        used = np.ones_like(positives)
        for column, query in enumerate(numbers):
            positives[np.asarray(truth.positives[query], int), column] = True
            used[np.asarray(truth.junk[query], int), column] = False
        ids = np.searchsorted(numbers, collection.query_ids[rows]).astype(np.int32)
        return LabelledQueries(
            QueryDescriptors((np.asarray(collection.regions)[rows],), ids),
            positives,
            used,
            tuple(str(truth.objects[query]) for query in numbers),
        )

    def precision(
        self, learned: Parameters, chosen: Bool[np.ndarray, " q"]
    ) -> Float[np.ndarray, " q"]:
        """Computes the average precision of some queries; NaN for the others."""
        training_graphs = self.training_graphs
        if learned.projection is not None:
            training_graphs = refresh_neighbors(
                training_graphs, learned, k=self.config.k
            )
        numbers = np.flatnonzero(chosen)
        scores = _score_in_batches(
            learned, training_graphs, self.collection, numbers, self.config
        )
        truth = self.collection.truth
        answers = {
            name: [getattr(truth, name)[query] for query in numbers]
            for name in ("positives", "junk")
        }
        report = evaluate(
            rank(scores),
            RelevanceLists(**answers),
            num_images=self.collection.index.num_images,
        )
        precision = np.full(len(chosen), np.nan)
        precision[numbers] = np.asarray(report.average_precision)
        return precision

    def images_of(self, chosen: Bool[np.ndarray, " q"]) -> list[np.ndarray]:
        """Lists the pictures of each object of some queries, if two or more."""
        return list(images_of_objects(self.labelled(chosen)).values())

    def fit_supervised_projection(
        self, chosen: Bool[np.ndarray, " q"], *, shrinkage: float
    ) -> Float[Array, "p d"]:
        """Fits directions of least difference within objects, in closed form."""
        images = self.images_of(chosen)
        known = np.concatenate(images)
        labels = np.repeat(np.arange(len(images)), [len(rows) for rows in images])
        fitted = fit_supervised_whitening(
            self.collection.global_vectors,
            known[list_matching_pairs(labels)],
            dim=self.config.rank,
            shrinkage=shrinkage,
        )
        projection = jnp.asarray(fitted.projection).T
        # The scale has no effect, as vectors are normalised after the projection;
        # entries as large as those of the identity learn as fast.
        return projection * jnp.sqrt(self.config.rank / jnp.sum(projection**2))


def describe_settings(config: FitConfig) -> str:
    """Describes in words the settings that differ from the defaults."""
    defaults = dataclasses.asdict(FitConfig())
    settings = dataclasses.asdict(config).items()
    return ", ".join(f"{k} {value}" for k, value in settings if value != defaults[k])


def _score_in_batches(
    learned: Parameters,
    training_graphs: TrainingGraphs,
    collection: Collection,
    numbers: np.ndarray,
    config: LearnConfig,
) -> Float[Array, "m q"]:
    """Scores all images for some queries, in batches of one shape."""
    counts = np.bincount(collection.query_ids, minlength=collection.num_queries)
    starts = np.cumsum(counts) - counts
    max_regions = int(counts.max())
    ids = np.asarray(collection.index.image_ids)
    regions = np.asarray(collection.regions)
    batches = []
    for start in range(0, len(numbers), _BATCH):
        batch = numbers[start : start + _BATCH]
        slots = np.arange(max_regions)
        mask = np.zeros((_BATCH, max_regions), bool)
        mask[: len(batch)] = slots < counts[batch, None]
        rows = np.zeros((_BATCH, max_regions), int)
        rows[: len(batch)] = np.minimum(starts[batch, None] + slots, len(regions) - 1)
        query_of_slot = np.where(mask, np.arange(_BATCH)[:, None], _BATCH)
        queries = QueryDescriptors(
            (regions[rows.ravel()],), query_of_slot.ravel().astype(np.int32)
        )
        scores = score_images(
            learned,
            training_graphs,
            queries,
            query_k=config.fit.query_k,
            max_steps=config.fit.search_steps or config.fit.max_steps,
            num_images=collection.index.num_images,
            num_queries=_BATCH,
            max_regions=int(np.bincount(ids).max()),
        )
        batches.append(jax.block_until_ready(scores)[:, : len(batch)])
    return jnp.concatenate(batches, axis=1)
