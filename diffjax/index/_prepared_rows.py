"""Prepared rows: vectors checked, whitened and read block by block; their weights."""

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

from ._array_files import release_pages
from ._query_blocks import prepare
from ._validation import Ids, VectorRows

# Blocks are padded to one of a few numbers of rows, this one at least.
_MIN_ROWS = 1024
# Bytes of vectors that are read before their pages are released, and the least that
# reading a single row maps.
_WINDOW_BYTES, _PAGE_BYTES = 2**28, 4096


class CheckedVectors(NamedTuple):
    """Hash and covariance of checked vectors.

    Attributes:
        digest: SHA-256 of their type, shape and bytes.
        running_covariance: Covariance of the unit vectors; None if not computed.
    """

    digest: str
    running_covariance: RunningCovariance | None


class PreparedRows:
    """Reader of vectors by number: normalised, whitened, in single precision.

    Attributes:
        whitening: Whitening that is applied; None only normalises.
    """

    def __init__(self, vectors: VectorRows, whitening: Whitening | None) -> None:
        """Creates a reader of checked vectors, in memory or mapped."""
        self._vectors, self.whitening = vectors, whitening
        self._bytes_read = 0

    @property
    def dim(self) -> int:
        """Dimensions of the vectors that are read."""
        if self.whitening is None:
            return int(self._vectors.shape[1])
        return int(self.whitening.projection.shape[1])

    def __call__(self, rows: slice | Int[np.ndarray, " r"]) -> Float[np.ndarray, "r p"]:
        """Reads and prepares some of the vectors."""
        block = self._vectors[rows]
        count = len(block)
        self._bytes_read += count * max(block.nbytes // max(count, 1), _PAGE_BYTES)
        if self._bytes_read > _WINDOW_BYTES:
            release_pages(self._vectors.base)
            self._bytes_read = 0
        size = max(_MIN_ROWS, 1 << max(count - 1, 0).bit_length())
        padded = np.zeros((size, block.shape[1]), np.float32)
        padded[:count] = block
        mask = np.arange(size) < count
        return np.asarray(prepare(padded, mask, self.whitening))[:count]


def check_and_hash_vectors(
    vectors: VectorRows, *, fit: bool, progress: Progress
) -> CheckedVectors:
    """Checks and hashes all vectors in one pass, and computes their covariance.

    Args:
        vectors: The vectors.
        fit: Whether to compute the covariance.
        progress: Called with the task, the number of vectors read, and of how many.

    Returns:
        Hash and covariance.

    Raises:
        ValueError: If a vector is zero or not finite, naming the first such row.
    """
    digest = hashlib.sha256(f"{vectors.dtype} {list(vectors.shape)} ".encode())
    total: RunningCovariance | None = None
    for start, block in _iterate_blocks(vectors):
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
        release_pages(vectors.base)
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
        read_rows: Reads prepared vectors of a range of rows.
        image_ids: Image of each vector, from 0 upwards.
        lam: Regularisation; see `gmp_weights`.
        progress: Called with the task, the number of regions done, and of how many.

    Returns:
        One weight per vector.
    """
    ids = np.asarray(image_ids)
    counts = np.bincount(ids)
    ends = np.cumsum(counts)
    max_regions, n = int(counts.max()), len(ids)
    weights = []
    start = image = 0
    while start < n:
        # As many whole images as fit into a block, one at least.
        next_image = max(
            int(np.searchsorted(ends, start + CLUSTER_BLOCK_ROWS, "right")), image + 1
        )
        stop = int(ends[next_image - 1])
        rows = read_rows(slice(start, stop))
        weights.append(_weigh_block(rows, counts[image:next_image], max_regions, lam))
        progress("weighing regions", stop, n)
        start, image = stop, next_image
    return np.concatenate(weights)


def _weigh_block(vectors, counts, max_regions, lam):
    """Weights of generalised max pooling of a block, padded to one of a few sizes."""
    rows = len(vectors)
    size = 1 << max(rows - 1, _MIN_ROWS - 1).bit_length()
    # Each row of padding is an image of its own.
    ids = np.repeat(np.arange(len(counts)), counts)
    ids = np.append(ids, len(counts) + np.arange(size - rows)).astype(np.int32)
    num_images = 1 << int(ids[-1]).bit_length()
    padded = np.zeros((size, vectors.shape[1]), vectors.dtype)
    padded[:rows] = vectors
    weights = gmp_weights(
        jnp.asarray(padded),
        ids,
        lam=lam,
        num_images=num_images,
        max_regions=max_regions,
    )
    return np.asarray(weights)[:rows]


def _iterate_blocks(vectors: VectorRows) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), CLUSTER_BLOCK_ROWS):
        yield start, vectors[start : start + CLUSTER_BLOCK_ROWS]
