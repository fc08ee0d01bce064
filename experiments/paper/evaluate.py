"""All methods on one benchmark: `python -m experiments evaluate grocery`."""

import pathlib
from typing import Any

import numpy as np

from configs import evaluate as card
from configs.schema import EvaluateConfig
from diffjax.evaluation import evaluate
from diffjax.index import run_benchmark
from diffjax.progress import progress_bars
from diffjax.report import append_record
from experiments._entries import descriptor_settings, query_precision_fields
from experiments._runner import run_from_command_line


def run(
    config: EvaluateConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Runs a benchmark and appends its record to the file of its name.

    Args:
        config: Benchmark, index and comparison.
        workdir: Caches pictures and index: the same command resumes.
        records: Folder of the record files.

    Returns:
        The record.
    """
    with progress_bars() as progress:
        benchmark = config.benchmark.load(workdir)
        result = run_benchmark(
            benchmark,
            workdir / f"{benchmark.name}.index",
            config=config.folder.index,
            descriptor=config.folder.descriptor,
            workers=config.folder.workers,
            compare_config=config.compare,
            progress=progress,
        )
    record = result.record
    record["settings"]["descriptor"] = descriptor_settings(config.folder.descriptor)
    for entry, scored in zip(record["results"], result.scored, strict=True):
        precision = evaluate(scored.rankings, benchmark).average_precision
        entry.update(query_precision_fields(np.asarray(precision)))
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / f"{benchmark.name}.jsonl", record)
    return record


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("evaluate", card, run)
