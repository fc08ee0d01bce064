"""All methods on one benchmark: `python -m experiments evaluate grocery`."""

import pathlib
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any

import tyro

from configs import grocery, scenes
from configs.schema import EvaluateConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.index import run_benchmark
from diffjax.progress import progress_bars
from diffjax.report import (
    append_record,
    caption,
    difference_table,
    mean_ap_table,
    text_table,
)

RECORDS = pathlib.Path(__file__).parents[1] / "records"

CARDS: Mapping[str, ModuleType] = MappingProxyType(
    {"grocery": grocery, "scenes": scenes}
)


def run(
    config: EvaluateConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Runs a benchmark and adds its record to the file of its name.

    Args:
        config: What to run.
        workdir: Keeps pictures and index: the same command goes on where it was.
        records: Folder of the record files.

    Returns:
        The record.
    """
    with progress_bars() as progress:
        benchmark = config.benchmark.load(workdir)
        done = run_benchmark(
            benchmark,
            workdir / f"{benchmark.name}.index",
            folder=config.folder,
            compare_config=config.compare,
            progress=progress,
        )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"{benchmark.name}.jsonl", done.record)
    return done.record


def main() -> None:
    """Reads the command line: a config's name, then what to change in it."""
    enable_compilation_cache()
    config = tyro.extras.overridable_config_cli(
        {name: (card.__doc__ or "", card.full()) for name, card in CARDS.items()},
        prog="python -m experiments evaluate",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    print(text_table(*mean_ap_table(record["results"])))
    print(text_table(*difference_table(record["results"])))
    print(caption(record))
