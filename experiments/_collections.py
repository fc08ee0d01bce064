"""Collections: a benchmark's index, queries and answers, and entries of records."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from configs.schema import GroceryData, PicturesConfig, ScenesData
from diffjax.datasets import Benchmark, GroundTruth
from diffjax.evaluation import evaluate, evaluate_cutoffs, evaluate_scores
from diffjax.graph import knn
from diffjax.index import Index, IndexConfig, index_folder
from diffjax.progress import progress_bars
from diffjax.ranking import rank
from diffjax.regions import ReducedRegions, global_descriptors, reduce_regions
from diffjax.types import Neighbors

from ._entries import Baseline, descriptor_settings, method_entry
from ._result_cache import Arrays, ObjectCache, arrays_digest, load_or_compute_arrays

_MAX_NEIGHBORS = 300  # Length of the lists that shorter ones are cut from.
_PRECISION_CUTOFF, _RECALL_CUTOFF = 10, 100  # First answers that are reported.


class Outcome(NamedTuple):
    """Quality of a method's answers, query by query; NaN without positives.

    Attributes:
        precision: Average precision; of images that tie, those of lower number first.
        expected_precision: Average precision expected if ties were broken at random.
        precision_at_10: Precision among the first ten, as in the revisited protocol.
        recall_at_100: Share of the positives among the first hundred.
    """

    precision: Float[np.ndarray, " q"]
    expected_precision: Float[np.ndarray, " q"]
    precision_at_10: Float[np.ndarray, " q"]
    recall_at_100: Float[np.ndarray, " q"]

    def means(self) -> dict[str, float]:
        """Averages over queries, as a record keeps them beside mAP."""
        return {
            "expected_ap": float(np.nanmean(self.expected_precision)),
            "precision_at_10": float(np.nanmean(self.precision_at_10)),
            "recall_at_100": float(np.nanmean(self.recall_at_100)),
        }


@dataclasses.dataclass(frozen=True)
class Collection(ObjectCache):
    """Benchmark with its index and described queries, ready to be searched.

    Attributes:
        index: Index of the pictures.
        regions: Prepared regions of the queries.
        query_ids: Query of every row of `regions`.
        truth: Right answers, with the pictures where there are any.
        extra_facts: Further settings for records.
        released_globals: Global descriptors of images and queries that were released
            with the vectors; None for sums of their regions.
        released_neighbors: Nearest neighbours of every region that were released with
            the vectors; None to search.
        results: Folder in which computed arrays are cached; None caches nothing.
    """

    index: Index
    regions: Float[Array, "r p"]
    query_ids: Int[np.ndarray, " r"]
    truth: Benchmark | GroundTruth
    extra_facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    released_globals: tuple[Float[Array, "m p"], Float[Array, "q p"]] | None = None
    released_neighbors: Neighbors | None = None
    results: pathlib.Path | None = None

    @property
    def benchmark(self) -> Benchmark | None:
        """The benchmark with its pictures; None if there are vectors only."""
        return self.truth if isinstance(self.truth, Benchmark) else None

    @property
    def num_queries(self) -> int:
        """Number of queries."""
        return len(self.truth.queries)

    def sizes(self) -> dict[str, int]:
        """Numbers of images, queries and regions, as records name them."""
        empty = sum(not len(images) for images in self.truth.positives)
        return {
            "images": self.index.num_images,
            "queries": self.num_queries,
            "regions": len(self.index.image_ids),
            **({"queries_without_positives": empty} if empty else {}),
        }

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all vectors, queries and right answers."""
        truth = self.truth
        lists = {"positives": truth.positives, "junk": truth.junk}
        ragged = {
            f"{name} {kind}": array
            for name, rows in lists.items()
            for kind, array in (
                ("all", np.concatenate([np.asarray(row, np.int64) for row in rows])),
                ("counts", np.array([len(row) for row in rows])),
            )
        }
        return arrays_digest(
            {
                "vectors": np.asarray(self.index.vectors),
                "image_ids": np.asarray(self.index.image_ids),
                "regions": np.asarray(self.regions),
                "query_ids": self.query_ids,
                "whole": np.asarray(self.global_vectors),
                **(
                    self.released_neighbors._asdict() if self.released_neighbors else {}
                ),
                "asked": np.asarray(self.global_queries),
                "objects": np.array([str(name) for name in truth.objects]),
                **ragged,
            }
        )

    @functools.cached_property
    def global_vectors(self) -> Float[Array, "m p"]:
        """Global descriptors of the images."""
        if self.released_globals is not None:
            return self.released_globals[0]
        return global_descriptors(self.index.vectors, self.index.image_ids)

    @functools.cached_property
    def global_queries(self) -> Float[Array, "q p"]:
        """Global descriptors of the queries."""
        if self.released_globals is not None:
            return self.released_globals[1]
        return global_descriptors(self.regions, self.query_ids)

    def build_index(self, settings: IndexConfig, *, of_images: bool = False) -> Index:
        """Builds the graph of regions, or of global descriptors, at other settings."""
        vectors = self.global_vectors if of_images else self.index.vectors
        ids = None if of_images else self.index.image_ids
        n = len(vectors)
        k = min(settings.graph.k, n)
        exact = settings.graph.method in {None, "exact"}
        return Index.build(
            vectors,
            ids,
            # The vectors are whitened already; residuals are handed on as data.
            config=settings.replace(
                dim=None,
                k=k,
                query_k=min(settings.search.query_k, n),
                warn_residual=np.inf,
            ),
            neighbors=self._neighbor_lists(of_images=of_images, k=k) if exact else None,
        )

    def _neighbor_lists(self, *, of_images: bool, k: int) -> Neighbors:
        lists = self._image_neighbors if of_images else self._region_neighbors
        if k > lists.indices.shape[1]:
            if self.released_neighbors is not None and not of_images:
                raise ValueError(
                    f"k must be at most the {lists.indices.shape[1]} neighbours of "
                    f"the graph that was released, got {k}."
                )
            return knn(self.global_vectors if of_images else self.index.vectors, k)
        return Neighbors(*(array[:, :k] for array in lists))

    @functools.cached_property
    def _region_neighbors(self) -> Neighbors:
        if self.released_neighbors is not None:
            return self.released_neighbors
        vectors = self.index.vectors
        return knn(vectors, min(_MAX_NEIGHBORS, len(vectors)))

    @functools.cached_property
    def _image_neighbors(self) -> Neighbors:
        return knn(self.global_vectors, min(_MAX_NEIGHBORS, len(self.global_vectors)))

    def means(self, components: int) -> ReducedRegions:
        """Reduces each image's regions to a few means of a mixture."""
        return self.compute_once(
            f"{components} means",
            lambda: reduce_regions(
                self.index.vectors,
                self.index.image_ids,
                components=components,
                key=jax.random.key(0),
            ),
        )

    def load_or_compute(
        self,
        name: str,
        settings: Mapping[str, Any],
        compute: Callable[[], Arrays],
        *,
        by: Callable[..., Any] | None = None,
    ) -> Arrays:
        """Loads arrays from the cache of results, or computes and stores them.

        Args:
            name: Name of the arrays.
            settings: All that they depend on beside the collection, as JSON values.
            compute: Computes them from the collection and the settings alone.
            by: Function that does the work, as for `load_or_compute_arrays`.
        """
        if self.results is None:
            return compute()
        key = {"collection": self.digest, "what": name, "settings": dict(settings)}
        return load_or_compute_arrays(self.results, key, compute, by=by)

    def evaluate_method(
        self,
        method: str,
        settings: Mapping[str, Any],
        score: Callable[[], Float[Array, "m q"]],
    ) -> Outcome:
        """Evaluates a method at some settings, or loads its cached outcome.

        Args:
            method: Name of the method.
            settings: All that its scores depend on beside the collection.
            score: Computes the scores of all images for all queries.
        """

        def compute():
            return self.evaluate_answers(score())._asdict()

        return Outcome(**self.load_or_compute(method, settings, compute, by=score))

    def evaluate_answers(self, scores: Float[Array, "m q"]) -> Outcome:
        """Evaluates the answers to all queries."""
        order = rank(scores)
        count = self.index.num_images
        first = evaluate_cutoffs(
            order,
            self.truth,
            cutoffs=(_PRECISION_CUTOFF, _RECALL_CUTOFF),
            num_images=count,
        )
        ties_at_random = evaluate_scores(np.asarray(scores), self.truth)
        return Outcome(
            precision=self.precision(scores),
            expected_precision=np.asarray(ties_at_random.average_precision),
            precision_at_10=first.precision[:, 0],
            recall_at_100=first.recall[:, 1],
        )

    def scores(self, index: Index, *, of_images: bool = False) -> Float[Array, "m q"]:
        """Scores all images for all queries by an index of `build_index`."""
        queries = self.global_queries if of_images else self.regions
        ids = None if of_images else self.query_ids
        answers = index.search(queries, ids, top=index.num_images)
        rows = jnp.arange(answers.images.shape[0])[:, None]
        scattered = jnp.zeros(answers.images.shape).at[rows, answers.images]
        return scattered.set(answers.scores).T

    @property
    def facts(self) -> dict[str, Any]:
        """Network, descriptor settings and dimensions of the vectors, for records."""
        pictures = self.index.pictures
        dim = int(self.index.vectors.shape[1])
        if pictures is None:
            return {"network": "released descriptors", "dim": dim, **self.extra_facts}
        return {
            "network": pictures.network,
            "dim": dim,
            "descriptor": descriptor_settings(pictures.descriptor),
            **self.extra_facts,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes and facts: what every record of the collection has in its settings."""
        return {**self.sizes(), **self.facts}

    def first_queries(self, count: int) -> "Collection":
        """Restricts the right answers to those of the first queries."""
        fields = "queries", "boxes", "positives", "junk", "objects"
        first = {name: getattr(self.truth, name)[:count] for name in fields}
        return dataclasses.replace(self, truth=self.truth._replace(**first))

    def precision(self, scores: Float[Array, "m q"]) -> Float[np.ndarray, " q"]:
        """Computes the average precision of every query."""
        report = evaluate(rank(scores), self.truth, num_images=self.index.num_images)
        return np.asarray(report.average_precision)

    def make_entry(
        self,
        method: str,
        answers: Outcome | Float[Array, "m q"] | Float[np.ndarray, " q"],
        *,
        against: Sequence[Baseline] = (),
        seed: int = 0,
        test: bool = False,
        **facts: Any,
    ) -> dict[str, Any]:
        """Makes an entry of a record's results, see `method_entry`.

        Args:
            method: Name of the method.
            answers: Quality of its answers, its scores of all images, or its average
                precision per query.
            against: Methods to compare with, query by query.
            seed: Seed of the bootstrap over objects.
            test: Whether differences have a p-value.
            facts: Further JSON values for the entry.
        """
        if isinstance(answers, Outcome):
            precision, facts = answers.precision, {**answers.means(), **facts}
        elif answers.ndim == 2:
            precision = self.precision(jnp.asarray(answers))
        else:
            precision = np.asarray(answers)
        return method_entry(
            method,
            precision,
            groups=self.truth.objects,
            seed=seed,
            against=against,
            test=test,
            **facts,
        )


def load_collection(
    benchmark: GroceryData | ScenesData, folder: PicturesConfig, workdir: pathlib.Path
) -> Collection:
    """Loads a benchmark, indexes its pictures and describes its queries.

    Args:
        benchmark: The benchmark.
        folder: Settings of the index.
        workdir: Caches pictures and index for later runs.
    """
    return describe_collection(benchmark.load(workdir), folder, workdir)


def describe_collection(
    truth: Benchmark,
    folder: PicturesConfig,
    workdir: pathlib.Path,
    *,
    index_name: str | None = None,
) -> Collection:
    """Indexes a benchmark's pictures and describes its queries, as `load_collection`.

    Args:
        truth: The benchmark.
        folder: Settings of the index.
        workdir: Caches the index for later runs.
        index_name: Name of the index there; None is the benchmark's name.
    """
    with progress_bars() as progress:
        index = index_folder(
            truth.folder,
            workdir / f"{index_name or truth.name}.index",
            config=folder.index,
            descriptor=folder.descriptor,
            workers=folder.workers,
            strict=True,
            pictures=truth.database,
            progress=progress,
        )
        queries = index.describe(truth.queries, boxes=truth.boxes, progress=progress)
    regions = index.prepare(queries.vectors)
    return Collection(index, regions, queries.query_ids, truth)
