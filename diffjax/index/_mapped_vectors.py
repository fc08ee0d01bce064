"""The vectors that queries are compared with: whole, halved, or as codes."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from diffjax.graph import CLUSTER_BLOCK_ROWS

from ._mapped_files import RowsFile, write_array

_BITS = 8
# Vectors that codebooks of 256 entries are learned from.
_TRAINED = 2**16


class StoredVectors(NamedTuple):
    """Vectors as they are stored, read by slice.

    Attributes:
        rows: float32 or float16 [n, p], or codes, uint8 [n, bytes].
        codebooks: Of codes: the entries of every sub-space; None for numbers.
    """

    rows: Shaped[np.ndarray, "n b"]
    codebooks: Float[np.ndarray, "b entries s"] | None

    def read(self, start: int, stop: int) -> Float[np.ndarray, "r p"]:
        """Gives some of them in single precision."""
        part = self.rows[start:stop]
        if self.codebooks is None:
            return np.asarray(part, np.float32)
        places = np.arange(self.codebooks.shape[0])
        return self.codebooks[places, part].reshape(len(part), -1)


def store_halved(path: pathlib.Path, vectors: Float[np.ndarray, "n p"]) -> None:
    """Writes vectors in half precision: a third decimal, at half the bytes."""
    with RowsFile(path, np.float16, vectors.shape[1]) as file:
        for start in range(0, len(vectors), CLUSTER_BLOCK_ROWS):
            file.append(vectors[start : start + CLUSTER_BLOCK_ROWS].astype(np.float16))


def store_codes(
    path: pathlib.Path,
    books: pathlib.Path,
    vectors: Float[np.ndarray, "n p"],
    *,
    code_bytes: int,
    seed: int,
) -> None:
    """Writes product-quantised vectors: for each sub-space the nearest of 256 entries.

    Args:
        path: Where codes go.
        books: Where the entries go.
        vectors: The vectors.
        code_bytes: Sub-spaces, of equal dimensions; a byte each.
        seed: Of the vectors that entries are learned from.

    References:
        Jegou, Douze and Schmid, Product quantization for nearest neighbor search, IEEE
        TPAMI 33(1), 2011. Cited without equation numbers, as it was not at hand; the
        codebooks are faiss's.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    n, dim = vectors.shape
    drawn = np.arange(n)
    if n > _TRAINED:
        drawn = np.random.default_rng(seed).choice(n, _TRAINED, replace=False)
    quantizer = faiss.ProductQuantizer(dim, code_bytes, _BITS)
    sample = np.ascontiguousarray(vectors[np.sort(drawn)])
    quantizer.cp.seed = seed + 1  # Its own default is odd; 0 is allowed.
    entries = 1 << _BITS
    # Of fewer vectors than entries there are, some are taken twice.
    sample = np.resize(sample, (max(len(sample), entries), dim))
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(sample)
    codebooks = faiss.vector_to_array(quantizer.centroids)
    write_array(books, codebooks.reshape(code_bytes, entries, dim // code_bytes))
    with RowsFile(path, np.uint8, code_bytes) as file:
        for start in range(0, n, CLUSTER_BLOCK_ROWS):
            block = np.ascontiguousarray(vectors[start : start + CLUSTER_BLOCK_ROWS])
            file.append(quantizer.compute_codes(block))
