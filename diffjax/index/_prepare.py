"""Preparation of vectors on disk, block by block: checks, whitening, weights."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.graph import CLUSTER_BLOCK_ROWS
from diffjax.pooling import gmp_weights
from diffjax.progress import Progress, no_progress
from diffjax.regions import (
    RunningCovariance,
    l2_normalize,
    merge_covariances,
    running_covariance,
)
from diffjax.types import Whitening

from ._files import give_back
from ._queries import prepare
from ._validation import Ids, VectorRows

# Blocks are padded to one of a few numbers of rows, this one at least.
_MIN_ROWS = 1024
# Bytes of vectors that are read before their pages are given back, and the least that
# reading a single row maps.
_WINDOW_BYTES, _PAGE_BYTES = 2**28, 4096


class CheckedVectors(NamedTuple):
    """Facts from a first pass over all vectors.

    Attributes:
        digest: Hash of their bytes.
        running_covariance: Covariance of the unit vectors; None if not asked for.
    """

    digest: str
    running_covariance: RunningCovariance | None


class PreparedRows:
    """Reader of vectors by number: normalised, whitened, in single precision.

    Attributes:
        whitening: Whitening that is applied; None only normalises.
    """

    def __init__(self, vectors: VectorRows, whitening: Whitening | None) -> None:
        """Keeps checked vectors, in memory or mapped."""
        self._vectors, self.whitening = vectors, whitening
        self._bytes_read = 0

    @property
    def dim(self) -> int:
        """Dimensions of the vectors that are read."""
        if self.whitening is None:
            return int(self._vectors.shape[1])
        return int(self.whitening.projection.shape[1])

    def __call__(
        self, which: slice | Int[np.ndarray, " r"]
    ) -> Float[np.ndarray, "r p"]:
        """Reads and prepares some of the vectors."""
        block = np.asarray(self._vectors[which], np.float32)
        rows = len(block)
        self._bytes_read += rows * max(block.nbytes // max(rows, 1), _PAGE_BYTES)
        if self._bytes_read > _WINDOW_BYTES:
            give_back(self._vectors.base)
            self._bytes_read = 0
        size = max(_MIN_ROWS, 1 << max(rows - 1, 0).bit_length())
        padded = np.zeros((size, block.shape[1]), np.float32)
        padded[:rows] = block
        mask = np.arange(size) < rows
        return np.asarray(prepare(padded, mask, self.whitening))[:rows]


def read_all(vectors: VectorRows, *, fit: bool, progress: Progress) -> CheckedVectors:
    """Reads every vector once, to check, hash and measure them.

    Args:
        vectors: The vectors.
        fit: Whether the covariance is asked for.
        progress: Progress.

    Returns:
        Hash and covariance.

    Raises:
        ValueError: If one is not finite or zero; it names the first bad row.
    """
    digest = hashlib.sha256(f"{vectors.dtype} {list(vectors.shape)} ".encode())
    total: RunningCovariance | None = None
    for start, block in _blocks(vectors):
        digest.update(block.data)
        largest = np.abs(block).max(axis=1)
        bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
        if bad.size:
            value = "zero" if largest[bad[0]] == 0 else "NaN or infinity"
            raise ValueError(
                f"vectors must be finite and have a direction, got {value} in row "
                f"{start + bad[0]}."
            )
        if fit:
            units = np.asarray(l2_normalize(jnp.asarray(block)))
            block_covariance = running_covariance(units)
            total = (
                block_covariance
                if total is None
                else merge_covariances(total, block_covariance)
            )
        give_back(vectors.base)
        progress("reading vectors", start + len(block), len(vectors))
    return CheckedVectors(digest.hexdigest(), total)


def weigh_regions(
    read_rows: Callable[[slice], Float[np.ndarray, "r p"]],
    image_ids: Ids,
    *,
    lam: float,
    progress: Progress = no_progress,
) -> Float[np.ndarray, " n"]:
    """Computes the weights of generalised max pooling, some images at a time.

    Blocks are padded to a few shapes, so that few programs are compiled.

    Args:
        read_rows: Reads vectors, as prepared.
        image_ids: Image of each, from 0 upwards.
        lam: See `gmp_weights`.
        progress: Progress.

    Returns:
        One weight per vector.
    """
    ids = np.asarray(image_ids)
    counts = np.bincount(ids)
    ends = np.cumsum(counts)
    most, n = int(counts.max()), len(ids)
    weights = []
    start = image = 0
    while start < n:
        # As many whole images as go into a block, one at least.
        last = max(
            int(np.searchsorted(ends, start + CLUSTER_BLOCK_ROWS, "right")), image + 1
        )
        stop = int(ends[last - 1])
        rows = read_rows(slice(start, stop))
        weights.append(_weigh(rows, counts[image:last], most, lam))
        progress("weighing regions", stop, n)
        start, image = stop, last
    return np.concatenate(weights)


def _weigh(vectors, counts, most, lam):
    """Weights of a block, which is padded to one of a few sizes."""
    rows = len(vectors)
    size = 1 << max(rows - 1, _MIN_ROWS - 1).bit_length()
    # Each row of padding is an image of its own.
    ids = np.repeat(np.arange(len(counts)), counts)
    ids = np.append(ids, len(counts) + np.arange(size - rows)).astype(np.int32)
    num_images = 1 << int(ids[-1]).bit_length()
    padded = np.zeros((size, vectors.shape[1]), vectors.dtype)
    padded[:rows] = vectors
    weights = gmp_weights(
        jnp.asarray(padded), ids, lam=lam, num_images=num_images, max_regions=most
    )
    return np.asarray(weights)[:rows]


def _blocks(vectors: VectorRows) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), CLUSTER_BLOCK_ROWS):
        yield start, vectors[start : start + CLUSTER_BLOCK_ROWS]
