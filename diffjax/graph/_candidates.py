"""From candidates, found by whatever search, to neighbour lists in order."""

import numpy as np
from jaxtyping import Float, Int

# Numbers that are gathered at a time: 128 MiB in double precision.
_GATHERED = 2**24


def rank_candidates(
    vectors: Float[np.ndarray, "n d"],
    nodes: Int[np.ndarray, " r"],
    candidates: Int[np.ndarray, "r c"],
    k: int,
    *,
    own: bool,
) -> tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
    """Computes the similarities of candidates and keeps the k best, in order.

    Every product is summed in the same order, so that duplicates have exactly equal
    similarities, which BLAS does not promise.

    Args:
        vectors: All vectors.
        nodes: The vectors whose neighbours are looked for.
        candidates: Candidates of each, in any order; -1 is none, and a number given
            twice counts once.
        k: Neighbours kept.
        own: Whether each of `nodes` is among its own k, candidate or not, and however
            small its similarity.

    Returns:
        Indices and similarities by descending similarity, ties by lower index; -1 and
        0 where there are fewer candidates.
    """
    missing = max(k - candidates.shape[1], 0)
    candidates = np.pad(candidates, ((0, 0), (0, missing)), constant_values=-1)
    indices = np.empty((len(nodes), k), np.int32)
    similarities = np.empty((len(nodes), k), vectors.dtype)
    step = max(_GATHERED // (candidates.shape[1] * max(vectors.shape[1], 1)), 1)
    for start in range(0, len(nodes), step):
        rows = slice(start, start + step)
        found = _rank_block(vectors, nodes[rows], candidates[rows], k, own=own)
        indices[rows], similarities[rows] = found
    return indices, similarities


def _rank_block(vectors, nodes, candidates, k, *, own):
    if own:
        candidates = np.concatenate([nodes[:, None], candidates], axis=1)
    candidates = np.sort(candidates, axis=1)
    candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = -1
    products = np.einsum("rcd,rd->rc", vectors[candidates], vectors[nodes])
    products[candidates < 0] = -np.inf
    worth = products.copy()
    if own:
        worth[candidates == nodes[:, None]] = np.inf
    kept = np.argsort(-worth, axis=1, kind="stable")[:, :k]
    # Back in the order of their numbers, which a stable sort keeps among equals.
    kept = np.sort(kept, axis=1)
    order = np.argsort(-np.take_along_axis(products, kept, 1), axis=1, kind="stable")
    kept = np.take_along_axis(kept, order, axis=1)
    indices = np.take_along_axis(candidates, kept, axis=1)
    similarities = np.take_along_axis(products, kept, axis=1)
    return indices, np.where(indices >= 0, similarities, 0)
