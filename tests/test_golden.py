"""Golden values: agreement with the released code of the paper's authors.

`golden/official_tiny.npz` holds inputs and results of the release: generated region
vectors of 60 images and 9 queries of 3 regions, and every quantity on the way to ranks,
in float64 throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import diffuse, query_vectors
from diffjax.evaluation import average_precision, evaluate
from diffjax.graph import affinity, compress, knn, normalize, shortlist, truncate
from diffjax.index import PRESETS, Index
from diffjax.pooling import gmp_weights, pool
from diffjax.ranking import fill_outside_with_zeros, nearest_neighbors, rank

TOLERANCE = 1e-9

pytestmark = pytest.mark.usefixtures("x64")


class Golden:
    """Inputs and outputs of the release, and the truth in the form evaluation takes."""

    def __init__(self, arrays):
        self.arrays = dict(arrays)
        self.positives = self._per_query("positives")
        self.junk = self._per_query("junk")

    def __getitem__(self, name):
        return self.arrays[name]

    def _per_query(self, name):
        ends = np.cumsum(self[f"{name}_per_query"])
        return np.split(self[name], ends[:-1])


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data / "golden" / "official_tiny.npz") as arrays:
        return Golden(arrays)


@pytest.fixture
def vectors(golden):
    return jnp.asarray(golden["vectors"], jnp.float64)


@pytest.fixture
def queries(golden):
    return jnp.asarray(golden["queries"], jnp.float64)


@pytest.fixture
def neighbors(golden, vectors):
    return knn(vectors, int(golden["k"]))


@pytest.fixture(params=["padded", "compressed"])
def graph(request, neighbors):
    padded = affinity(neighbors)
    return padded if request.param == "padded" else compress(padded)


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_neighbours(golden, neighbors):
    np.testing.assert_array_equal(neighbors.indices, golden["neighbors"])
    assert_close(neighbors.similarities, golden["similarities"])


def test_affinity(golden, graph):
    expected = np.zeros((graph.num_nodes,) * 2)
    expected[golden["affinity_row"], golden["affinity_col"]] = golden["affinity_value"]
    got = graph.to_scipy().toarray()
    np.testing.assert_array_equal(got != 0, expected != 0)
    assert_close(got, expected)


def test_query_vectors(golden, vectors, queries):
    k = int(golden["k_query"])
    y = query_vectors(vectors, queries, golden["query_ids"], k=k, rule="official")
    np.testing.assert_array_equal(y != 0, golden["y"] != 0)
    assert_close(y, golden["y"])
    # A negative control: the paper's own rule is another one.
    paper = query_vectors(vectors, queries, golden["query_ids"], k=k, rule="paper")
    assert np.abs(paper - golden["y"]).max() > 0.01


@pytest.mark.parametrize(
    ("solver", "graph"),
    [
        ("cg", "padded"),
        ("cg", "compressed"),
        ("cg-bcoo", "compressed"),
        ("unnormalized-jacobi", "padded"),
        pytest.param("cg-bcoo", "padded", marks=pytest.mark.full),
        pytest.param("unnormalized-jacobi", "compressed", marks=pytest.mark.full),
    ],
    indirect=["graph"],
)
def test_twenty_steps_of_diffusion(golden, graph, solver):
    solution = diffuse(normalize(graph), jnp.asarray(golden["y"]), solver=solver)
    assert_close(solution.value, golden["f"])
    assert (solution.residual < 0.05).all()
    if solver != "cg-bcoo":
        np.testing.assert_array_equal(solution.num_steps, 20)


def test_pooling(golden, vectors):
    ids, f = golden["image_ids"], jnp.asarray(golden["f"])
    weights = gmp_weights(vectors, ids)
    assert_close(weights, golden["gmp_weights"])
    assert_close(pool(f, ids, weights=weights), golden["image_scores"])
    assert_close(pool(f, ids), golden["image_scores_sum"])


def test_ranks_and_precision(golden):
    ranking = rank(jnp.asarray(golden["image_scores"]))
    np.testing.assert_array_equal(ranking, golden["ranks"])
    report = evaluate(ranking, golden)
    assert_close(report.average_precision, golden["average_precision"])
    assert_close(report.mean_average_precision, golden["average_precision"].mean())


def test_truncated_ranks_and_precision(golden, vectors, queries, neighbors):
    size, k, ids = int(golden["shortlist"]), int(golden["k_query"]), golden["image_ids"]
    first, asked = (
        jnp.asarray(golden[f"global_{name}"], jnp.float64)
        for name in ("vectors", "queries")
    )
    similarity = first @ asked.T
    lists = shortlist(similarity, ids, size=size)
    y = query_vectors(
        vectors, queries, golden["query_ids"], k=k, rule="official", nodes=lists.nodes
    )
    a, weights = compress(affinity(neighbors)), gmp_weights(vectors, ids)

    def scores(nodes, column):
        part = normalize(truncate(a, nodes, max_degree=int(golden["k"])))
        f = diffuse(part, column[:, None], keep_best=True).value[:, 0]
        return (f * weights[nodes]).reshape(size, -1).sum(1)

    listed = jax.vmap(scores, in_axes=(0, 1), out_axes=1)(lists.nodes, y)
    got = fill_outside_with_zeros(listed, lists.images, similarity)
    assert_close(got, golden["image_scores_truncated"])
    np.testing.assert_array_equal(rank(got), golden["ranks_truncated"])
    report = evaluate(rank(got), golden)
    assert_close(report.average_precision, golden["average_precision_truncated"])


def test_the_official_preset_ranks_like_the_release(golden, vectors, queries):
    sizes = {"k": int(golden["k"]), "query_k": int(golden["k_query"])}
    config = PRESETS["official"].replace(**sizes)
    index = Index.build(vectors, golden["image_ids"], config=config)
    m = index.num_images
    got = index.search(queries, golden["query_ids"], top=m)
    np.testing.assert_array_equal(got.images.T, golden["ranks"])
    best = np.take_along_axis(golden["image_scores"], golden["ranks"], axis=0)
    # The index scales vectors to length one, which these are in single precision.
    np.testing.assert_allclose(got.scores.T, best, rtol=1e-6)


def test_global_nearest_neighbours(golden):
    # One vector an image, so that the descriptor is that vector, scaled to unit length.
    names = "global_vectors", "global_queries"
    vectors, queries = (jnp.asarray(golden[name], jnp.float64) for name in names)
    ids = np.arange(len(vectors)), np.arange(len(queries))
    ranking = np.asarray(rank(nearest_neighbors(vectors, ids[0], queries, ids[1])))
    cases = zip(ranking.T, golden.positives, golden.junk, strict=True)
    got = [average_precision(*case) for case in cases]
    assert_close(got, golden["average_precision_global_knn"])


def test_from_vectors_to_ranks(golden, vectors, queries, graph):
    k = int(golden["k_query"])
    y = query_vectors(vectors, queries, golden["query_ids"], k=k, rule="official")
    f = diffuse(normalize(graph), y).value
    ids = golden["image_ids"]
    scores = pool(f, ids, weights=gmp_weights(vectors, ids))
    assert_close(scores, golden["image_scores"])
    np.testing.assert_array_equal(rank(scores), golden["ranks"])
