"""Build of an index in memory: whitening, neighbours, graph, weights, stored arrays."""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.diffusion import OfflineRows, solve_offline_rows
from diffjax.graph import (
    CLUSTER_BLOCK_ROWS,
    Clusters,
    affinity,
    check_neighbors,
    cluster_vectors,
    compress,
    default_cluster_count,
    knn,
    mutual_edges,
    normalize,
    recall,
    refine_neighbors,
    reorder,
    search_clusters,
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

from ._config import GraphConfig, IndexConfig
from ._ids import NumberedImages, ids_to_arrays
from ._prepared_rows import weigh_regions
from ._store import Facts, Store
from ._validation import Boxes, VectorRows, check_boxes, read_vectors

_VECTORS_PER_DIMENSION = 2
_CODE_BITS = 8
# Vectors that codebooks of 256 entries are trained on.
_CODEBOOK_SAMPLE = 2**16


class NodeLists(NamedTuple):
    """Neighbour lists of the nodes, which are regions in their stored order.

    Attributes:
        neighbors: Nearest nodes of every node.
        order: Region of every node.
        clusters: Clusters of the nodes, if neighbours were searched in clusters.
        recall: Share of the true neighbours, on a sample; None for an exact search.
    """

    neighbors: Neighbors
    order: Int[np.ndarray, " n"]
    clusters: Clusters | None
    recall: float | None


def build_in_memory(
    source: VectorRows,
    images: NumberedImages,
    *,
    config: IndexConfig,
    neighbors: Neighbors | None = None,
    pictures: IndexedPictures | None = None,
    whitening: Whitening | None = None,
    prepared: bool = False,
    boxes: Boxes | None = None,
) -> Store:
    """Builds all arrays of an index in memory; see `Index.build`."""
    vectors, n, image_ids = (
        read_vectors("vectors", source),
        len(source),
        images.image_ids,
    )
    if n == 0:
        raise ValueError("vectors must be at least one, got none.")
    if neighbors is not None:
        check_neighbors("neighbors", neighbors, n=n)
        config = config.replace(k=neighbors.indices.shape[1])
        neighbors = _reorder_lists(neighbors, images.region_order)
    if boxes is not None:
        boxes = check_boxes(boxes, rows=n, order=images.region_order)
    units, whitening = _prepare_vectors(vectors, config.graph, whitening, prepared)
    check_code_bytes(config.graph, units.shape[1])
    for name, k in (("k", config.graph.k), ("query_k", config.search.query_k)):
        warn_if_fewer_regions(name, k, n, stacklevel=4)
    graph_config = config.resolve(n).graph
    lists = _search_neighbors(units, graph_config, neighbors)
    graph, lists = _build_graph(lists, graph_config)
    order = lists.order
    host_units, weights = np.asarray(units), None
    if graph_config.pooling == "gmp":
        weights = weigh_regions(
            lambda rows: host_units[rows], image_ids, lam=graph_config.lam
        )[order]
    offline = _solve_offline(graph, lists, units, config)
    inverse_order = invert_permutation(order)
    # A gather of all vectors, unless the order is the regions' own.
    is_same_order = np.array_equal(order, np.arange(n))
    node_vectors = host_units if is_same_order else host_units[order]
    arrays: dict[str, Any] = {
        **encode_vectors(node_vectors, inverse_order, graph_config),
        "order": order,
        "inverse_order": inverse_order,
        "image_starts": starts_of_images(image_ids),
        "indices": lists.neighbors.indices,
        "similarities": lists.neighbors.similarities,
        "graph_columns": graph.indices,
        "graph_weights": graph.weights,
        "graph_starts": graph.starts,
        "degrees": graph.degrees,
        "weights": weights,
        "boxes": boxes,
        **ids_to_arrays(images.unique_ids),
        **_prefix_names("", whitening),
        **_prefix_names("offline_", offline),
    }
    if lists.clusters is not None:
        arrays["centroids"] = lists.clusters.centroids
        arrays["cluster_starts"] = np.asarray(lists.clusters.starts, np.int64)
    facts = Facts(
        config=config,
        recall=lists.recall,
        offline=None if offline is None else offline_settings(config),
        pictures=pictures,
    )
    present = {name: np.asarray(a) for name, a in arrays.items() if a is not None}
    return Store(present, facts)


def _reorder_lists(
    neighbors: Neighbors, order: Int[np.ndarray, " n"] | None
) -> Neighbors:
    """Neighbour lists of the same rows in another order; None keeps the order."""
    if order is None:
        return neighbors
    indices = np.asarray(neighbors.indices)[order]
    return Neighbors(
        jnp.asarray(np.where(indices >= 0, invert_permutation(order)[indices], -1)),
        jnp.asarray(np.asarray(neighbors.similarities)[order]),
    )


def _prefix_names(
    prefix: str, arrays: Whitening | OfflineRows | None
) -> dict[str, Any]:
    """Arrays of a tuple by their names in the store, with a prefix."""
    if arrays is None:
        return {}
    return {f"{prefix}{name}": array for name, array in arrays._asdict().items()}


def _prepare_vectors(
    vectors: Float[np.ndarray, "n d"],
    graph: GraphConfig,
    whitening: Whitening | None,
    prepared: bool,
) -> tuple[Float[Array, "n p"], Whitening | None]:
    """Normalises and whitens vectors, and fits the whitening unless one is given."""
    units = l2_normalize(jnp.asarray(vectors))
    if prepared:
        if whitening is not None and whitening.projection.shape[1] != units.shape[1]:
            raise ValueError(
                "vectors that are prepared must have the "
                f"{whitening.projection.shape[1]} dimensions that whitening gives, got "
                f"{units.shape[1]}."
            )
        return units, whitening
    if whitening is None and graph.dim is not None:
        whitening = fit_whitening(np.asarray(units), graph)
    if whitening is None:
        return units, None
    if whitening.mean.shape[0] != units.shape[1]:
        raise ValueError(
            f"whitening must be of vectors of {units.shape[1]} dimensions, got "
            f"{whitening.mean.shape[0]}."
        )
    return whiten(units, whitening), whitening


def _search_neighbors(
    units: Float[Array, "n p"], graph: GraphConfig, known_neighbors: Neighbors | None
) -> NodeLists:
    """Searches the neighbours of all regions, unless they are known."""
    n, method = units.shape[0], graph.method or "exact"
    if known_neighbors is not None:
        return NodeLists(known_neighbors, np.arange(n, dtype=np.int32), None, None)
    if method == "clusters" and units.dtype == np.float32:
        return _search_in_clusters(np.asarray(units), graph)
    neighbors = knn(units, min(graph.k, n), method=method, seed=graph.seed)
    recall_share = None
    if method in {"nn-descent", "clusters"}:
        recall_share = recall(neighbors, units)
    return NodeLists(neighbors, np.arange(n, dtype=np.int32), None, recall_share)


def _search_in_clusters(
    units: Float[np.ndarray, "n p"], graph: GraphConfig
) -> NodeLists:
    """Searches neighbours in clusters; nodes are numbered in the clusters' order."""
    n = len(units)
    k = min(graph.k, n)
    count = min(graph.clusters or default_cluster_count(n, k), n)
    clusters = cluster_vectors(lambda r: units[r], n, count=count, seed=graph.seed)
    order = clusters.order.astype(np.int32)
    vectors = units[order]
    drafts = [
        block.indices
        for block in search_clusters(vectors, clusters, k, probes=graph.neighbor_probes)
    ]
    blocks = list(refine_neighbors(vectors, clusters, np.concatenate(drafts)))
    neighbors = Neighbors(
        jnp.asarray(np.concatenate([block.indices for block in blocks])),
        jnp.asarray(np.concatenate([block.similarities for block in blocks])),
    )
    recall_share = recall(neighbors, jnp.asarray(vectors))
    return NodeLists(neighbors, order, clusters, recall_share)


def _build_graph(lists: NodeLists, graph: GraphConfig) -> tuple[Graph, NodeLists]:
    """Builds S, with its nodes in an order in which neighbours are close in memory."""
    edges = mutual_edges(lists.neighbors)
    raw = compress(affinity(edges, gamma=graph.gamma, bias=graph.bias))
    normalized = normalize(raw)
    if lists.clusters is not None:  # The clusters' order is one already.
        return normalized, lists
    reordered = reorder(normalized)
    order = np.asarray(reordered.order)
    neighbors = _reorder_lists(lists.neighbors, order)
    return reordered.graph, lists._replace(neighbors=neighbors, order=order)


def _solve_offline(
    graph: Graph, lists: NodeLists, units: Float[Array, "n p"], config: IndexConfig
) -> OfflineRows | None:
    """Solves for every node on `offline_neighbors` of its nearest nodes."""
    size = config.graph.offline_neighbors
    if size is None:
        return None
    size = min(size, units.shape[0])
    nearest = lists.neighbors.indices
    if size > nearest.shape[1]:
        method = config.resolve(units.shape[0]).graph.method or "exact"
        nearest = knn(
            units[lists.order], size, method=method, seed=config.graph.seed
        ).indices
    search = config.search
    return solve_offline_rows(
        graph,
        nearest[:, :size],
        alpha=search.alpha,
        rtol=search.rtol,
        max_steps=search.max_steps,
    )


def offline_settings(config: IndexConfig) -> dict[str, float]:
    """Search settings with which offline solutions are computed."""
    search = config.search
    return {
        "alpha": search.alpha,
        "rtol": search.rtol,
        "max_steps": search.max_steps,
    }


def encode_vectors(
    vectors: Float[np.ndarray, "n p"],
    inverse_order: Int[np.ndarray, " n"],
    graph: GraphConfig,
) -> dict[str, Any]:
    """Encodes the vectors that queries are compared with, in the type `storage`."""
    if graph.storage == "float32":
        return {"vectors": vectors}
    if graph.storage == "float16":
        return {"vectors": vectors.astype(np.float16)}
    quantizer, codebooks = train_codebooks(
        vectors, inverse_order, code_bytes=graph.code_bytes, seed=graph.seed
    )
    blocks = [
        quantizer.compute_codes(np.ascontiguousarray(block, np.float32))
        for block in np.array_split(vectors, -(-len(vectors) // CLUSTER_BLOCK_ROWS))
    ]
    return {"vectors": np.concatenate(blocks), "codebooks": codebooks}


def train_codebooks(
    vectors: Float[np.ndarray, "n p"],
    inverse_order: Int[np.ndarray, " n"],
    *,
    code_bytes: int,
    seed: int,
) -> tuple[Any, Float[np.ndarray, "b entries s"]]:
    """Trains a product quantiser: a codebook of 256 entries for each sub-space.

    Args:
        vectors: Vectors to encode, in memory or mapped, in the order of the nodes.
        inverse_order: Node of every region: the sample is drawn among regions, so that
            codes do not depend on the order of the nodes.
        code_bytes: Number of sub-spaces, of equal dimensions; a byte each.
        seed: Seed of the sample that is trained on.

    Returns:
        The quantiser of faiss, and its codebooks.

    References:
        Jegou, Douze and Schmid, Product quantization for nearest neighbor search, IEEE
        TPAMI 33(1), 2011. Cited without equation numbers, as it was not at hand; the
        codebooks are faiss's.
    """
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    n, dim = vectors.shape
    drawn = np.arange(n)
    if n > _CODEBOOK_SAMPLE:
        drawn = np.random.default_rng(seed).choice(n, _CODEBOOK_SAMPLE, replace=False)
    quantizer = faiss.ProductQuantizer(dim, code_bytes, _CODE_BITS)
    nodes = inverse_order[np.sort(drawn)]
    sample = np.ascontiguousarray(vectors[nodes], np.float32)
    quantizer.cp.seed = seed + 1  # Its own default is odd; 0 is allowed.
    entries = 1 << _CODE_BITS
    # With fewer vectors than entries, some vectors are used twice.
    sample = np.resize(sample, (max(len(sample), entries), dim))
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(sample)
    codebooks = faiss.vector_to_array(quantizer.centroids)
    return quantizer, codebooks.reshape(code_bytes, entries, dim // code_bytes)


def check_code_bytes(graph: GraphConfig, dim: int) -> None:
    """Refuses a number of code bytes that does not divide the dimensions.

    Raises:
        ValueError: If `code_bytes` does not divide them.
    """
    if graph.storage == "pq" and dim % graph.code_bytes:
        raise ValueError(
            f"code_bytes must divide the {dim} dimensions that are stored, got "
            f"{graph.code_bytes}."
        )


def fit_whitening(
    vectors: Float[np.ndarray, "n d"] | RunningCovariance, graph: GraphConfig
) -> Whitening | None:
    """Fits the whitening of the settings; returns None for vectors without variance.

    Args:
        vectors: Unit region vectors, or their covariance.
        graph: Settings with `dim`.
    """
    dim = graph.dim or 1
    count = vectors.count if isinstance(vectors, RunningCovariance) else len(vectors)
    # With as many dimensions as vectors, whitening makes all vectors orthogonal: with
    # 280 regions of 20 pictures mAP was 19 at 256 dimensions and 96 at 128.
    limit = max(count // _VECTORS_PER_DIMENSION, 1)
    try:
        if graph.whitening == "pca":
            whitening = fit_pca(vectors, dim=min(dim, limit))
        else:
            whitening = fit_pca_whitening(
                vectors, dim=min(dim, limit), shrinkage=graph.shrinkage
            )
    except ValueError as error:  # No variance: the rest is checked before.
        warnings.warn(f"vectors are not whitened: {error}", stacklevel=5)
        return None
    num_dimensions = whitening.projection.shape[1]
    if num_dimensions < dim:
        reason = (
            f"{count} vectors can tell apart: using {num_dimensions}, one for every "
            f"{_VECTORS_PER_DIMENSION} of them."
            if num_dimensions == limit
            else f"the {num_dimensions} dimensions that {count} vectors span: using "
            f"{num_dimensions}."
        )
        warnings.warn(f"dim {dim} is more than {reason}", stacklevel=5)
    return whitening


def starts_of_images(image_ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " starts"]:
    """Start of every image among the regions, and the number of regions."""
    return np.append(0, np.cumsum(np.bincount(image_ids))).astype(np.int32)


def invert_permutation(order: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Inverse of a permutation."""
    inverse = np.empty(len(order), np.int32)
    inverse[order] = np.arange(len(order), dtype=np.int32)
    return inverse


def warn_if_fewer_regions(name: str, k: int, n: int, *, stacklevel: int = 5) -> None:
    """Warns of a number of neighbours above the number of regions."""
    if k > n:
        warnings.warn(
            f"{name} {k} is more than the {n} regions of the collection: using {n}.",
            stacklevel=stacklevel,
        )
