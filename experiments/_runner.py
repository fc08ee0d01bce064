"""What the experiments of the paper share: command line, record, chart."""

import dataclasses
import pathlib
import sys
from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

import tyro

from configs.schema import Setup
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.report import (
    append_record,
    caption,
    difference_table,
    make_record,
    mean_ap_table,
    measurement_tables,
    text_table,
)
from experiments.paper.evaluate import RECORDS
from experiments.reporting._cost import measure_cost

from ._collections import Collection

_SETUP_FIELDS = {field.name for field in dataclasses.fields(Setup)}


class Findings(NamedTuple):
    """What an experiment found.

    Attributes:
        collection: What it was run on.
        results: What it found there, entry by entry.
        more: What belongs to its settings and is not in its config.
        seed: Of everything random in it.
    """

    collection: Collection
    results: Sequence[Mapping[str, Any]]
    more: Mapping[str, Any] = MappingProxyType({})
    seed: int = 0


def config_to_json(config: Any, *, but: Container[str] = ()) -> dict[str, Any]:
    """The fields of a config, but for some, as values of JSON."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(config).items()
        if key not in but
    }


class Experiment(Protocol):
    """An experiment."""

    def __call__(
        self, config: Any, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> Findings:
        """Measures, and draws in the folder of the records."""
        ...


class RecordedExperiment(Protocol):
    """An experiment with its record."""

    def __call__(
        self, config: Any, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> dict[str, Any]:
        """Measures, draws, appends the record and returns it."""
        ...


def make_recorded_run(name: str, measure: Experiment) -> RecordedExperiment:
    """Makes an experiment append what it found to `NAME_BENCHMARK.jsonl`.

    The record has the seconds that this run took and the process's peak of memory:
    what was kept from an earlier run took none.
    """

    def run(
        config: Setup, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> dict[str, Any]:
        with measure_cost() as cost:
            found = measure(config, workdir, records=records)
        own = config_to_json(config, but={*_SETUP_FIELDS, "methods", "seed"})
        collection = found.collection
        record = make_record(
            f"{name}, {config.label}",
            settings={**collection.sizes(), **collection.facts, **own, **found.more},
            results=found.results,
            seed=found.seed,
            seconds=cost.seconds,
            peak_memory=cost.peak_bytes,
        )
        append_record(records / f"{name}_{config.label}.jsonl", record)
        return record

    return run


def run_from_command_line(name: str, card: ModuleType, run: RecordedExperiment) -> None:
    """Reads an experiment's command line, runs it and prints what it found.

    Args:
        name: Of the experiment.
        card: Its module in `configs`.
        run: Runs it.
    """
    enable_compilation_cache()
    config = tyro.cli(
        type(card.full()),
        default=card.full(),
        description=card.__doc__,
        prog=f"python -m experiments {name}",
    )
    # A user's own results do not belong among those of the repository.
    own = config.benchmark in ("folder", "labels")
    records = pathlib.Path("records") if own else RECORDS
    try:
        record = run(config, cache_folder() / "experiments", records=records)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    methods = [r for r in record["results"] if {"method", "mean_ap"} <= r.keys()]
    tables = mean_ap_table(methods), difference_table(methods)
    for table in (*tables, *measurement_tables(record["results"])):
        if table.rows:
            print(text_table(*table))
    print(caption(record))
