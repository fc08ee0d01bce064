"""From vectors and settings to a number made of image scores, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, compress, edge_similarities, knn, normalize
from diffjax.pooling import gmp_weights, pool
from diffjax.types import Graph

LONG = {"rtol": 1e-13, "max_steps": 500}
NAMES = "alpha", "gamma", "lam", "queries", "vectors", "edges"

pytestmark = pytest.mark.usefixtures("x64")


class Chain:
    """The whole search as one function; the lists of neighbours stay as they are."""

    def __init__(self, collection, form):
        self.collection = collection
        padded = affinity(knn(collection.vectors, 5), gamma=1.0)
        self.raw = padded if form == "padded" else compress(padded)
        self.settings = {
            "alpha": jnp.asarray(0.9),
            "gamma": jnp.asarray(3.0),
            "lam": jnp.asarray(1.0),
            "queries": jnp.asarray(collection.queries),
            "vectors": jnp.asarray(collection.vectors),
            "edges": jnp.zeros_like(self.raw.weights),
        }

    def scores(self, *, alpha, gamma, lam, queries, vectors, edges):
        """Image scores; `edges` is what is added to the similarities of the edges."""
        ids, query_ids = self.collection.image_ids, self.collection.query_ids
        raw = edge_similarities(self.raw, vectors)
        raw = raw._replace(weights=raw.weights + edges)
        graph = normalize(affinity(raw, gamma=gamma))
        y = query_vectors(vectors, queries, query_ids, k=5, gamma=gamma)
        f = diffuse(graph, y, alpha=alpha, **LONG).value
        weights = gmp_weights(vectors, ids, lam=lam)
        return pool(f, ids, weights=weights)

    def total(self, changed):
        # A fixed, uneven sum, so that no term cancels another.
        scores = self.scores(**(self.settings | changed))
        return jnp.sum(scores * jnp.linspace(-1, 1, scores.size).reshape(scores.shape))


@pytest.fixture(params=["padded", "compressed"])
def chain(request, collection, x64) -> Chain:
    return Chain(collection, request.param)


def symmetric(chain):
    """A direction to change edges in, the same for both ways of each."""
    graph = chain.raw
    rows, columns = np.asarray(graph.rows).ravel(), np.asarray(graph.indices).ravel()
    both = np.minimum(rows, columns) * 1000 + np.maximum(rows, columns)
    spread = np.sin(both) * (columns >= 0)
    return jnp.asarray(spread.reshape(graph.weights.shape))


def test_every_derivative_of_the_whole_chain_matches_finite_differences(chain):
    # One program each for values, forward and backward, whatever is changed.
    value = jax.jit(chain.total)
    backward = jax.jit(jax.grad(chain.total))(chain.settings)
    forward = jax.jit(lambda to: jax.jvp(chain.total, (chain.settings,), (to,))[1])
    draw = np.random.default_rng(0)
    for name in NAMES:
        start, step = chain.settings[name], 1e-5
        to = symmetric(chain) if name == "edges" else draw.normal(size=start.shape)
        ends = (
            value(chain.settings | {name: start + sign * step * to}) for sign in (1, -1)
        )
        expected = (next(ends) - next(ends)) / (2 * step)
        nothing = jax.tree.map(jnp.zeros_like, chain.settings)
        slopes = {
            "forward": forward(nothing | {name: jnp.asarray(to)}),
            "backward": jnp.sum(backward[name] * to),
        }
        for mode, slope in slopes.items():
            np.testing.assert_allclose(
                slope, expected, rtol=1e-4, atol=1e-4, err_msg=f"{mode}, {name}"
            )


def test_a_gradient_points_uphill(chain):
    gradient = jax.grad(lambda a: chain.total({"alpha": a}))(jnp.asarray(0.9))
    up = chain.total({"alpha": 0.9 + 1e-4 * jnp.sign(gradient)})
    assert (
        up > chain.total({}) > chain.total({"alpha": 0.9 - 1e-4 * jnp.sign(gradient)})
    )


def test_nothing_of_size_n_times_n_is_made_on_the_way_back(collection):
    chain = Chain(collection, "compressed")
    n = len(collection.vectors)
    program = jax.make_jaxpr(jax.grad(lambda w: chain.total({"edges": w})))(
        chain.settings["edges"]
    )
    shapes = {v.aval.shape for e in every(program.jaxpr) for v in e.outvars}
    assert (n,) in shapes or (n, 5) in shapes
    assert (n, n) not in shapes


def every(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        is_leaf = {"is_leaf": lambda leaf: hasattr(leaf, "eqns")}
        for value in jax.tree.leaves(equation.params, **is_leaf):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every(inner)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1 - 1e-6])
def test_gradients_are_finite_at_isolated_nodes_and_similarities_of_zero(alpha, gamma):
    # 0 and 1 share an edge of similarity 0, 2 and 3 one of 0.5, 4 is alone.
    indices = jnp.array([[1], [0], [3], [2], [-1]], jnp.int32)
    similarities = jnp.array([[0.0], [0.0], [0.5], [0.5], [0.0]])
    y = jnp.array([[1.0], [0.0], [0.0], [0.0], [0.5]])

    def total(similarities, alpha, gamma, y):
        raw = Graph(indices, similarities)
        graph = normalize(affinity(raw, gamma=gamma))
        return (diffuse(graph, y, alpha=alpha, max_steps=50).value ** 2).sum()

    arguments = similarities, jnp.asarray(alpha), jnp.asarray(gamma), y
    for gradient in jax.grad(total, (0, 1, 2, 3))(*arguments):
        assert jnp.isfinite(gradient).all()
    # Where there is no edge the convention is 0.
    to_edges = jax.grad(total)(*arguments)
    np.testing.assert_array_equal(to_edges[jnp.array([0, 1, 4])], 0)


def test_single_precision_ranks_like_double(collection):
    chain = Chain(collection, "compressed")
    double = chain.scores(**chain.settings)
    single = Chain(
        collection._replace(
            vectors=collection.vectors.astype("f4"),
            queries=collection.queries.astype("f4"),
        ),
        "compressed",
    )
    scores = single.scores(**single.settings)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, double, rtol=1e-4)
