"""What is computed once per collection: whitening, neighbours, offline solutions."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.diffusion import OfflineRows, solve_offline_rows
from diffjax.graph import (
    ReorderedGraph,
    affinity,
    check_neighbors,
    compress,
    knn,
    mutual_edges,
    normalize,
    recall,
    reorder,
)
from diffjax.images import IndexedPictures
from diffjax.regions import (
    RunningCovariance,
    fit_pca,
    fit_pca_whitening,
    l2_normalize,
    whiten,
)
from diffjax.types import Graph, Neighbors, Whitening

from ._config import IndexConfig
from ._given import Boxes, Ids, Vectors, check_boxes, check_rows, row_ids
from ._storage import Parts

_VECTORS_PER_DIMENSION = 2


def make_parts(
    vectors: Vectors,
    image_ids: Ids | None,
    *,
    config: IndexConfig,
    neighbors: Neighbors | None,
    pictures: IndexedPictures | None,
    whitening: Whitening | None,
    prepared: bool,
    boxes: Boxes | None,
) -> Parts:
    """Prepares vectors and finds their neighbours; see `Index.build`."""
    check_rows("vectors", vectors)
    n = vectors.shape[0]
    if n == 0:
        raise ValueError("vectors must be at least one, got none.")
    ids = row_ids("image_ids", image_ids, rows=n)
    if neighbors is not None:
        check_neighbors("neighbors", neighbors, n=n)
        config = dataclasses.replace(config, k=neighbors.indices.shape[1])
    if boxes is not None:
        boxes = check_boxes(boxes, rows=n)
    units = l2_normalize(jnp.asarray(vectors))
    if not prepared:
        if whitening is None and config.dim is not None:
            whitening = fit_whitening(np.asarray(units), config)
        if whitening is not None:
            _check_whitening(whitening, units.shape[1])
            units = whiten(units, whitening)
    elif whitening is not None and whitening.projection.shape[1] != units.shape[1]:
        raise ValueError(
            f"vectors that are prepared must have the {whitening.projection.shape[1]} "
            f"dimensions that whitening gives, got {units.shape[1]}."
        )
    _warn_of_small("k", config.k, n)
    _warn_of_small("query_k", config.query_k, n)
    share = None
    if neighbors is None:
        neighbors = knn(units, min(config.k, n), method=config.neighbors)
        if config.neighbors in {"nn-descent", "clusters"}:
            share = recall(neighbors, units)
    return Parts(
        vectors=units,
        image_ids=ids,
        neighbors=neighbors,
        whitening=whitening,
        config=config,
        pictures=pictures,
        recall=share,
        order=None,
        rows=None,
        boxes=boxes,
    )


def make_layout(parts: Parts, *, normalized: bool) -> ReorderedGraph:
    """Makes S, or A, of lists of neighbours, in an order that suits the memory."""
    edges, config = mutual_edges(parts.neighbors), parts.config
    graph = compress(affinity(edges, gamma=config.gamma, bias=config.bias))
    return reorder(normalize(graph) if normalized else graph, order=parts.order)


def solve_rows(
    graph: Graph,
    neighbors: Neighbors,
    vectors: Float[Array, "n p"],
    config: IndexConfig,
) -> OfflineRows:
    """Solves for every region on as many of its nearest as the settings say."""
    size = min(config.offline or 1, vectors.shape[0])
    near = neighbors.indices
    if size > near.shape[1]:
        near = knn(vectors, size, method=config.neighbors).indices
    return solve_offline_rows(
        graph,
        near[:, :size],
        alpha=config.alpha,
        rtol=config.rtol,
        max_steps=config.max_steps,
    )


def fit_whitening(
    vectors: Float[np.ndarray, "n d"] | RunningCovariance, config: IndexConfig
) -> Whitening | None:
    """Fits the whitening that the settings name; None for vectors that do not differ.

    Args:
        vectors: Unit region vectors, or their moments.
        config: Settings with `dim`.
    """
    dim = config.dim or 1
    count = vectors.count if isinstance(vectors, RunningCovariance) else len(vectors)
    # As many dimensions as vectors, and whitening makes all of them orthogonal: with
    # 280 regions of 20 pictures mAP was 19 at 256 dimensions and 96 at 128.
    limit = max(count // _VECTORS_PER_DIMENSION, 1)
    try:
        if config.whitening == "pca":
            whitening = fit_pca(vectors, dim=min(dim, limit))
        else:
            whitening = fit_pca_whitening(
                vectors, dim=min(dim, limit), shrinkage=config.shrinkage
            )
    except ValueError as error:  # Else they are fit for it: checked before.
        warnings.warn(f"vectors are not whitened: {error}", stacklevel=4)
        return None
    got = whitening.projection.shape[1]
    if got < dim:
        reason = (
            f"{count} vectors can tell apart: using {got}, one for every "
            f"{_VECTORS_PER_DIMENSION} of them."
            if got == limit
            else f"the {got} dimensions that {count} vectors span: using {got}."
        )
        warnings.warn(f"dim {dim} is more than {reason}", stacklevel=4)
    return whitening


def _check_whitening(whitening: Whitening, dim: int) -> None:
    if whitening.mean.shape[0] != dim:
        raise ValueError(
            f"whitening must be of vectors of {dim} dimensions, got "
            f"{whitening.mean.shape[0]}."
        )


def _warn_of_small(name: str, k: int, n: int) -> None:
    if k > n:
        warnings.warn(
            f"{name} {k} is more than the {n} regions of the collection: using {n}.",
            stacklevel=4,
        )
