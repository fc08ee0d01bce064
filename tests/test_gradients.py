"""Gradients through the whole search, from image scores to vectors and settings."""

import functools
import itertools

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
    """The whole search as one function of its settings, with fixed neighbour lists."""

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
        """Image scores; `edges` is added to the similarities of the edges."""
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

    @functools.cached_property
    def value(self):
        return jax.jit(self.total)

    @functools.cached_property
    def gradient(self):
        return jax.jit(jax.grad(self.total))


# One chain of each form, so that tests share its compiled programs.
chains: dict[str, Chain] = {}


@pytest.fixture(params=["compressed", pytest.param("padded", marks=pytest.mark.full)])
def chain(request, collection, x64) -> Chain:
    if request.param not in chains:
        chains[request.param] = Chain(collection, request.param)
    return chains[request.param]


def symmetric(chain):
    """A direction of change of the edges, the same for both directions of an edge."""
    graph = chain.raw
    rows, columns = np.asarray(graph.rows).ravel(), np.asarray(graph.indices).ravel()
    edge_numbers = np.minimum(rows, columns) * 1000 + np.maximum(rows, columns)
    change = np.sin(edge_numbers) * (columns >= 0)
    return jnp.asarray(change.reshape(graph.weights.shape))


def test_every_derivative_of_the_whole_chain_matches_finite_differences(chain):
    # One program each for values, forward and backward mode, for all arguments.
    value, backward = chain.value, chain.gradient(chain.settings)
    forward = jax.jit(lambda to: jax.jvp(chain.total, (chain.settings,), (to,))[1])
    draw = np.random.default_rng(0)
    for name in NAMES:
        start, step = chain.settings[name], 1e-5
        to = symmetric(chain) if name == "edges" else draw.normal(size=start.shape)
        ends = (
            value(chain.settings | {name: start + sign * step * to}) for sign in (1, -1)
        )
        expected = (next(ends) - next(ends)) / (2 * step)
        zeros = jax.tree.map(jnp.zeros_like, chain.settings)
        slopes = {
            "forward": forward(zeros | {name: jnp.asarray(to)}),
            "backward": jnp.sum(backward[name] * to),
        }
        for mode, slope in slopes.items():
            np.testing.assert_allclose(
                slope, expected, rtol=1e-4, atol=1e-4, err_msg=f"{mode}, {name}"
            )


def test_a_gradient_points_uphill(chain):
    slope = chain.gradient(chain.settings)["alpha"]
    down, same, up = (
        chain.value(chain.settings | {"alpha": 0.9 + step * jnp.sign(slope)})
        for step in (-1e-4, 0.0, 1e-4)
    )
    assert up > same > down


def test_the_gradient_makes_no_array_of_size_n_times_n(collection):
    chain = Chain(collection, "compressed")
    n = len(collection.vectors)
    program = jax.make_jaxpr(jax.grad(lambda w: chain.total({"edges": w})))(
        chain.settings["edges"]
    )
    shapes = {v.aval.shape for e in equations(program.jaxpr) for v in e.outvars}
    assert (n,) in shapes or (n, 5) in shapes
    assert (n, n) not in shapes


def equations(jaxpr):
    """All equations of a program, including those of inner functions."""
    for equation in jaxpr.eqns:
        yield equation
        is_leaf = {"is_leaf": lambda leaf: hasattr(leaf, "eqns")}
        for value in jax.tree.leaves(equation.params, **is_leaf):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_gradients_are_finite_at_isolated_nodes_and_similarities_of_zero():
    # 0 and 1 share an edge of similarity 0, 2 and 3 one of 0.5, 4 is alone.
    indices = jnp.array([[1], [0], [3], [2], [-1]], jnp.int32)
    similarities = jnp.array([[0.0], [0.0], [0.5], [0.5], [0.0]])
    y = jnp.array([[1.0], [0.0], [0.0], [0.0], [0.5]])

    def total(similarities, alpha, gamma, y):
        raw = Graph(indices, similarities)
        graph = normalize(affinity(raw, gamma=gamma))
        return (diffuse(graph, y, alpha=alpha, max_steps=50).value ** 2).sum()

    gradient = jax.jit(jax.grad(total, (0, 1, 2, 3)))
    for alpha, gamma in itertools.product([0.0, 1e-9, 1 - 1e-6], [0.5, 1.0, 3.0]):
        slopes = gradient(similarities, jnp.asarray(alpha), jnp.asarray(gamma), y)
        for slope in slopes:
            assert np.isfinite(slope).all(), (alpha, gamma)
        # By convention it is 0 where there is no edge.
        np.testing.assert_array_equal(np.asarray(slopes[0])[[0, 1, 4]], 0)


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
