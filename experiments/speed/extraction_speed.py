"""Speed of describing files of pictures: `python -m experiments extraction_speed`."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import extraction_speed as card
from configs.extraction_speed import ExtractionSpeedConfig
from configs.schema import ScenesData, few_scenes
from diffjax.images import (
    DescribedPicture,
    Describer,
    DescriptorConfig,
    PictureBatch,
    choose_canvas,
    describe_pictures,
    find_pictures,
    read_resized,
)
from diffjax.networks import forward
from diffjax.report import append_record, make_record
from diffjax.weights import load_efficientnet_lite0
from experiments._entries import descriptor_settings
from experiments._runner import run_from_command_line
from experiments._timing import time_interleaved

_NETWORK = "network alone"


def run(
    config: ExtractionSpeedConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Times network, readers and both, and appends to `extraction_speed.jsonl`.

    Args:
        config: Pictures and rounds.
        workdir: Caches composed scenes, where they are the pictures.
        records: Folder of the record file.

    Returns:
        The record: pictures a second of each, by number of reading processes, and the
        ratio of the network's median time to its own.

    Raises:
        ValueError: If a picture can't be read.
    """
    descriptor = DescriptorConfig(side=config.side)
    describe = Describer(descriptor)
    paths = _list_pictures(config, workdir)
    calls = _make_calls(config, paths, describe)
    timed = {name: lambda _, call=call: call() for name, call in calls.items()}
    times = time_interleaved(timed, rounds=config.rounds)
    base = times[_NETWORK]
    record = make_record(
        "extraction speed",
        settings={
            "network": "EfficientNet-Lite0",
            "descriptor": descriptor_settings(descriptor),
            "side": config.side,
            "pictures": len(paths),
            "batch_size": describe.batch_size,
            "at_once": describe.parallel_batches,
            "rounds": config.rounds,
            "threads": os.cpu_count(),
        },
        results=[
            {
                "what": name,
                "pictures_per_second": len(paths) / median(seconds),
                "share_of_bare": median(base) / median(seconds),
                "best_share": min(base) / min(seconds),
            }
            for name, seconds in times.items()
        ],
        seed=0,
    )
    append_record(records / "extraction_speed.jsonl", record)
    return record


def _list_pictures(
    config: ExtractionSpeedConfig, workdir: pathlib.Path
) -> tuple[pathlib.Path, ...]:
    folder = config.folder
    if folder is None:
        scenes = dataclasses.replace(few_scenes(), seed=1)
        folder = ScenesData(scenes).load(workdir / "extraction").folder
    return find_pictures(folder)[: config.pictures]


def _make_calls(
    config: ExtractionSpeedConfig, paths: tuple[pathlib.Path, ...], describe: Describer
) -> dict[str, Callable[[], None]]:
    """Makes the calls to time, by name."""
    network = load_efficientnet_lite0()
    batches = _make_batches(paths, describe.batch_size, side=config.side)

    def compute_map(batch: PictureBatch) -> dict[str, jax.Array]:
        return jax.block_until_ready(
            forward(network, jnp.asarray(batch.images), jnp.asarray(batch.sizes))
        )

    def run_network() -> None:
        for batch in batches:
            compute_map(batch)

    def run_network_side_by_side() -> None:
        with ThreadPoolExecutor(describe.parallel_batches) as threads:
            list(threads.map(compute_map, batches))

    def run_readers() -> None:
        for path in paths:
            read_resized(path, sides=(config.side,))

    def describe_files(workers: int) -> None:
        results = describe_pictures(
            paths,
            describe,
            sides=(config.side,),
            batch_size=describe.batch_size,
            parallel_batches=describe.parallel_batches,
            workers=workers,
        )
        if not all(isinstance(result, DescribedPicture) for result in list(results)):
            raise ValueError("folder must hold pictures that can be read.")

    return {
        _NETWORK: run_network,
        f"{_NETWORK}, side by side": run_network_side_by_side,
        "reading alone, in one process": run_readers,
    } | {
        f"from files, {workers} processes": lambda workers=workers: describe_files(
            workers
        )
        for workers in config.workers
    }


def _make_batches(
    paths: tuple[pathlib.Path, ...], batch_size: int, *, side: int
) -> list[PictureBatch]:
    """Stacks pictures as `describe_pictures` does, the last batches filled up."""
    by_canvas: dict[tuple[int, int], list[np.ndarray]] = collections.defaultdict(list)
    for path in paths:
        (pixels,) = read_resized(path, sides=(side,)).pixels
        size = pixels.shape[0], pixels.shape[1]
        by_canvas[choose_canvas(size, side=side)].append(pixels)
    batches = []
    for canvas, pictures in by_canvas.items():
        for start in range(0, len(pictures), batch_size):
            members = pictures[start : start + batch_size]
            members += members[:1] * (batch_size - len(members))
            images = np.zeros((batch_size, *canvas, 3), np.uint8)
            for image, pixels in zip(images, members, strict=True):
                image[: pixels.shape[0], : pixels.shape[1]] = pixels
            sizes = np.array([pixels.shape[:2] for pixels in members], np.int32)
            batches.append(PictureBatch(images, sizes))
    return batches


def main() -> None:
    """Reads the command line, times and records."""
    run_from_command_line("extraction_speed", card, run)
