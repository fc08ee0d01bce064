"""What an index of pictures knows about its pictures and the network behind them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from diffjax.data import fitted_sizes
from diffjax.features import (
    EfficientNetLite0,
    RegionBatch,
    efficientnet_lite0_fingerprint,
    forward,
    load_efficientnet_lite0,
)
from diffjax.regions import (
    l2_normalize,
    max_pool_regions,
    max_regions,
    region_boxes,
)

_MAP = "head"


class PictureInfo(NamedTuple):
    """Where the vectors of an index came from.

    Attributes:
        folder: Folder of the pictures when the index was built.
        names: Their paths in it, one per image of the index.
        skipped: Paths that could not be read, with the reason.
        side: Longer side in pixels at which pictures entered the network.
        network: Name and fingerprint of the network and its weights.
        content: Hash of what all pictures held, those skipped included.
    """

    folder: str
    names: tuple[str, ...]
    skipped: dict[str, str]
    side: int
    network: str
    content: str = ""


class Describer:
    """Computes L2-normalised R-MAC region vectors; see `features.Describe`.

    Attributes:
        network: Name and fingerprint of the network and its weights.
        batch_size: Pictures per call that this device likes best. Always the same
            number, filled up: a picture's bits then do not depend on its batch mates.
    """

    def __init__(self, *, side: int) -> None:
        """Reads the network's weights.

        Args:
            side: Longer side of the pictures that will come, in pixels.
        """
        self.network = network_name()
        # On a CPU one picture keeps all cores busy and stays in their caches.
        self.batch_size = 1 if jax.default_backend() == "cpu" else 16
        self._network = load_efficientnet_lite0()
        self._stride = EfficientNetLite0.strides[_MAP]
        sizes = fitted_sizes(side=side)
        self._max_regions = max_regions(sizes, stride=self._stride)

    def __call__(
        self, images: UInt8[np.ndarray, "b h w 3"], sizes: Int[np.ndarray, "b 2"], /
    ) -> RegionBatch:
        """Describes a batch of pictures of one canvas."""
        regions = region_boxes(
            sizes, stride=self._stride, max_regions=self._max_regions
        )
        maps = forward(
            self._network, jnp.asarray(images), jnp.asarray(sizes), names=(_MAP,)
        )
        vectors = _pooled(maps[_MAP], jnp.asarray(regions.boxes))
        return RegionBatch(vectors, regions.counts)


def network_name() -> str:
    """Names the network and the very weights that pictures are described with here."""
    return f"efficientnet-lite0/{_MAP}/{efficientnet_lite0_fingerprint()[:16]}"


@functools.lru_cache(maxsize=2)
def describer(side: int) -> Describer:
    """Keeps the network between searches: reading it takes longer than using it."""
    return Describer(side=side)


@jax.jit
def _pooled(
    maps: Float[Array, "b h w c"], boxes: Int[Array, "b r 4"]
) -> Float[Array, "b r c"]:
    return l2_normalize(max_pool_regions(maps, boxes))
