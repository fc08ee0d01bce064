import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.graph import affinity, check_graph, check_neighbors, compress, knn
from diffjax.types import Neighbors

GOOD = Neighbors(
    jnp.array([[0, 1], [1, -1], [2, 0]], jnp.int32),
    jnp.array([[1, 0.5], [1, 0], [1, -0.5]]),
)


def change(position, *, index=None, similarity=None):
    """The good lists with one entry changed."""
    indices, similarities = GOOD
    if index is not None:
        indices = indices.at[position].set(index)
    if similarity is not None:
        similarities = similarities.at[position].set(similarity)
    return Neighbors(indices, similarities)


def test_accepts_lists_of_knn_and_empty_slots(collection):
    vectors = collection.vectors.astype(np.float32)
    check_neighbors("lists", knn(vectors, 5), n=len(vectors))
    check_neighbors("lists", GOOD, n=3)
    check_neighbors("lists", change((1, 0), index=-1), n=3)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (change((1, 1), index=3), r"lists must have indices .* got 3 in row 1"),
        (change((2, 1), index=-2), r"indices in -1\.\.n-1, got -2 in row 2"),
        (change((2, 1), index=2), "each index once in a row, got 2 in row 2"),
        (change((0, 1), similarity=np.nan), "finite .* got nan in row 0"),
        (change((1, 0), similarity=-np.inf), "finite .* got -inf in row 1"),
    ],
)
def test_names_the_first_bad_row(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_neighbors("lists", bad, n=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda starts: starts - 5,
        lambda starts: 0 * starts,
        lambda starts: starts.at[2].add(50),
        lambda starts: starts.at[-1].add(-1),
    ],
    ids=["shifted", "zeros", "falling", "short"],
)
def test_refuses_rows_that_do_not_follow_each_other(collection, change):
    lists = knn(collection.vectors.astype(np.float32), 5)
    graph = compress(affinity(lists))
    check_graph("graph", graph)
    bad = graph._replace(starts=change(graph.starts))
    with pytest.raises(ValueError, match="graph must have starts that rise from 0 to"):
        check_graph("graph", bad)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(similarities=GOOD.similarities[:, :1]),
        GOOD._replace(similarities=GOOD.similarities[:2]),
        Neighbors(GOOD.indices[:, 0], GOOD.similarities[:, 0]),
        Neighbors(GOOD.indices[:2], GOOD.similarities[:2]),
    ],
)
def test_refuses_other_shapes(bad):
    with pytest.raises(ValueError, match=r"of shape \[3, k\], got \["):
        check_neighbors("lists", bad, n=3)
