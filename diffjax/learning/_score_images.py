"""Image scores as a differentiable function of parameters: the search under jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax._arguments import check_ids, count_ids, is_concrete, max_rows_per_id
from diffjax.graph import affinity, normalize
from diffjax.pooling import gmp_weights
from diffjax.retrieve import (
    Collection,
    SearchConfig,
    Seeds,
    candidates,
    pool_images,
    solve,
)
from diffjax.types import Graph

from ._parameters import Parameters, check_parameters
from ._training_graphs import (
    DescriptorView,
    QueryDescriptors,
    TrainingGraphs,
    edges_with_similarities,
    project_vectors,
)


def score_images(
    parameters: Parameters,
    training_graphs: TrainingGraphs,
    queries: QueryDescriptors,
    *,
    query_k: int = 50,
    max_steps: int = 50,
    rtol: float = 1e-6,
    num_images: int | None = None,
    num_queries: int | None = None,
    max_regions: int | None = None,
) -> Float[Array, "m q"]:
    r"""Scores all images for some queries; differentiable in every parameter.

    Vectors x become P x / |P x|; A = sum_g m_g A_g over the graphs, A_g having edges
    max(x_i'x_j - b, 0)^gamma, and y = sum_g m_g y_g likewise, by `query_vectors`; S is
    the normalised A and f = (I - alpha S)^-1 y. The score of an image is the sum over
    its regions of w_i c_i f_i, w being the weights of generalised max pooling and c
    those of the regions' scales. Several graphs share one Gram matrix there, sum_g m_g
    Phi_g Phi_g'. Without optional parameters this is the plain search.

    Args:
        parameters: Parameters, with respect to which scores are differentiable.
        training_graphs: The collection with its graphs.
        queries: Regions of the queries; a row whose id is `num_queries` or above is
            padding.
        query_k: Neighbours per query region, and entries kept per query and graph, 1 to
            n. A Python number.
        max_steps: Most iterations of the solver. A Python number.
        rtol: Relative residual at which a query is solved. A Python number.
        num_images: Number of images m; needed under jit.
        num_queries: Number of queries q; needed under jit.
        max_regions: Most regions of any image; needed under jit.

    Returns:
        Image scores, one column per query.

    Raises:
        ValueError: If a parameter is outside its range or does not fit the graphs, the
            queries have not one description per graph, `query_k` is outside 1..n, ids
            are invalid, or a count is missing under jit.

    References:
        Iscen et al., CVPR 2017, eq. 1 to 14, https://arxiv.org/abs/1611.05113, for the
        chain at the paper's parameters. The optional parameters are ours.
    """
    check_parameters(parameters)
    if parameters.shrinkage is not None:
        raise ValueError(
            "shrinkage must be replaced by a projection first: see "
            "replace_shrinkage_by_projection."
        )
    _check_compatible(parameters, training_graphs, queries)
    n = training_graphs.views[0].vectors.shape[0]
    if not 1 <= query_k <= n:
        raise ValueError(f"query_k must be in 1..{n} (n), got {query_k}.")
    image_ids = training_graphs.image_ids
    image_count = count_ids(
        "image_ids", image_ids, count=num_images, count_name="num_images"
    )
    region_count = max_rows_per_id(
        "image_ids", image_ids, limit=max_regions, limit_name="max_regions"
    )
    return _score_images(
        parameters,
        training_graphs,
        queries,
        query_k=query_k,
        solver_limits=(max_steps, rtol),
        num_images=image_count,
        num_queries=_count_queries(queries, num_queries),
        max_regions=region_count,
    )


@functools.partial(
    jax.jit,
    static_argnames=(
        "query_k",
        "solver_limits",
        "num_images",
        "num_queries",
        "max_regions",
    ),
)
def _score_images(
    parameters,
    training_graphs,
    queries,
    *,
    query_k,
    solver_limits,
    num_images,
    num_queries,
    max_regions,
):
    gamma, bias = parameters.gamma, parameters.bias
    bias = 0.0 if bias is None else bias
    exponent = gamma if parameters.query_gamma is None else parameters.query_gamma
    vectors = [
        project_vectors(v.vectors, parameters.projection) for v in training_graphs.views
    ]
    mixture = _graph_weights(parameters, vectors)
    graphs = [
        affinity(_edge_similarities(view, moved, parameters), gamma=gamma, bias=bias)
        for view, moved in zip(training_graphs.views, vectors, strict=True)
    ]
    weights = gmp_weights(
        _concatenate_scaled(vectors, mixture),
        training_graphs.image_ids,
        lam=parameters.lam,
        num_images=num_images,
        max_regions=max_regions,
    )
    if parameters.scale_weights is not None:
        scale_factors = parameters.scale_weights[training_graphs.scales]
        weights *= scale_factors.astype(weights.dtype)
    collection = Collection(
        vectors=vectors[0],
        graph=normalize(_mix_affinities(training_graphs, graphs, mixture)),
        image_ids=training_graphs.image_ids,
        num_images=num_images,
        weights=weights,
    )
    max_steps, rtol = solver_limits
    config = SearchConfig(query_k=query_k, max_steps=max_steps, rtol=rtol)
    y = jnp.zeros((vectors[0].shape[0], num_queries), vectors[0].dtype)
    for weight, moved, regions in zip(mixture, vectors, queries.vectors, strict=True):
        seeds = candidates(
            collection._replace(vectors=moved),
            project_vectors(regions, parameters.projection),
            queries.query_ids,
            config=config,
            gamma=exponent,
            bias=bias,
            num_queries=num_queries,
        )
        y += weight * seeds.values
    solution = solve(collection, Seeds(y), config=config, alpha=parameters.alpha)
    return pool_images(collection, solution, config=config)


def _edge_similarities(
    view: DescriptorView, moved: Array, parameters: Parameters
) -> Graph:
    """Similarities of the edges; the stored ones without a projection."""
    if parameters.projection is None:
        return view.edges
    return edges_with_similarities(view.edges, moved)


def _graph_weights(parameters: Parameters, vectors: list[Array]) -> list[Array]:
    """Weights of the graphs, equal without `mixture`."""
    count, dtype = len(vectors), vectors[0].dtype
    weights = parameters.mixture
    if weights is None:
        weights = jnp.full(count, 1 / count, dtype)
    return list(weights.astype(dtype))


def _mix_affinities(
    training_graphs: TrainingGraphs, graphs: list[Graph], mixture: list[Array]
) -> Graph:
    """Weighted sum of the affinities of several graphs, on the union of their edges."""
    if training_graphs.union_positions is None:
        return graphs[0]
    total = jnp.zeros_like(training_graphs.edges.weights)
    for union_positions, graph, weight in zip(
        training_graphs.union_positions, graphs, mixture, strict=True
    ):
        total = total.at[union_positions].add(weight * graph.weights)
    return training_graphs.edges._replace(weights=total)


def _concatenate_scaled(vectors: list[Array], mixture: list[Array]) -> Array:
    """Concatenated vectors whose inner products are the mixture of all graphs'."""
    if len(vectors) == 1:
        return vectors[0]
    scaled = [jnp.sqrt(m) * v for m, v in zip(mixture, vectors, strict=True)]
    return jnp.concatenate(scaled, axis=1)


def _count_queries(queries: QueryDescriptors, count: int | None) -> int:
    """Number of queries; rows with a larger id are padding and may be anywhere."""
    ids = queries.query_ids
    if not is_concrete(ids):
        return count_ids("query_ids", ids, count=count, count_name="num_queries")
    host = np.asarray(ids)
    if count is not None:
        host = host[host < count]
    check_ids("query_ids", host, rows=host.shape[0])
    return count_ids("query_ids", host, count=count, count_name="num_queries")


def _check_compatible(
    parameters: Parameters, training_graphs: TrainingGraphs, queries: QueryDescriptors
) -> None:
    graphs = len(training_graphs.views)
    if len(queries.vectors) != graphs:
        raise ValueError(
            f"queries must have one description per graph, {graphs}, got "
            f"{len(queries.vectors)}."
        )
    for query_vectors, view in zip(queries.vectors, training_graphs.views, strict=True):
        if query_vectors.shape[1] != view.vectors.shape[1]:
            raise ValueError(
                f"queries must have the collection's {view.vectors.shape[1]} "
                f"dimensions, got {query_vectors.shape[1]}."
            )
        projection = parameters.projection
        if projection is not None and projection.shape[1] != query_vectors.shape[1]:
            raise ValueError(
                f"projection must take {query_vectors.shape[1]} dimensions, got one of "
                f"{projection.shape[1]}."
            )
    mixture, weights = parameters.mixture, parameters.scale_weights
    if mixture is not None and mixture.shape[0] != graphs:
        raise ValueError(
            f"mixture must have one weight per graph, {graphs}, got {mixture.shape[0]}."
        )
    if weights is None:
        return
    if training_graphs.scales is None:
        raise ValueError(
            "scale_weights must be None for a collection without scales, got "
            f"{weights.shape[0]}."
        )
    if is_concrete(training_graphs.scales):
        needed = int(np.asarray(training_graphs.scales).max(initial=-1)) + 1
        if needed > weights.shape[0]:
            raise ValueError(
                f"scale_weights must have one weight per scale, {needed}, got "
                f"{weights.shape[0]}."
            )
