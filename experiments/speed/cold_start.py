"""Cold start, from the shell to an answer: `python -m experiments cold_start`."""

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

from configs import cold_start as card
from configs.cold_start import ColdStartConfig
from diffjax.images import DescriptorConfig, IndexedPictures
from diffjax.index import Index
from diffjax.report import append_record, make_record
from diffjax.weights import efficientnet_lite0_fingerprint
from experiments._entries import descriptor_settings
from experiments._runner import run_from_command_line

from ._neighbor_searches import draw_clustered_vectors

_CHANNELS = 1280  # Channels of the last map of EfficientNet-Lite0.
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
    """Times of a process.

    Attributes:
        answer: Seconds until its first line of output, or until its end without one.
        end: Seconds until its end.
        steps: Report of `--timing`, if it searched.
    """

    answer: float
    end: float
    steps: list[dict[str, Any]]


def run(
    config: ColdStartConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Starts every process in turns and appends a record to `cold_start.jsonl`.

    Args:
        config: Size of the index, and number of rounds.
        workdir: Holds index and caches in a temporary folder.
        records: Folder of the record files.

    Returns:
        The record.
    """
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        times = _time_processes(config, pathlib.Path(folder))
    record = make_record(
        "cold start",
        settings={
            "regions": config.regions,
            "images": config.regions // config.regions_of_image,
            "rounds": config.rounds,
            "descriptor": descriptor_settings(DescriptorConfig()),
            "index": config.index.by_name(),
        },
        results=[
            *_process_entries(times),
            *_step_entries({name: times[name] for name in (_EMPTY, _FULL)}),
        ],
        seed=config.seed,
    )
    append_record(records / "cold_start.jsonl", record)
    return record


def _time_processes(
    config: ColdStartConfig, folder: pathlib.Path
) -> dict[str, list[ProcessTimes]]:
    """Times imports and searches, interleaved, with files in a folder."""
    index, caches = folder / "index", folder / "caches"
    make_index(config).save(index)

    def search(cache: pathlib.Path) -> ProcessTimes:
        words = "search", index, _PICTURE, "--json", "--timing"
        return time_process(_SEARCH, *words, cache=cache)

    def search_with_empty_cache() -> ProcessTimes:
        with tempfile.TemporaryDirectory(dir=folder) as empty:
            return search(pathlib.Path(empty))

    processes: dict[str, Callable[[], ProcessTimes]] = {
        name: lambda code=code: time_process(code, cache=caches)
        for name, code in _IMPORTS.items()
    }
    processes |= {_EMPTY: search_with_empty_cache, _FULL: lambda: search(caches)}
    return _run_interleaved(processes, rounds=config.rounds)


def make_index(config: ColdStartConfig) -> Index:
    """Builds an index of random regions that takes pictures as queries."""
    per_image = config.regions_of_image
    images = config.regions // per_image
    return Index.build(
        draw_clustered_vectors(images * per_image, _CHANNELS, seed=config.seed),
        np.repeat(np.arange(images, dtype=np.int32), per_image),
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
    """Runs Python code as a process and times it from outside.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"DIFFJAX_CACHE": str(cache)}
    start = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  # Of this file and this Python alone.
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        answer = time.perf_counter() - start
        process.wait()
    end = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return ProcessTimes(answer, end, json.loads(line)["timing"] if line else [])


def _run_interleaved(
    processes: dict[str, Callable[[], ProcessTimes]], *, rounds: int
) -> dict[str, list[ProcessTimes]]:
    """Starts each in turn; the first round fills caches and is not counted."""
    times: dict[str, list[ProcessTimes]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name, start in processes.items():
            measured = start()
            if number:
                times[name].append(measured)
    return times


def _process_entries(times: dict[str, list[ProcessTimes]]) -> list[dict[str, Any]]:
    base = [process.end for process in times[_BASE]]
    rows = []
    for name, processes in times.items():
        answers = [process.answer for process in processes]
        ends = [process.end for process in processes]
        # Ratios within rounds: a busy machine slows a whole round down.
        ratios = [end / of for end, of in zip(ends, base, strict=True)]
        rows.append(
            {
                "process": name,
                "seconds": statistics.median(ends),
                "least": min(ends),
                "largest": max(ends),
                "times_import_jax": statistics.median(ratios),
                "seconds_to_answer": (
                    statistics.median(answers) if processes[0].steps else None
                ),
            }
        )
    return rows


def _step_entries(times: dict[str, list[ProcessTimes]]) -> list[dict[str, Any]]:
    return [
        {
            "process": name,
            "step": steps[0]["name"],
            "seconds": statistics.median(step["seconds"] for step in steps),
            "for_programs": statistics.median(step["programs"] for step in steps),
            "compiled": max(step["compiled"] for step in steps),
            "from_the_cache": max(step["cached"] for step in steps),
        }
        for name, processes in times.items()
        for steps in zip(*(process.steps for process in processes), strict=True)
    ]


def main() -> None:
    """Reads the command line, times processes and records."""
    run_from_command_line("cold_start", card, run)
