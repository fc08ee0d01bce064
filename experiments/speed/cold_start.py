"""From the shell prompt to the first answer: `python -m experiments cold_start`."""

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import skimage
import tyro

from configs import cold_start
from configs.cold_start import ColdStartConfig
from diffjax.caches import enable_compilation_cache
from diffjax.images import DescriptorConfig, IndexedPictures
from diffjax.index import Index
from diffjax.report import append_record, make_record, measurement_tables, text_table
from diffjax.weights import efficientnet_lite0_fingerprint
from experiments.paper.evaluate import RECORDS

from ._neighbor_searches import draw_clustered_vectors

_CHANNELS = 1280  # Of the last map of EfficientNet-Lite0.
_PICTURE = pathlib.Path(skimage.__file__).parent / "data" / "rocket.jpg"
_SEARCH = "from diffjax.cli import main; main()"
_EMPTY, _FULL = "diffjax search, empty cache", "diffjax search, full cache"
_BASE = "import jax"
_IMPORTS = {
    _BASE: "import jax",
    "import diffjax": "import diffjax",
    "from diffjax import Index": "from diffjax import Index",
}


class ProcessTimes(NamedTuple):
    """What a process took.

    Attributes:
        answer: Seconds until it printed its first line, or ended without.
        end: Seconds until it ended.
        steps: What `--timing` reports, if it searched.
    """

    answer: float
    end: float
    steps: list[dict[str, Any]]


def run(
    config: ColdStartConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Starts every process in turns and appends a record to `cold_start.jsonl`.

    Args:
        config: The index and how often it is searched.
        workdir: Where the index and the caches are, for the time being.
        records: Folder of the record files.

    Returns:
        The record.
    """
    index, caches = workdir / "index", workdir / "caches"
    make_index(config).save(index)

    def search(cache: pathlib.Path) -> ProcessTimes:
        asked = "search", index, _PICTURE, "--json", "--timing"
        return time_process(_SEARCH, *asked, cache=cache)

    def search_anew() -> ProcessTimes:
        with tempfile.TemporaryDirectory(dir=workdir) as empty:
            return search(pathlib.Path(empty))

    contestants: dict[str, Callable[[], ProcessTimes]] = {
        name: lambda code=code: time_process(code, cache=caches)
        for name, code in _IMPORTS.items()
    }
    contestants |= {_EMPTY: search_anew, _FULL: lambda: search(caches)}
    found = _run_interleaved(contestants, rounds=config.rounds)
    record = make_record(
        "cold start",
        settings={
            "regions": config.regions,
            "images": config.regions // config.regions_of_image,
            "rounds": config.rounds,
            "index": dataclasses.asdict(config.index),
        },
        results=[
            *_process_entries(found),
            *_step_entries({name: found[name] for name in (_EMPTY, _FULL)}),
        ],
        seed=config.seed,
    )
    append_record(records / "cold_start.jsonl", record)
    return record


def make_index(config: ColdStartConfig) -> Index:
    """Makes an index of drawn regions that takes pictures as queries."""
    each = config.regions_of_image
    images = config.regions // each
    return Index.build(
        draw_clustered_vectors(images * each, _CHANNELS, seed=config.seed),
        np.repeat(np.arange(images, dtype=np.int32), each),
        config=config.index,
        pictures=IndexedPictures(
            folder="drawn",
            names=tuple(f"{number:05}.jpg" for number in range(images)),
            skipped={},
            descriptor=DescriptorConfig(),
            weights=efficientnet_lite0_fingerprint(),
        ),
    )


def time_process(code: str, *arguments: object, cache: pathlib.Path) -> ProcessTimes:
    """Runs Python code as a process and measures it from here.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"DIFFJAX_CACHE": str(cache)}
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  # Of this file and this Python alone.
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        answer = time.perf_counter() - begun
        process.wait()
    end = time.perf_counter() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return ProcessTimes(answer, end, json.loads(line)["timing"] if line else [])


def _run_interleaved(
    contestants: dict[str, Callable[[], ProcessTimes]], *, rounds: int
) -> dict[str, list[ProcessTimes]]:
    """Starts each in turn; the first turn fills caches and is not counted."""
    found: dict[str, list[ProcessTimes]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, begin in contestants.items():
            started = begin()
            if turn:
                found[name].append(started)
    return found


def _process_entries(found: dict[str, list[ProcessTimes]]) -> list[dict[str, Any]]:
    base = [started.end for started in found[_BASE]]
    rows = []
    for name, each in found.items():
        answers = [started.answer for started in each]
        ends = [started.end for started in each]
        # Of each turn by itself: what slows a turn down slows all of it.
        ratios = [end / of for end, of in zip(ends, base, strict=True)]
        rows.append(
            {
                "process": name,
                "seconds": statistics.median(ends),
                "least": min(ends),
                "largest": max(ends),
                "times_import_jax": statistics.median(ratios),
                "seconds_to_answer": (
                    statistics.median(answers) if each[0].steps else None
                ),
            }
        )
    return rows


def _step_entries(found: dict[str, list[ProcessTimes]]) -> list[dict[str, Any]]:
    return [
        {
            "process": name,
            "step": steps[0]["name"],
            "seconds": statistics.median(step["seconds"] for step in steps),
            "for_programs": statistics.median(step["programs"] for step in steps),
            "compiled": max(step["compiled"] for step in steps),
            "from_the_cache": max(step["cached"] for step in steps),
        }
        for name, each in found.items()
        for steps in zip(*(started.steps for started in each), strict=True)
    ]


def main() -> None:
    """Reads the command line and prints what was found."""
    enable_compilation_cache()
    config = tyro.cli(
        ColdStartConfig,
        default=cold_start.full(),
        description=cold_start.__doc__,
        prog="python -m experiments cold_start",
    )
    with tempfile.TemporaryDirectory() as workdir:
        record = run(config, pathlib.Path(workdir), records=RECORDS)
    for table in measurement_tables(record["results"]):
        print(text_table(*table))
