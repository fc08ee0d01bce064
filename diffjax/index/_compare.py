"""Comparison of the paper's methods on a collection or a benchmark."""

import dataclasses
import os
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.datasets import Benchmark
from diffjax.evaluation import (
    RelevanceLabels,
    bootstrap_interval,
    evaluate,
    paired_bootstrap,
)
from diffjax.images import DescriptorConfig
from diffjax.pooling import gmp_weights, pool
from diffjax.ranking import nearest_neighbors, r_match, rank
from diffjax.regions import global_descriptors
from diffjax.report import make_record
from diffjax.types import Solution

from ._config import IndexConfig
from ._folder import index_folder, pictures_config
from ._index import Index
from ._prepared_rows import Progress
from ._validation import QueryIds

NEAREST, R_MATCH, GLOBAL = "global k-NN", "R-match", "global diffusion"
SUM, GMP = "regional diffusion, sum", "regional diffusion, GMP"

# Baselines that each method is compared with, query by query.
_BASELINES_OF = {
    NEAREST: (),
    R_MATCH: (NEAREST,),
    GLOBAL: (NEAREST,),
    SUM: (R_MATCH, GLOBAL),
    GMP: (R_MATCH, GLOBAL, SUM),
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Settings of the comparison that are not those of the index."""

    global_k: int = 20
    """Neighbours in the graph of global descriptors (the paper: 50)."""
    global_query_k: int = 10
    """Neighbours of the query's global descriptor, as in the paper."""
    seed: int = 0
    """Seed of the bootstrap."""
    resamples: int = 10_000
    """Resamples of the bootstrap."""


class MethodScores(NamedTuple):
    """Scores of one method for all images and queries.

    Attributes:
        method: Name of the method.
        scores: Image scores, one column per query.
        residual: Largest relative residual of its diffusions; None without diffusion.
    """

    method: str
    scores: Float[Array, "m q"]
    residual: float | None

    @property
    def rankings(self) -> Int[Array, "m q"]:
        """Rankings of the images, best first, one column per query."""
        return rank(self.scores)


def score_methods(
    index: Index,
    queries: Float[Array | np.ndarray, "r c"],
    query_ids: QueryIds,
    *,
    config: CompareConfig | None = None,
) -> tuple[MethodScores, ...]:
    """Scores all images by nearest neighbours, R-match, global and regional diffusion.

    All methods see the same whitened regional vectors; the global descriptor is their
    normalised sum. Both diffusions have the solver and the steps of the index.

    Args:
        index: The collection.
        queries: Region vectors of the queries, as for `Index.search`.
        query_ids: Query of every row.
        config: Settings; None for the defaults.

    Returns:
        Scores by method, in the order of the paper's table.
    """
    config = config or CompareConfig()
    vectors, ids = index.vectors, index.image_ids
    prepared = index.prepare(queries)
    descriptors = np.asarray(global_descriptors(vectors, ids))
    # Residuals are handed on as data here, so no search needs to warn of them.
    search = dataclasses.replace(
        index.config.search, warn_residual=np.inf, local_nodes=0
    )
    image_index = Index.build(
        descriptors,
        config=dataclasses.replace(index.config, search=search).replace(
            dim=None,
            storage="float32",
            k=min(config.global_k, len(descriptors)),
            query_k=min(config.global_query_k, len(descriptors)),
        ),
    )
    query_descriptors = np.asarray(global_descriptors(prepared, query_ids))
    by_image = image_index.search(query_descriptors, top=1).solution
    by_region = index.search(queries, query_ids, top=1, config=search).solution
    weights = gmp_weights(vectors, ids, lam=index.config.graph.lam)
    regions = vectors, ids, prepared, query_ids
    return (
        MethodScores(NEAREST, nearest_neighbors(*regions), None),
        MethodScores(R_MATCH, r_match(*regions), None),
        MethodScores(GLOBAL, by_image.value, _largest_residual(by_image)),
        MethodScores(SUM, pool(by_region.value, ids), _largest_residual(by_region)),
        MethodScores(
            GMP,
            pool(by_region.value, ids, weights=weights),
            _largest_residual(by_region),
        ),
    )


def compare(
    scored: Sequence[MethodScores],
    truth: RelevanceLabels,
    *,
    objects: Sequence[Hashable] | None = None,
    config: CompareConfig | None = None,
) -> list[dict[str, Any]]:
    """Evaluates methods on the same queries, with paired intervals between them.

    Args:
        scored: Scores by method, from `score_methods`.
        truth: Positives and junk per query.
        objects: Object that each query shows: queries of one object are drawn together
            in the bootstrap. None if queries are independent.
        config: Settings; None for the defaults.

    Returns:
        One entry per method, for `report.mean_ap_table`, with the differences from its
        baselines among the methods; all numbers are fractions, intervals of 95 %.
    """
    config = config or CompareConfig()
    bootstrap: dict[str, Any] = {
        "groups": objects,
        "seed": config.seed,
        "resamples": config.resamples,
    }
    reports = {
        method_scores.method: evaluate(method_scores.rankings, truth)
        for method_scores in scored
    }
    results = []
    for method_scores in scored:
        precision = reports[method_scores.method].average_precision
        interval = bootstrap_interval(precision, **bootstrap)
        entry = {
            "method": method_scores.method,
            "mean_ap": interval.mean,
            "low": interval.low,
        }
        entry |= {"high": interval.high}
        # Per query, so that differences from other records can be paired.
        entry["average_precision"] = [round(float(p), 4) for p in precision]
        if method_scores.residual is not None:
            entry["largest_residual"] = method_scores.residual
        differences = []
        for baseline_name in _BASELINES_OF.get(method_scores.method, ()):
            if baseline_name not in reports:
                continue
            baseline = reports[baseline_name].average_precision
            pair = paired_bootstrap(precision, baseline, **bootstrap)
            differences.append({"against": baseline_name, **pair._asdict()})
        if differences:
            entry["differences"] = differences
        results.append(entry)
    return results


def _largest_residual(solution: Solution) -> float:
    return float(np.max(np.asarray(solution.residual), initial=0))


class BenchmarkRun(NamedTuple):
    """Record of a benchmark run, and the scores of all methods.

    Attributes:
        record: Settings, sizes and results by method, see `report.make_record`.
        scored: Scores by method.
    """

    record: dict[str, Any]
    scored: tuple[MethodScores, ...]


def run_benchmark(
    benchmark: Benchmark,
    path: str | os.PathLike[str],
    *,
    config: IndexConfig | None = None,
    descriptor: DescriptorConfig | None = None,
    workers: int = 2,
    compare_config: CompareConfig | None = None,
    progress: Progress | None = None,
) -> BenchmarkRun:
    """Indexes a benchmark's pictures and answers its queries by every method.

    Args:
        benchmark: Pictures, queries and relevance labels.
        path: Folder of the index; regions that it has of these pictures are reused.
        config: Settings of the index; None for those of `pictures_config`.
        descriptor: Settings that describe pictures; None for the defaults.
        workers: Processes that read pictures.
        compare_config: Settings of the comparison; None for the defaults.
        progress: As for `index_folder`.

    Returns:
        The record and the scores.

    Raises:
        ValueError: If a picture of the benchmark can't be read.
    """
    config = config or pictures_config()
    descriptor = descriptor or DescriptorConfig()
    compare_config = compare_config or CompareConfig()
    # Strict: an answer is a position in the benchmark's list of pictures.
    index = index_folder(
        benchmark.folder,
        path,
        config=config,
        descriptor=descriptor,
        workers=workers,
        strict=True,
        pictures=benchmark.database,
        progress=progress,
    )
    queries = index.describe(
        benchmark.queries,
        boxes=benchmark.boxes,
        progress=progress,
    )
    if progress:
        progress("comparing methods", 0, 1)
    scored = score_methods(index, *queries, config=compare_config)
    results = compare(
        scored, benchmark, objects=benchmark.objects, config=compare_config
    )
    if progress:
        progress("comparing methods", 1, 1)
    settings = dataclasses.asdict(descriptor) | {
        "index": dataclasses.asdict(config),
        **dataclasses.asdict(compare_config),
    }
    # The first is the record's own, the other is a path.
    del settings["seed"], settings["weights"]
    settings["scales"] = list(descriptor.scales)
    # Settings that are None depend on the weights.
    settings = {name: value for name, value in settings.items() if value is not None}
    record = make_record(
        benchmark.name,
        settings={
            "images": index.num_images,
            "queries": len(benchmark.queries),
            "regions": len(index.image_ids),
            **settings,
            "network": index.pictures.network if index.pictures else None,
        },
        results=results,
        seed=compare_config.seed,
    )
    return BenchmarkRun(record, scored)
