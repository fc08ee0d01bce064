"""A benchmark's index and queries, and how its methods are put in a record."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from configs.schema import GroceryData, ScenesData
from diffjax.data import Benchmark, GroundTruth
from diffjax.evaluation import bootstrap_interval, evaluate, paired_bootstrap
from diffjax.graph import knn
from diffjax.index import FolderConfig, Index, IndexConfig, index_folder
from diffjax.progress import progress_bars
from diffjax.ranking import rank
from diffjax.regions import Reduced, global_descriptors, reduce_regions
from diffjax.types import Neighbors
from experiments._kept import arrays_digest

T = TypeVar("T")

_LONGEST = 300  # Neighbours that are searched for once; shorter lists are cut from it.


@dataclasses.dataclass(frozen=True)
class Collection:
    """A benchmark, ready to be searched.

    Attributes:
        index: Its pictures.
        regions: Prepared regions of its queries.
        query_ids: Query of every row of them.
        truth: Right answers.
        notes: What else belongs into its records.
        given: Global descriptors of images and queries that came with the vectors;
            None for sums of their regions.
    """

    index: Index
    regions: Float[Array, "r p"]
    query_ids: Int[np.ndarray, " r"]
    truth: Benchmark | GroundTruth
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: tuple[Float[Array, "m p"], Float[Array, "q p"]] | None = None

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
                "whole": np.asarray(self.whole),
                "asked": np.asarray(self.asked),
                "objects": np.array([str(name) for name in truth.objects]),
                **ragged,
            }
        )

    @functools.cached_property
    def whole(self) -> Float[Array, "m p"]:
        """Global descriptors of the images."""
        if self.given is not None:
            return self.given[0]
        return global_descriptors(self.index.vectors, self.index.image_ids)

    @functools.cached_property
    def asked(self) -> Float[Array, "q p"]:
        """Global descriptors of the queries."""
        if self.given is not None:
            return self.given[1]
        return global_descriptors(self.regions, self.query_ids)

    def built(self, settings: IndexConfig, *, of_images: bool = False) -> Index:
        """Builds the graph of regions, or of global descriptors, at other settings."""
        vectors = self.whole if of_images else self.index.vectors
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
            neighbors=self._lists(of_images=of_images, k=k) if exact else None,
        )

    def _lists(self, *, of_images: bool, k: int) -> Neighbors:
        longest = self._longest_of_images if of_images else self._longest_of_regions
        if k > longest.indices.shape[1]:
            return knn(self.whole if of_images else self.index.vectors, k)
        return Neighbors(*(each[:, :k] for each in longest))

    @functools.cached_property
    def _longest_of_regions(self) -> Neighbors:
        vectors = self.index.vectors
        return knn(vectors, min(_LONGEST, len(vectors)))

    @functools.cached_property
    def _longest_of_images(self) -> Neighbors:
        return knn(self.whole, min(_LONGEST, len(self.whole)))

    def means(self, components: int) -> Reduced:
        """A few means of each image's regions."""
        return self.made(
            f"{components} means",
            lambda: reduce_regions(
                self.index.vectors,
                self.index.image_ids,
                components=components,
                key=jax.random.key(0),
            ),
        )

    def made(self, name: str, make: Callable[[], T]) -> T:
        """Makes something of the collection once, and finds it the next time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @functools.cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def scores(self, index: Index, *, of_images: bool = False) -> Float[Array, "m q"]:
        """Scores all images by an index that `built` made."""
        queries = self.asked if of_images else self.regions
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
        return {"network": network, "dim": dim, **self.notes}

    def first(self, count: int) -> "Collection":
        """The same with the right answers of the first queries only."""
        own = "queries", "boxes", "positives", "junk", "objects"
        cut = {name: getattr(self.truth, name)[:count] for name in own}
        return dataclasses.replace(self, truth=self.truth._replace(**cut))

    def precision(self, scores: Float[Array, "m q"]) -> Float[np.ndarray, " q"]:
        """Average precision of every query."""
        report = evaluate(rank(scores), self.truth, num_images=self.index.num_images)
        return np.asarray(report.average_precision)

    def entry(
        self,
        method: str,
        scores: Float[Array, "m q"],
        *,
        against: tuple[str, Float[np.ndarray, " q"]] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Evaluates scores: an entry of a record's results.

        Args:
            method: Its name.
            scores: Scores of all images for all queries.
            against: Name and average precision of what it is compared with.
            more: What else is known of it.
        """
        precision = self.precision(scores)
        drawing: dict[str, Any] = {"groups": self.truth.objects, "seed": 0}
        own = bootstrap_interval(precision, **drawing)
        found = {"method": method, "mean_ap": own.mean, "low": own.low}
        found |= {"high": own.high, **more}
        if against is not None:
            pair = paired_bootstrap(precision, against[1], **drawing)
            found["differences"] = [{"against": against[0], **pair._asdict()}]
        return found


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
    kept: str | None = None,
) -> Collection:
    """Indexes a benchmark's pictures and describes its queries, as `load_collection`.

    Args:
        truth: The benchmark.
        folder: Settings of the index.
        workdir: Keeps the index for the next time.
        kept: What the index is called there; None is the benchmark's name.
    """
    with progress_bars() as progress:
        index = index_folder(
            truth.folder,
            workdir / f"{kept or truth.name}.index",
            config=folder,
            strict=True,
            pictures=truth.database,
            progress=progress,
        )
        queries = index.describe(truth.queries, boxes=truth.boxes, progress=progress)
    regions = index.prepare(queries.vectors)
    return Collection(index, regions, queries.query_ids, truth)


def seconds(*runs: Callable[[], Any], rounds: int = 3) -> tuple[float, ...]:
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
