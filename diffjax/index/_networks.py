"""Which weights the settings mean."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from diffjax._files import file_digest
from diffjax.features import (
    KNOWN_WEIGHTS,
    KnownWeights,
    efficientnet_lite0_path,
    fetch_weights,
)

from ._descriptor import DescriptorConfig


def _known() -> dict[str, KnownWeights]:
    return {weights.name: weights for weights in KNOWN_WEIGHTS}


class WeightsFile(NamedTuple):
    """The weights that settings mean.

    Attributes:
        architecture: What they are of.
        path: Where they are.
    """

    architecture: str
    path: pathlib.Path


def find_weights(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> WeightsFile:
    """Finds the weights that settings mean; known ones are downloaded if need be.

    Raises:
        ValueError: If the network has no name that is known, or no weights.
        OSError: If they can't be downloaded.
    """
    known = _known()
    if config.weights is not None:
        architecture = config.network
        if config.network in known:
            architecture = known[config.network].architecture
        _check_architecture(architecture)
        return WeightsFile(architecture, pathlib.Path(config.weights))
    if config.network == "efficientnet-lite0":
        return WeightsFile(config.network, efficientnet_lite0_path())
    if config.network in known:
        path = fetch_weights(config.network, progress=progress)
        return WeightsFile(known[config.network].architecture, path)
    _check_architecture(config.network)
    raise ValueError(
        f"weights must be given with network {config.network!r}, or a network be named "
        f"whose weights are known: {', '.join(known)}."
    )


def _check_architecture(name: str) -> None:
    from diffjax.features import network_names  # noqa: PLC0415  # Slow: Flax.

    if name not in network_names():
        raise ValueError(
            f"network must be one of {', '.join(network_names())}, or one whose "
            f"weights are known: {', '.join(_known())}; got {name!r}."
        )


def weights_digest(
    config: DescriptorConfig, *, progress: Callable[[str, int, int], None] | None = None
) -> str:
    """Identifies the weights that settings mean, without loading them."""
    return file_digest(find_weights(config, progress=progress).path)
