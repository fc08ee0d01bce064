"""A benchmark's index and queries, and how its methods are put in a record."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from configs.schema import GroceryData, ScenesData
from diffjax.datasets import Benchmark, GroundTruth
from diffjax.evaluation import (
    bootstrap_interval,
    evaluate,
    evaluate_cutoffs,
    evaluate_scores,
    paired_bootstrap,
)
from diffjax.graph import knn
from diffjax.index import FolderConfig, Index, IndexConfig, index_folder
from diffjax.progress import progress_bars
from diffjax.ranking import rank
from diffjax.regions import ReducedRegions, global_descriptors, reduce_regions
from diffjax.types import Neighbors

from ._result_cache import Arrays, arrays_digest, load_or_compute_arrays

T = TypeVar("T")

_LONGEST_LISTS = (
    300  # Neighbours that are searched for once; shorter lists are cut from it.
)
_PRECISION_CUTOFF, _RECALL_CUTOFF = (
    10,
    100,
)  # Answers whose precision, and whose recall, is reported.


class Outcome(NamedTuple):
    """How good a method's answers are, query by query; NaN without positives.

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
        """What a record has of it, beside mAP."""
        return {
            "expected_ap": float(np.nanmean(self.expected_precision)),
            "precision_at_10": float(np.nanmean(self.precision_at_10)),
            "recall_at_100": float(np.nanmean(self.recall_at_100)),
        }


@dataclasses.dataclass(frozen=True)
class Collection:
    """A benchmark, ready to be searched.

    Attributes:
        index: Its pictures.
        regions: Prepared regions of its queries.
        query_ids: Query of every row of them.
        truth: Right answers.
        extra_facts: What else belongs into its records.
        released_globals: Global descriptors of images and queries that came with the
            vectors; None for sums of their regions.
        released_neighbors: The nearest of every region that came with the vectors; None
            to search.
        results: Folder that keeps what is computed of it; None keeps nothing.
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
        """Its pictures; None if there are vectors only."""
        return self.truth if isinstance(self.truth, Benchmark) else None

    @property
    def num_queries(self) -> int:
        """The number of queries."""
        return len(self.truth.queries)

    def sizes(self) -> dict[str, int]:
        """Numbers of images, queries and regions, as records name them."""
        empty = sum(not len(right) for right in self.truth.positives)
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
            f"{name} {part}": array
            for name, rows in lists.items()
            for part, array in (
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
        k = min(settings.k, n)
        exact = settings.neighbors == "exact"
        return Index.build(
            vectors,
            ids,
            # The vectors are whitened already; residuals are handed on as data.
            config=dataclasses.replace(
                settings,
                dim=None,
                k=k,
                query_k=min(settings.query_k, n),
                warn_residual=np.inf,
            ),
            neighbors=self._neighbor_lists(of_images=of_images, k=k) if exact else None,
        )

    def _neighbor_lists(self, *, of_images: bool, k: int) -> Neighbors:
        longest = self._longest_of_images if of_images else self._longest_of_regions
        if k > longest.indices.shape[1]:
            if self.released_neighbors is not None and not of_images:
                raise ValueError(
                    f"k must be at most the {longest.indices.shape[1]} neighbours of "
                    f"the graph that was released, got {k}."
                )
            return knn(self.global_vectors if of_images else self.index.vectors, k)
        return Neighbors(*(each[:, :k] for each in longest))

    @functools.cached_property
    def _longest_of_regions(self) -> Neighbors:
        if self.released_neighbors is not None:
            return self.released_neighbors
        vectors = self.index.vectors
        return knn(vectors, min(_LONGEST_LISTS, len(vectors)))

    @functools.cached_property
    def _longest_of_images(self) -> Neighbors:
        return knn(self.global_vectors, min(_LONGEST_LISTS, len(self.global_vectors)))

    def means(self, components: int) -> ReducedRegions:
        """A few means of each image's regions."""
        return self.compute_once(
            f"{components} means",
            lambda: reduce_regions(
                self.index.vectors,
                self.index.image_ids,
                components=components,
                key=jax.random.key(0),
            ),
        )

    def compute_once(self, name: str, make: Callable[[], T]) -> T:
        """Makes something of the collection once, and finds it the next time."""
        if name not in self._computed:
            self._computed[name] = make()
        return self._computed[name]

    @functools.cached_property
    def _computed(self) -> dict[str, Any]:
        return {}

    def load_or_compute(
        self,
        what: str,
        settings: Mapping[str, Any],
        compute: Callable[[], Arrays],
        *,
        by: Callable[..., Any] | None = None,
    ) -> Arrays:
        """Computes arrays of the collection, or finds them where results are kept.

        Args:
            what: Their name.
            settings: All that they depend on beside the collection, as JSON values.
            compute: Computes them, from nothing but those.
            by: As for `kept`.
        """
        if self.results is None:
            return compute()
        key = {"collection": self.digest, "what": what, "settings": dict(settings)}
        return load_or_compute_arrays(self.results, key, compute, by=by)

    def evaluate_method(
        self,
        method: str,
        settings: Mapping[str, Any],
        score: Callable[[], Float[Array, "m q"]],
    ) -> Outcome:
        """Judges a method's answers at some settings, or finds what was kept of them.

        Args:
            method: Its name.
            settings: As for `remembered`.
            score: Computes the scores, from nothing but those.
        """

        def compute():
            return self.evaluate_answers(score())._asdict()

        return Outcome(**self.load_or_compute(method, settings, compute, by=score))

    def evaluate_answers(self, scores: Float[Array, "m q"]) -> Outcome:
        """Judges the answers to all queries."""
        order = rank(scores)
        count = self.index.num_images
        cut = evaluate_cutoffs(
            order,
            self.truth,
            cutoffs=(_PRECISION_CUTOFF, _RECALL_CUTOFF),
            num_images=count,
        )
        chance = evaluate_scores(np.asarray(scores), self.truth)
        return Outcome(
            precision=self.precision(scores),
            expected_precision=np.asarray(chance.average_precision),
            precision_at_10=cut.precision[:, 0],
            recall_at_100=cut.recall[:, 1],
        )

    def scores(self, index: Index, *, of_images: bool = False) -> Float[Array, "m q"]:
        """Scores all images by an index that `built` made."""
        queries = self.global_queries if of_images else self.regions
        ids = None if of_images else self.query_ids
        found = index.search(queries, ids, top=index.num_images)
        rows = jnp.arange(found.images.shape[0])[:, None]
        scattered = jnp.zeros(found.images.shape).at[rows, found.images]
        return scattered.set(found.scores).T

    @property
    def facts(self) -> dict[str, Any]:
        """What the vectors are, as records name it."""
        pictures = self.index.pictures
        network = pictures.network if pictures else "released descriptors"
        dim = int(self.index.vectors.shape[1])
        return {"network": network, "dim": dim, **self.extra_facts}

    def first_queries(self, count: int) -> "Collection":
        """The same with the right answers of the first queries only."""
        own = "queries", "boxes", "positives", "junk", "objects"
        cut = {name: getattr(self.truth, name)[:count] for name in own}
        return dataclasses.replace(self, truth=self.truth._replace(**cut))

    def precision(self, scores: Float[Array, "m q"]) -> Float[np.ndarray, " q"]:
        """Average precision of every query."""
        report = evaluate(rank(scores), self.truth, num_images=self.index.num_images)
        return np.asarray(report.average_precision)

    def make_entry(
        self,
        method: str,
        found: Outcome | Float[Array, "m q"],
        *,
        against: tuple[str, Float[np.ndarray, " q"]] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Makes an entry of a record's results.

        Args:
            method: Its name.
            found: How good its answers are, or its scores of all images.
            against: Name and average precision of what it is compared with.
            more: What else is known of it.
        """
        if isinstance(found, Outcome):
            precision, more = found.precision, {**found.means(), **more}
        else:
            precision = self.precision(found)
        drawing: dict[str, Any] = {"groups": self.truth.objects, "seed": 0}
        own = bootstrap_interval(precision, **drawing)
        entry = {"method": method, "mean_ap": own.mean, "low": own.low}
        entry |= {"high": own.high, **more}
        if against is not None:
            pair = paired_bootstrap(precision, against[1], **drawing)
            entry["differences"] = [{"against": against[0], **pair._asdict()}]
        return entry


def load_collection(
    benchmark: GroceryData | ScenesData, folder: FolderConfig, workdir: pathlib.Path
) -> Collection:
    """Indexes a benchmark, or finds its index in `workdir`, and describes its queries.

    Args:
        benchmark: Which one.
        folder: Settings of the index.
        workdir: Keeps pictures and index for the next time.
    """
    return describe_collection(benchmark.load(workdir), folder, workdir)


def describe_collection(
    truth: Benchmark,
    folder: FolderConfig,
    workdir: pathlib.Path,
    *,
    index_name: str | None = None,
) -> Collection:
    """Indexes a benchmark's pictures and describes its queries, as `load_collection`.

    Args:
        truth: The benchmark.
        folder: Settings of the index.
        workdir: Keeps the index for the next time.
        index_name: What the index is called there; None is the benchmark's name.
    """
    with progress_bars() as progress:
        index = index_folder(
            truth.folder,
            workdir / f"{index_name or truth.name}.index",
            config=folder,
            strict=True,
            pictures=truth.database,
            progress=progress,
        )
        queries = index.describe(truth.queries, boxes=truth.boxes, progress=progress)
    regions = index.prepare(queries.vectors)
    return Collection(index, regions, queries.query_ids, truth)


def time_calls(*runs: Callable[[], Any], rounds: int = 3) -> tuple[float, ...]:
    """The least time that each call takes, compiled before it is timed.

    Calls take turns, so that a busy machine slows down all of them.
    """
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        jax.block_until_ready(run())
    for _ in range(rounds):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            own.append(time.perf_counter() - start)
    return tuple(map(min, times))
