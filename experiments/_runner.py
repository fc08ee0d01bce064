"""Command line, record and printed tables, the same for every experiment.

A card, `configs/NAME.py`, has a docstring, `full()` with the settings of the records
(or several, by the name of a collection) and `quick()`, which runs in seconds.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

import tyro

from configs.schema import Setup
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.report import (
    Table,
    append_record,
    caption,
    difference_table,
    make_record,
    mean_ap_table,
    measurement_tables,
    text_table,
)

from ._collections import Collection
from ._cost import measure_cost

RECORDS = pathlib.Path(__file__).parent / "records"

_SETUP_FIELDS = {field.name for field in dataclasses.fields(Setup)}
_QUICK_HELP = "With --quick the same runs on little data, in seconds, as a trial."


class Findings(NamedTuple):
    """Results of an experiment, before they become a record.

    Attributes:
        collection: The collection that was searched.
        results: Entries of the record.
        more: Settings of the record that are not in the config.
        seed: Seed of everything random.
    """

    collection: Collection
    results: Sequence[Mapping[str, Any]]
    more: Mapping[str, Any] = MappingProxyType({})
    seed: int = 0


class Measurement(Protocol):
    """Function that measures, and draws in the folder of the records."""

    def __call__(
        self, config: Any, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> Findings:
        """Measures and draws."""
        ...


class Experiment(Protocol):
    """Function that measures, draws and appends a record, or several."""

    def __call__(
        self, config: Any, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Runs the experiment and returns its record, or all of them."""
        ...


class RecordedExperiment(Protocol):
    """Function that measures, draws and appends one record."""

    def __call__(
        self, config: Any, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> dict[str, Any]:
        """Runs the experiment and returns its record."""
        ...


class CommandLine(NamedTuple):
    """Outcome of reading an experiment's command line.

    Attributes:
        config: Settings of the experiment.
        quick: Whether `--quick` was given.
    """

    config: Any
    quick: bool


def make_recorded_run(name: str, measure: Measurement) -> RecordedExperiment:
    """Makes an experiment that appends its findings to `NAME_BENCHMARK.jsonl`.

    The record has the seconds of this run and the process's peak of memory: results
    that an earlier run had cached took none.

    Args:
        name: Name of the experiment.
        measure: Measures and draws.
    """

    def run(
        config: Setup, workdir: pathlib.Path, /, *, records: pathlib.Path
    ) -> dict[str, Any]:
        with measure_cost() as cost:
            findings = measure(config, workdir, records=records)
        settings = config_to_json(config, but={*_SETUP_FIELDS, "methods", "seed"})
        record = make_record(
            f"{name}, {config.label}",
            settings={**findings.collection.settings, **settings, **findings.more},
            results=findings.results,
            seed=findings.seed,
            seconds=cost.seconds,
            peak_memory=cost.peak_bytes,
        )
        append_record(records / f"{name}_{config.label}.jsonl", record)
        return record

    return run


def config_to_json(config: Any, *, but: Container[str] = ()) -> dict[str, Any]:
    """Converts the fields of a config to JSON values, except those named in `but`."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(config).items()
        if key not in but
    }


def read_command_line(
    name: str, card: ModuleType, arguments: Sequence[str]
) -> CommandLine:
    """Reads the settings of an experiment from its command line.

    Args:
        name: Name of the experiment.
        card: Its module in `configs`.
        arguments: Words after the name: of a card with several collections first the
            name of one, then options; `--quick` anywhere.

    Raises:
        SystemExit: If the arguments are wrong, with what is right, or ask for help.
    """
    quick = "--quick" in arguments
    words = [word for word in arguments if word != "--quick"]
    default = card.quick() if quick else card.full()
    prog = f"python -m experiments {name}"
    if quick and set(words[:1]) & set(_collection_names(card)):
        sys.exit(
            f"error: {prog} --quick must go without {words[0]!r}: it has a small "
            "collection of its own."
        )
    description = f"{card.__doc__ or ''}\n{_QUICK_HELP}"
    if isinstance(default, dict):
        config = tyro.extras.overridable_config_cli(
            {key: (description, config) for key, config in default.items()},
            prog=prog,
            args=words,
        )
    else:
        config = tyro.cli(
            type(default),
            default=default,
            description=description,
            prog=prog,
            args=words,
        )
    return CommandLine(config, quick)


def _collection_names(card: ModuleType) -> tuple[str, ...]:
    """Lists the collections of a card that has several."""
    full = card.full()
    return tuple(full) if isinstance(full, dict) else ()


def run_from_command_line(
    name: str,
    card: ModuleType,
    run: Experiment,
    *,
    show: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Reads an experiment's command line, runs it and prints its tables.

    Records of quick runs and of a user's own pictures do not go to the repository's.

    Args:
        name: Name of the experiment.
        card: Its module in `configs`.
        run: The experiment.
        show: Prints a record; None prints all its tables and its caption.
    """
    config, quick = read_command_line(name, card, sys.argv[1:])
    enable_compilation_cache()
    # Apart, since scenes of other settings can't be in the same folder.
    workdir = cache_folder() / ("experiments-quick" if quick else "experiments")
    workdir.mkdir(parents=True, exist_ok=True)
    records = RECORDS
    if quick:
        records = quick_records()
        records.mkdir(exist_ok=True)
    elif getattr(config, "benchmark", None) in {"folder", "labels"}:
        records = pathlib.Path("records")
    try:
        outcome = run(config, workdir, records=records)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for record in outcome if isinstance(outcome, list) else [outcome]:
        (show or print_record)(record)
    if quick:
        print(f"recorded in {records}")


def quick_records() -> pathlib.Path:
    """Finds the folder of the records of quick runs, in the cache."""
    return cache_folder() / "experiments-quick" / "records"


def record_tables(record: Mapping[str, Any]) -> tuple[Table, ...]:
    """Lays out a record: mAP by method, paired differences, other measurements.

    Args:
        record: From `report.make_record`.

    Returns:
        The tables that have rows.
    """
    results = record["results"]
    methods = [r for r in results if {"method", "mean_ap"} <= r.keys()]
    tables = mean_ap_table(methods), difference_table(methods)
    return tuple(t for t in (*tables, *measurement_tables(results)) if t.rows)


def print_record(record: Mapping[str, Any]) -> None:
    """Prints the tables of a record and its caption."""
    for table in record_tables(record):
        print(text_table(*table))
    print(caption(record))
