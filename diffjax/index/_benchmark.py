"""All methods on one benchmark of pictures, as a record."""

import dataclasses
import os
from typing import Any, NamedTuple

from diffjax.data import Benchmark
from diffjax.report import make_record

from ._compare import CompareConfig, Scored, compare, score_methods
from ._config import FolderConfig
from ._folder import Progress, index_folder


class BenchmarkRun(NamedTuple):
    """What a benchmark gave.

    Attributes:
        record: Settings, sizes and results by method, see `report.make_record`.
        scored: The scores behind them.
    """

    record: dict[str, Any]
    scored: tuple[Scored, ...]


def run_benchmark(
    benchmark: Benchmark,
    path: str | os.PathLike[str],
    *,
    folder: FolderConfig | None = None,
    compare_config: CompareConfig | None = None,
    progress: Progress | None = None,
) -> BenchmarkRun:
    """Indexes a benchmark's pictures and answers its queries by every method.

    Args:
        benchmark: Pictures, queries and right answers.
        path: Folder of the index; what it holds of these pictures is used again.
        folder: Settings of the index; None for the defaults.
        compare_config: Settings of the comparison; None for the defaults.
        progress: As for `index_folder`.

    Returns:
        The record and the scores.

    Raises:
        ValueError: If a picture of the benchmark can't be read.
    """
    folder = folder or FolderConfig()
    compare_config = compare_config or CompareConfig()
    # Strict: an answer is a position in the benchmark's list of pictures.
    index = index_folder(
        benchmark.folder,
        path,
        config=folder,
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
    settings = dataclasses.asdict(folder) | dataclasses.asdict(compare_config)
    # The first is the record's own, the next changes nothing, the last is a path.
    del settings["seed"], settings["workers"], settings["weights"]
    settings["scales"] = list(folder.scales)
    # What is not set is left to the weights.
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
