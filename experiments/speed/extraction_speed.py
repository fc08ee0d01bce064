"""Times describing files of pictures against the network alone on the same pictures.

Bare: the network's map of every picture, one batch after the other, from pixels that
are in memory already, scaled and stacked. Whole: `describe_pictures` from the files of
the same pictures, that is read, decoded and scaled by processes, stacked, computed,
pooled over the grid of regions and brought back, two pictures side by side, so that
cores that wait for the last part of a layer have work; bare so, too, in a row of its
own. They take turns, so that a busy machine slows all of them down.
Data: all 864 photographs of grocery packages (train), 348 px, of which the network
sees 320 px; starting the processes is part of the time.
Expected: 85 % of the bare throughput and more, also on 2 cores, where readers take from
the network what they need.
Cost: four minutes on 2 cores.

    python -m experiments extraction_speed
"""

import collections
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.caches import enable_compilation_cache
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

_SIDE = 320  # px


def run(
    folder: pathlib.Path, workdir: pathlib.Path, *, pictures: int = 864, rounds: int = 3
) -> dict[str, Any]:
    """Times all of them and appends one record.

    Args:
        folder: Pictures.
        workdir: Where `extraction_speed.jsonl` is.
        pictures: How many of them.
        rounds: How often each has its turn.

    Returns:
        The record: pictures a second of each, by number of processes that read, and the
        ratio of the network's median time to its own.

    Raises:
        ValueError: If a picture can't be read.
    """
    paths = find_pictures(folder)[:pictures]
    describe = Describer(DescriptorConfig(side=_SIDE))
    network = load_efficientnet_lite0()
    batches = _make_batches(paths, describe.batch_size)

    def one(batch: PictureBatch) -> dict[str, jax.Array]:
        return forward(network, jnp.asarray(batch.images), jnp.asarray(batch.sizes))

    def bare() -> None:
        jax.block_until_ready([one(batch) for batch in batches])

    def bare_side_by_side() -> None:
        with ThreadPoolExecutor(describe.parallel_batches) as threads:
            list(threads.map(lambda batch: jax.block_until_ready(one(batch)), batches))

    def whole(workers: int) -> Callable[[], None]:
        def compute() -> None:
            found = list(
                describe_pictures(
                    paths,
                    describe,
                    sides=(_SIDE,),
                    batch_size=describe.batch_size,
                    parallel_batches=describe.parallel_batches,
                    workers=workers,
                )
            )
            if not all(isinstance(one, DescribedPicture) for one in found):
                raise ValueError(f"{folder} must hold pictures that can be read.")

        return compute

    def reading() -> None:
        for path in paths:
            read_resized(path, sides=(_SIDE,))

    contestants = {
        "network alone": bare,
        "network alone, side by side": bare_side_by_side,
        "reading alone, in one process": reading,
    } | {f"from files, {workers} processes": whole(workers) for workers in (1, 2)}
    times = _run_interleaved(contestants, rounds=rounds)
    base = statistics.median(times["network alone"])
    record = make_record(
        "extraction speed",
        settings={
            "network": "EfficientNet-Lite0",
            "side": _SIDE,
            "pictures": len(paths),
            "batch_size": describe.batch_size,
            "at_once": describe.parallel_batches,
            "rounds": rounds,
            "threads": os.cpu_count(),
        },
        results=[
            {
                "what": name,
                "pictures_per_second": len(paths) / statistics.median(found),
                "share_of_bare": base / statistics.median(found),
                "best_share": min(times["network alone"]) / min(found),
            }
            for name, found in times.items()
        ],
        seed=0,
    )
    append_record(workdir / "extraction_speed.jsonl", record)
    return record


def _make_batches(
    paths: tuple[pathlib.Path, ...], batch_size: int
) -> list[PictureBatch]:
    """Stacks pictures as the stream does; the last of a canvas are filled up."""
    by_canvas: dict[tuple[int, int], list[np.ndarray]] = collections.defaultdict(list)
    for path in paths:
        (pixels,) = read_resized(path, sides=(_SIDE,)).pixels
        size = pixels.shape[0], pixels.shape[1]
        by_canvas[choose_canvas(size, side=_SIDE)].append(pixels)
    batches = []
    for canvas, pictures in by_canvas.items():
        for start in range(0, len(pictures), batch_size):
            own = pictures[start : start + batch_size]
            own += own[:1] * (batch_size - len(own))
            images = np.zeros((batch_size, *canvas, 3), np.uint8)
            for image, pixels in zip(images, own, strict=True):
                image[: pixels.shape[0], : pixels.shape[1]] = pixels
            sizes = np.array([pixels.shape[:2] for pixels in own], np.int32)
            batches.append(PictureBatch(images, sizes))
    return batches


def _run_interleaved(
    contestants: dict[str, Callable[[], None]], *, rounds: int
) -> dict[str, list[float]]:
    """Measures seconds, one turn of each after the other; the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, compute in contestants.items():
            start = time.perf_counter()
            compute()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Prints and records how busy the network is kept."""
    enable_compilation_cache()
    data = pathlib.Path(os.environ.get("DIFFJAX_DATA", "../shared/data"))
    workdir = pathlib.Path(__file__).parents[1] / "records"
    for found in run(data / "grocery_packages" / "train", workdir)["results"]:
        print(
            f"{found['what']:30} {found['pictures_per_second']:6.1f} a second, "
            f"{found['share_of_bare']:.2f} of the network alone "
            f"(best {found['best_share']:.2f})"
        )
