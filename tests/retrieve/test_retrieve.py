"""Steps of a retrieval against the paper's formulas, dense in NumPy and float64.

In single precision, where programs are those of other tests; in double under `full`.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from small_collection import draw_collection
from small_index import CONFIG

from diffjax.diffusion import LocalSolution, query_vectors, solve_offline_rows
from diffjax.graph import (
    Clusters,
    affinity,
    compress,
    find_components,
    knn,
    normalize,
)
from diffjax.pooling import gmp_weights
from diffjax.regions import global_descriptors
from diffjax.retrieve import (
    Collection,
    candidates,
    pool_images,
    rank_images,
    retrieve,
    shortlist_nodes,
    solve,
)
from diffjax.retrieve import _retrieve as steps
from diffjax.types import Graph, Solution, row_starts

K, GAMMA, LAM, QUERIES, IMAGES = 12, 2.5, 0.7, 5, 24
# Settings and shapes of the tests of the index, whose programs serve here as well.
SETTINGS = dataclasses.replace(CONFIG.search, probes=0, local_nodes=0)
ROWS, COLUMNS = 16, 8
TOLERANCE = {"float32": 2e-4, "float64": 1e-8}


@pytest.fixture(
    scope="module", params=["float32", pytest.param("float64", marks=pytest.mark.full)]
)
def precision(request):
    return request.param


@pytest.fixture(autouse=True)
def _jax_precision(precision):
    with jax.enable_x64(precision == "float64"):
        yield


@pytest.fixture(scope="module")
def search(precision):
    """Settings of a search that solves to the precision."""
    if precision == "float32":
        return SETTINGS
    return dataclasses.replace(SETTINGS, rtol=1e-13, max_steps=500)


@pytest.fixture(scope="module")
def close(precision):
    """Compares arrays to the precision, relative to the largest number."""

    def check(result, expected):
        scale = np.abs(np.asarray(expected)).max(initial=0)
        tolerance = TOLERANCE[precision]
        np.testing.assert_allclose(
            result, expected, rtol=tolerance, atol=tolerance * scale
        )

    return check


@pytest.fixture(scope="module")
def data():
    return draw_collection()


@pytest.fixture(scope="module")
def asked(data, precision):
    """Regions and ids of the queries, filled up with rows of zeros."""
    padding = ROWS - len(data.queries)
    regions = np.pad(data.queries, ((0, padding), (0, 0))).astype(precision)
    ids = np.pad(data.query_ids, (0, padding), constant_values=QUERIES - 1)
    with jax.enable_x64(precision == "float64"):
        return jnp.asarray(regions), ids.astype(np.int32)


@pytest.fixture(scope="module")
def orders(data):
    """Orders in which the nodes are stored, by name."""
    n = len(data.image_ids)
    shuffled = np.random.default_rng(1).permutation(n).astype(np.int32)
    return {"own": np.arange(n, dtype=np.int32), "shuffled": shuffled}


def permute(graph, order):
    """The graph with its nodes in another order."""
    matrix = graph.to_scipy().tocsr()[order][:, order].tocsr()
    matrix.sort_indices()
    return Graph(
        jnp.asarray(matrix.indices, jnp.int32),
        jnp.asarray(matrix.data),
        row_starts(matrix.indptr),
        jnp.asarray(np.asarray(graph.degrees)[order]),
    )


@pytest.fixture(scope="module")
def collections(data, orders, precision):
    """The collection as a search reads it, in every order and pooling."""
    with jax.enable_x64(precision == "float64"):
        vectors = jnp.asarray(data.vectors.astype(precision))
        ids = jnp.asarray(data.image_ids, jnp.int32)
        graph = normalize(compress(affinity(knn(vectors, K), gamma=GAMMA)))
        gmp = gmp_weights(vectors, data.image_ids, lam=LAM)
        descriptors = global_descriptors(vectors, ids)
        by_order_and_pooling = {}
        for name, order in orders.items():
            is_own = name == "own"
            placed = graph if is_own else permute(graph, order)
            inverse = np.argsort(order).astype(np.int32)
            rows = np.asarray(vectors)[order]
            for pooling in "gmp", "sum":
                by_order_and_pooling[name, pooling] = Collection(
                    vectors=jnp.asarray(rows),
                    graph=placed,
                    image_ids=ids,
                    num_images=IMAGES,
                    weights=gmp[order] if pooling == "gmp" else None,
                    order=None if is_own else order,
                    inverse_order=None if is_own else jnp.asarray(inverse),
                    image_starts=np.append(0, np.cumsum(np.bincount(ids))),
                    read_vectors=lambda start, stop, rows=rows: rows[start:stop],
                    components=find_components(
                        *(np.asarray(placed.indices), np.asarray(placed.starts)),
                        np.asarray(placed.degrees),
                    ),
                    max_degree=int(np.diff(np.asarray(placed.starts)).max()),
                    descriptors=descriptors,
                )
    return by_order_and_pooling


@pytest.fixture(scope="module")
def shuffled(collections):
    return collections["shuffled", "gmp"]


def ask(collection, asked, config, *, top=IMAGES):
    """Retrieves; results are of the five queries, without the columns of padding."""
    result = retrieve(
        *(collection, *asked),
        config=config,
        gamma=GAMMA,
        bias=0.0,
        num_queries=COLUMNS,
        top=top,
    )
    rows = (np.asarray(array)[:QUERIES] for array in (result[0], result[1], result[3]))
    images, scores, regions = rows
    return result._replace(images=images, scores=scores, regions=regions)


def make_seeds(collection, asked, config, **settings):
    settings = {"gamma": GAMMA, "num_queries": COLUMNS} | settings
    return candidates(*(collection, *asked), config=config, **settings)


def check_ranking(result, scores, close):
    """Checks images and scores against the exact scores [m, q] of all images."""
    close(result.scores, -np.sort(-scores.T, axis=1)[:, : result.scores.shape[1]])
    close(np.take_along_axis(scores.T, result.images, axis=1), result.scores)
    images = np.sort(np.asarray(result.images), axis=1)
    assert (np.diff(images) > 0).all()


def dense_y(data, config, *, nodes=None, query=None):
    """Right-hand sides [n, q], or of one query on some nodes."""
    asked = range(QUERIES) if query is None else [query]
    vectors = data.vectors if nodes is None else data.vectors[nodes]
    columns = [
        oracle.query_vector(
            vectors,
            data.queries[data.query_ids == one],
            min(config.query_k, len(vectors)),
            GAMMA,
            config.rule,
        )
        for one in asked
    ]
    return np.stack(columns, axis=1)


def dense_weights(data, pooling):
    if pooling == "sum":
        return np.ones(len(data.vectors))
    return oracle.gmp_weights(data.vectors, data.image_ids, LAM)


@pytest.mark.parametrize(
    ("order", "pooling", "rule"),
    [("own", "sum", "paper"), ("shuffled", "gmp", "paper"), ("own", "gmp", "official")],
)
def test_every_step_agrees_with_its_formula(
    data, asked, orders, collections, search, close, order, pooling, rule
):
    config = dataclasses.replace(search, rule=rule)
    collection, nodes = collections[order, pooling], orders[order]
    y = dense_y(data, config)
    seeds = make_seeds(collection, asked, config)
    assert seeds.nodes is None
    close(seeds.values[:, :QUERIES], y[nodes])
    assert (np.asarray(seeds.values)[:, QUERIES:] == 0).all()
    s = oracle.normalized(oracle.affinity(data.vectors, K, GAMMA))
    f = oracle.diffusion(s, y, config.alpha)
    solution = solve(collection, seeds, config=config)
    assert isinstance(solution, Solution)
    close(solution.value[:, :QUERIES], f[nodes])
    assert solution.converged.all()
    weights = dense_weights(data, pooling)
    scores = oracle.pooled(f, data.image_ids, weights)
    pooled: Any = pool_images(collection, solution, config=config)
    close(pooled[:, :QUERIES], scores)
    added = weights[:, None] * f
    ranked = rank_images(collection, pooled, solution, top=IMAGES)
    result = ask(collection, asked, config)
    check_ranking(result, scores, close)
    np.testing.assert_array_equal(ranked.images[:QUERIES], result.images)
    np.testing.assert_array_equal(ranked.scores[:QUERIES], result.scores)
    # Nodes of the solution are numbered as regions are.
    close(result.solution.value[:, :QUERIES], f)
    for query, slot in np.ndindex(result.images.shape):
        (regions,) = np.nonzero(data.image_ids == result.images[query, slot])
        best_region = regions[added[regions, query].argmax()]
        expected = best_region if added[best_region, query] > 0 else -1
        assert result.regions[query, slot] == expected


def test_fewer_answers_are_the_first_ones(asked, shuffled, search):
    every, few = (ask(shuffled, asked, search, top=top) for top in (IMAGES, 3))
    np.testing.assert_array_equal(few.images, every.images[:, :3])
    np.testing.assert_array_equal(few.regions, every.regions[:, :3])


def test_equal_scores_are_ranked_by_the_lower_image(asked, shuffled, search, precision):
    solution = solve(shuffled, make_seeds(shuffled, asked, search), config=search)
    column = np.tile([1.0, 3.0, 3.0, 2.0], IMAGES // 4).astype(precision)
    scores = jnp.asarray(np.tile(column[:, None], (1, COLUMNS)))
    ranked = rank_images(shuffled, scores, solution, top=IMAGES)
    np.testing.assert_array_equal(ranked.images[2], np.argsort(-column, kind="stable"))


def test_negative_biases_do_not_reach_padding(data, asked, shuffled, search, close):
    # Similarities of rows of zeros, which are 0, are above this bias.
    regions, ids = asked
    plain = query_vectors(
        *(shuffled.vectors, regions[: len(data.queries)], data.query_ids),
        k=search.query_k,
        gamma=GAMMA,
        bias=-0.2,
    )
    for collection in shuffled, shuffled._replace(vectors=None):
        seeds = make_seeds(collection, (regions, ids), search, bias=-0.2)
        y = seeds.values if seeds.nodes is None else densified(seeds, len(plain))
        close(y[:, :QUERIES], plain)
        assert (np.asarray(y)[:, QUERIES:] == 0).all()


def densified(seeds, n):
    """Right-hand sides [n, q] of sparse seeds."""
    y = np.zeros((n, len(seeds.nodes)))
    for query, nodes in enumerate(np.asarray(seeds.nodes)):
        is_node = nodes >= 0
        y[nodes[is_node], query] = np.asarray(seeds.values)[query, is_node]
    return y


def clustered(collection, data, *, count=7):
    """The collection with its nodes in clusters of consecutive nodes, as faiss has."""
    n = len(data.image_ids)
    starts = np.linspace(0, n, count + 1).astype(np.int64)
    rows = np.asarray(collection.vectors)
    blocks = itertools.pairwise(starts)
    centroids = np.stack([rows[start:stop].mean(axis=0) for start, stop in blocks])
    clusters = Clusters(centroids, starts, collection.order)
    return collection._replace(vectors=None, clusters=clusters)


@pytest.mark.parametrize(
    ("rule", "bias"), [("paper", -0.2), ("official", 0.0), ("official", 0.1)]
)
def test_all_clusters_give_the_candidates_of_all_vectors(
    data, asked, shuffled, search, close, rule, bias
):
    config = dataclasses.replace(search, rule=rule, query_gamma=2.0)
    exact = make_seeds(shuffled, asked, config, bias=bias)
    collection = clustered(shuffled, data)
    for probes in (7, 99, 0):
        probed = dataclasses.replace(config, probes=probes)
        one = collection if probes else collection._replace(clusters=None)
        sparse = make_seeds(one, asked, probed, bias=bias)
        close(densified(sparse, len(data.image_ids)), exact.values)


def test_few_probes_read_only_the_nearest_clusters(data, asked, shuffled, search):
    reads = []
    collection = clustered(shuffled, data)

    def read(start, stop):
        reads.append((start, stop))
        return shuffled.read_vectors(start, stop)

    candidates(
        *(collection._replace(read_vectors=read), asked[0][:1], None),
        config=dataclasses.replace(search, probes=2),
        gamma=GAMMA,
        num_queries=1,
    )
    toward = collection.clusters.centroids @ data.queries[0]
    nearest = sorted(np.argsort(-toward)[:2])
    starts = collection.clusters.starts
    assert reads == [(starts[c], starts[c + 1]) for c in nearest]


def dense_shortlist(data, config, query):
    """Images of a short list, their scores, and global similarities of all images."""
    vectors, ids = data.vectors, data.image_ids
    regions = data.queries[data.query_ids == query]
    sums = np.array([vectors[ids == image].sum(0) for image in range(IMAGES)])
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    similarity = sums @ regions.sum(0) / np.linalg.norm(regions.sum(0))
    images = np.argsort(-similarity, kind="stable")[: config.shortlist]
    nodes = np.concatenate([np.flatnonzero(ids == image) for image in images])
    cut = np.ix_(nodes, nodes)
    a = oracle.affinity(vectors, K, GAMMA)
    before = config.renormalize_shortlist
    s = oracle.normalized(a[cut]) if before else oracle.normalized(a)[cut]
    y = dense_y(data, config, nodes=nodes, query=query)[:, 0]
    f = oracle.diffusion(s, y, config.alpha)
    added = oracle.gmp_weights(vectors, ids, LAM)[nodes] * f
    scores = [added[ids[nodes] == image].sum() for image in images]
    return images, np.array(scores), similarity


@pytest.mark.parametrize(
    ("renormalize", "outside"),
    [
        *((True, "similarity"), (False, "zero")),
        pytest.param(True, "zero", marks=pytest.mark.full),
        pytest.param(False, "similarity", marks=pytest.mark.full),
    ],
)
def test_a_short_list_is_diffused_on_its_own_nodes(
    data, asked, shuffled, search, close, renormalize, outside, monkeypatch
):
    monkeypatch.setattr("diffjax.retrieve._candidates._BLOCK_NODES", 16)
    config = dataclasses.replace(
        search,
        shortlist=10,
        renormalize_shortlist=renormalize,
        outside_shortlist=outside,
    )
    # Vectors in memory, and read block by block.
    for collection in shuffled, shuffled._replace(vectors=None):
        result = ask(collection, asked, config)
        for query in range(QUERIES):
            images, scores, similarity = dense_shortlist(data, config, query)
            by_image = dict(zip(images.tolist(), scores, strict=True))
            listed = result.images[query, :10].tolist()
            assert sorted(listed) == sorted(images)
            close(result.scores[query, :10], -np.sort(-scores))
            close([by_image[image] for image in listed], result.scores[query, :10])
            is_listed = np.isin(data.image_ids, images)
            value = np.asarray(result.solution.value)[:, query]
            assert (value[~is_listed] == 0).all()
            assert (value[is_listed] != 0).any()
            assert (result.regions[query, 10:] == -1).all()
            others = np.setdiff1d(np.arange(IMAGES), images)
            if outside == "zero":
                assert (result.scores[query, 10:] == 0).all()
            else:
                others = others[np.argsort(-similarity[others], kind="stable")]
                assert (np.diff(result.scores[query]) <= 0).all()
            np.testing.assert_array_equal(result.images[query, 10:], others)


def test_a_short_list_of_all_images_changes_nothing(asked, shuffled, search):
    whole = ask(shuffled, asked, search)
    for size in (IMAGES, 99):
        config = dataclasses.replace(search, shortlist=size)
        nothing = shortlist_nodes(shuffled, asked[0], asked[1], config, COLUMNS)
        assert nothing is None
        limited = ask(shuffled, asked, config)
        np.testing.assert_array_equal(limited.scores, whole.scores)


def test_rows_solved_beforehand_are_combined(data, asked, shuffled, search, close):
    nodes = np.asarray(knn(shuffled.vectors, 20).indices)
    solving = {"alpha": 0.9, "rtol": search.rtol, "max_steps": search.max_steps}
    rows = solve_offline_rows(shuffled.graph, jnp.asarray(nodes), **solving)
    result = ask(shuffled._replace(offline_rows=rows), asked, search)
    # Each row is solved on its own nodes.
    order = shuffled.order
    s = oracle.normalized(oracle.affinity(data.vectors, K, GAMMA))[np.ix_(order, order)]
    solved = np.zeros_like(s)
    for node, listed in enumerate(nodes):
        unit = (listed == node).astype(np.float64)
        cut = s[np.ix_(listed, listed)]
        solved[node, listed] = oracle.diffusion(cut, unit, search.alpha)
    y = dense_y(data, search)[order]
    f = np.zeros_like(y)
    f[order] = solved.T @ y
    close(result.solution.value[:, :QUERIES], f)
    weights = dense_weights(data, "gmp")
    check_ranking(result, oracle.pooled(f, data.image_ids, weights), close)
    assert (result.solution.residual < 1e-3).all()
    np.testing.assert_array_equal(result.solution.num_steps, 0)
    # Also from the sparse candidates of clusters.
    sparse = clustered(shuffled._replace(offline_rows=rows), data)
    probed = ask(sparse, asked, dataclasses.replace(search, probes=7))
    close(probed.scores, result.scores)


@pytest.mark.parametrize("probes", [0, 7])
def test_a_local_solve_on_all_nodes_answers_like_a_whole_one(
    data, asked, shuffled, search, close, probes
):
    n = len(data.image_ids)
    whole = ask(shuffled, asked, search)
    collection = clustered(shuffled, data) if probes else shuffled
    config = dataclasses.replace(search, local_nodes=999, probes=probes)
    local = ask(collection, asked, config)
    assert isinstance(local.solution, LocalSolution)
    counts = (np.asarray(local.solution.nodes) >= 0).sum(axis=1)[:QUERIES]
    assert (counts == n).sum() >= 2
    assert counts.min() >= n - 1
    values = np.asarray(whole.solution.value)
    for query in np.flatnonzero(counts == n):
        close(local.scores[query], whole.scores[query])
        np.testing.assert_array_equal(local.regions[query], whole.regions[query])
        # Nodes are numbered as regions are.
        nodes = np.asarray(local.solution.nodes[query])
        close(np.asarray(local.solution.values[query])[:n], values[nodes[:n], query])


def test_regions_that_a_local_solve_does_not_reach_have_the_background(
    data, asked, shuffled, search, close
):
    config = dataclasses.replace(search, local_nodes=60)
    seeds = make_seeds(shuffled, asked, config)
    solution = solve(shuffled, seeds, config=config)
    assert isinstance(solution, LocalSolution)
    # As the scores of all nodes, the background of the components included, pooled.
    root = np.sqrt(np.asarray(shuffled.graph.degrees))
    values = np.asarray(solution.background)[None] * root[:, None]
    for query, nodes in enumerate(np.asarray(solution.nodes)):
        is_node = nodes >= 0
        values[nodes[is_node], query] = np.asarray(solution.values)[query, is_node]
    nodes = np.asarray(shuffled.inverse_order)
    weights = np.asarray(shuffled.weights)[nodes]
    expected = oracle.pooled(values[nodes], data.image_ids, weights)
    reached: Any = pool_images(shuffled, solution, config=config)
    for query in range(QUERIES):
        close(reached[query].scores, expected[reached[query].images, query])
        others = np.setdiff1d(np.arange(IMAGES), reached[query].images)
        np.testing.assert_allclose(expected[others, query], 0, atol=1e-6)
    # A query without regions reaches nothing.
    assert all(len(one.images) == 0 for one in reached[QUERIES:])


def test_components_too_large_to_pool_leave_the_images_of_the_nodes(
    data, asked, shuffled, search, monkeypatch
):
    monkeypatch.setattr(steps, "_MAX_COMPONENT_NODES", 3)
    config = dataclasses.replace(search, local_nodes=60, query_k=9)
    result = ask(shuffled, asked, config)
    for query in range(QUERIES):
        nodes = np.asarray(result.solution.nodes[query])
        seen = set(data.image_ids[nodes[nodes >= 0]].tolist())
        images = result.images[query]
        assert set(images[images >= 0].tolist()) == seen
        assert (images[len(seen) :] == -1).all()
        assert (result.scores[query, len(seen) :] == 0).all()


def test_many_right_hand_sides_are_solved_some_at_a_time(
    data, asked, shuffled, search, close, monkeypatch
):
    whole = ask(shuffled, asked, search)
    monkeypatch.setattr(steps, "_NUMBERS_AT_ONCE", 4 * len(data.image_ids))
    parts = ask(shuffled, asked, search)
    close(parts.solution.value, whole.solution.value)
    assert parts.solution.residual.shape == (COLUMNS,)


@pytest.mark.full
def test_scores_have_derivatives_by_alpha_and_gamma(asked, shuffled, search, precision):
    if precision == "float32":
        pytest.skip("differences of single precision say little")

    def score(alpha, gamma):
        seeds = make_seeds(shuffled, asked, search, gamma=gamma)
        solution = solve(shuffled, seeds, config=search, alpha=alpha)
        scores: Any = pool_images(shuffled, solution, config=search)
        return scores[3, 1]

    at = jnp.asarray(0.9), jnp.asarray(GAMMA)
    step = 1e-5
    slopes = jax.jit(jax.grad(score, argnums=(0, 1)))(*at)
    for number, slope in enumerate(slopes):
        ends = [
            score(*(x + sign * step * (i == number) for i, x in enumerate(at)))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_error_names_the_array_that_a_search_lacks(asked, shuffled, search):
    short = dataclasses.replace(search, shortlist=5)
    with pytest.raises(ValueError, match="image_starts are needed for a short list"):
        ask(shuffled._replace(descriptors=None), asked, short)
    local = dataclasses.replace(search, local_nodes=60)
    with pytest.raises(ValueError, match="components of the graph are needed"):
        ask(shuffled._replace(components=None), asked, local)


def test_a_given_alpha_replaces_that_of_the_settings(asked, shuffled, search):
    for local_nodes in (0, 60):
        config = dataclasses.replace(search, local_nodes=local_nodes)
        seeds = make_seeds(shuffled, asked, config)
        given: Any = solve(shuffled, seeds, config=config, alpha=0.5)
        lower = dataclasses.replace(config, alpha=0.5)
        expected: Any = solve(shuffled, seeds, config=lower)
        other: Any = solve(shuffled, seeds, config=config)
        for solution, same in ((expected, True), (other, False)):
            pairs = zip(jax.tree.leaves(given), jax.tree.leaves(solution), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == same


def test_combinations_that_would_ignore_an_argument_are_refused(
    asked, shuffled, search
):
    seeds = make_seeds(shuffled, asked, search)
    nodes = knn(shuffled.vectors, 20).indices
    rows = solve_offline_rows(shuffled.graph, nodes, alpha=0.9)
    offline = shuffled._replace(offline_rows=rows)
    with pytest.raises(ValueError, match="alpha must be None with offline rows"):
        solve(offline, seeds, config=search, alpha=0.5)
    mesh = jax.make_mesh((1,), ("rows",))
    local = dataclasses.replace(search, local_nodes=60)
    for collection, config in ((offline, search), (shuffled, local)):
        with pytest.raises(ValueError, match="mesh must be None for a short list"):
            solve(collection, seeds, config=config, mesh=mesh)
