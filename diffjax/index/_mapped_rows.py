"""Vectors as they are handed over, read by block, checked and prepared."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.graph import CLUSTER_BLOCK_ROWS
from diffjax.pooling import gmp_weights
from diffjax.regions import (
    RunningCovariance,
    l2_normalize,
    merge_covariances,
    running_covariance,
)
from diffjax.types import Whitening

from ._blocks import prepare
from ._given import Ids, Vectors
from ._mapped_files import give_back

# What is handed over in an odd number is filled up to one of a few shapes.
_SMALLEST = 1024
# Bytes of vectors that are looked at before their pages are given back, and the least
# that a look at a row takes, if its neighbours are not mapped along.
_WINDOW, _PAGE = 2**28, 4096

Progress = Callable[[str, int, int], None]


class Checked(NamedTuple):
    """What a first look at all vectors found.

    Attributes:
        digest: Hash of their bytes.
        running_covariance: Of the unit vectors; None where nobody asked.
    """

    digest: str
    running_covariance: RunningCovariance | None


class PreparedRows:
    """Reads vectors by number: of unit length, whitened, and in single precision.

    Attributes:
        whitening: What they go through; None for nothing but the length.
    """

    def __init__(self, vectors: Vectors, whitening: Whitening | None) -> None:
        """Takes vectors that were checked, in memory or mapped."""
        self._vectors, self.whitening = vectors, whitening
        self._seen = 0

    @property
    def dim(self) -> int:
        """Dimensions of what is read."""
        if self.whitening is None:
            return int(self._vectors.shape[1])
        return int(self.whitening.projection.shape[1])

    def __call__(
        self, which: slice | Int[np.ndarray, " r"]
    ) -> Float[np.ndarray, "r p"]:
        """Reads some of them."""
        given = np.asarray(self._vectors[which], np.float32)
        rows = len(given)
        self._seen += rows * max(given.nbytes // max(rows, 1), _PAGE)
        if self._seen > _WINDOW:
            give_back(self._vectors)
            self._seen = 0
        size = max(_SMALLEST, 1 << max(rows - 1, 0).bit_length())
        filled = np.zeros((size, given.shape[1]), np.float32)
        filled[:rows] = given
        real = np.arange(size) < rows
        return np.asarray(prepare(filled, real, self.whitening))[:rows]


def check_source(name: str, vectors: Vectors) -> None:
    """Refuses what is no matrix of numbers that can be read by block.

    Raises:
        ValueError: With the type and shape.
    """
    if not hasattr(vectors, "dtype") or vectors.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got {type(vectors).__name__}.")
    if vectors.dtype not in (np.float16, np.float32) or not vectors.size:
        raise ValueError(
            f"{name} must be float32 or float16 of shape [n, d], got {vectors.dtype} "
            f"{list(vectors.shape)}."
        )
    if len(vectors) > np.iinfo(np.int32).max:
        raise ValueError(f"{name} must be fewer than 2^31, got {len(vectors)}.")


def read_all(vectors: Vectors, *, fit: bool, progress: Progress) -> Checked:
    """Looks at every vector once: for bad ones, for the hash, for the moments.

    Args:
        vectors: The vectors.
        fit: Whether moments are wanted.
        progress: Progress.

    Returns:
        What was found.

    Raises:
        ValueError: If one is not finite or zero; it names the first bad row.
    """
    digest = hashlib.sha256(f"{vectors.dtype} {list(vectors.shape)} ".encode())
    total: RunningCovariance | None = None
    for start, block in _blocks(vectors):
        digest.update(np.ascontiguousarray(block).data)
        single = np.asarray(block, np.float32)
        largest = np.abs(single).max(axis=1)
        bad = np.flatnonzero(~(np.isfinite(largest) & (largest > 0)))
        if bad.size:
            what = "zero" if largest[bad[0]] == 0 else "NaN or infinity"
            raise ValueError(
                f"vectors must be finite and have a direction, got {what} in row "
                f"{start + bad[0]}."
            )
        if fit:
            own = running_covariance(np.asarray(l2_normalize(jnp.asarray(single))))
            total = own if total is None else merge_covariances(total, own)
        give_back(vectors)
        progress("reading vectors", start + len(block), len(vectors))
    return Checked(digest.hexdigest(), total)


def weigh_regions(
    rows: PreparedRows, image_ids: Ids, *, lam: float, progress: Progress
) -> Float[np.ndarray, " n"]:
    """Computes the weights of generalised max pooling, some images at a time.

    Args:
        rows: Reads the vectors.
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
    weights = np.empty(n, np.float32)
    start = image = 0
    while start < n:
        # As many whole images as go into a block, one at least.
        last = max(
            int(np.searchsorted(ends, start + CLUSTER_BLOCK_ROWS, "right")), image + 1
        )
        stop = int(ends[last - 1])
        weights[start:stop] = _weigh(
            rows(slice(start, stop)), counts[image:last], most, lam
        )
        progress("weighing regions", stop, n)
        start, image = stop, last
    return weights


def _weigh(vectors, counts, most, lam):
    """Weights of a block that is filled up, so that few programs are compiled."""
    given = len(vectors)
    size = 1 << max(given - 1, 1023).bit_length()
    # Each row of the filling is an image of its own.
    ids = np.append(np.repeat(np.arange(len(counts)), counts), np.zeros(0, np.int64))
    ids = np.append(ids, len(counts) + np.arange(size - given)).astype(np.int32)
    images = 1 << int(ids[-1]).bit_length()
    filled = np.zeros((size, vectors.shape[1]), np.float32)
    filled[:given] = vectors
    found = gmp_weights(
        jnp.asarray(filled), ids, lam=lam, num_images=images, max_regions=most
    )
    return np.asarray(found)[:given]


def _blocks(vectors: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), CLUSTER_BLOCK_ROWS):
        yield start, np.asarray(vectors[start : start + CLUSTER_BLOCK_ROWS])
