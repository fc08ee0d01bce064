"""A benchmark's index and queries, and how its methods are put in a record."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from configs.schema import GroceryData, ScenesData
from diffjax.data import Benchmark
from diffjax.evaluation import bootstrap_interval, evaluate, paired_bootstrap
from diffjax.index import FolderConfig, Index, index_folder
from diffjax.progress import progress_bars
from diffjax.ranking import rank


@dataclasses.dataclass(frozen=True)
class Collection:
    """A benchmark, ready to be searched.

    Attributes:
        index: Its pictures.
        regions: Prepared regions of its queries.
        query_ids: Query of every row of them.
        truth: Right answers.
    """

    index: Index
    regions: Float[Array, "r p"]
    query_ids: Int[np.ndarray, " r"]
    truth: Benchmark

    @property
    def num_queries(self) -> int:
        """The number of queries."""
        return len(self.truth.queries)

    def sizes(self) -> dict[str, int]:
        """Numbers of images, queries and regions, as records name them."""
        return {
            "images": self.index.num_images,
            "queries": self.num_queries,
            "regions": len(self.index.image_ids),
        }

    def precision(self, scores: Float[Array, "m q"]) -> Float[np.ndarray, " q"]:
        """Average precision of every query."""
        return np.asarray(evaluate(rank(scores), self.truth).average_precision)

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
    with progress_bars() as progress:
        truth = benchmark.load(workdir)
        path = workdir / f"{truth.name}.index"
        index = index_folder(
            truth.folder, path, config=folder, strict=True, progress=progress
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
