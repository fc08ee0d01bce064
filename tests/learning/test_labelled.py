import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.learning import Labelled, Queries, problem
from diffjax.learning._labelled import answers, make_table, take

# Four queries of 1, 3, 2 and 1 regions, of which the third has no right answer.
IDS = np.array([0, 1, 1, 1, 2, 2, 3])
VECTORS = np.eye(7, dtype=np.float32)
POSITIVES = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]], bool)
USED = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], bool)


@pytest.fixture(scope="module")
def collection_of_three():
    return problem(VECTORS[:6], np.repeat(np.arange(3), 2), k=2)


def labelled(**changes):
    start = Labelled(Queries((VECTORS,), IDS), POSITIVES, USED)
    return start._replace(**changes)


def test_a_query_without_answers_is_left_out(collection_of_three):
    table = make_table("training", labelled(), collection_of_three)
    np.testing.assert_array_equal(table.numbers, [0, 1, 3])
    np.testing.assert_array_equal(table.rows, [[0, -1, -1], [1, 2, 3], [6, -1, -1]])
    right, junk = answers(table)
    assert [list(x) for x in right] == [[0], [1, 2], [2]]
    assert [list(x) for x in junk] == [[2], [], []]


def test_rows_left_over_belong_to_no_query_of_the_batch(collection_of_three):
    table = make_table("training", labelled(), collection_of_three)
    taken = take(table, jnp.array([1, 2, -1], jnp.int32))
    ids = np.asarray(taken.query_ids)
    np.testing.assert_array_equal(ids, [0, 0, 0, 1, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(taken.vectors[0][ids < 3], VECTORS[[1, 2, 3, 6]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"positives": POSITIVES[:2]}, r"shape \[3, 4\].* got \[2, 4\] and \[3, 4\]"),
        ({"positives": POSITIVES[:, :3]}, "one column per query, 4, got 3"),
        ({"used": USED & ~POSITIVES}, "must have a query with a positive .* among 4"),
        ({"used": POSITIVES}, "a positive and a negative"),
        ({"objects": ("a", "b")}, "objects must be one per query, 4, got 2"),
        ({"queries": Queries((VECTORS,), IDS + 1)}, "query_ids must start at 0, got 1"),
    ],
)
def test_rejects_labels_that_contradict_the_collection(
    collection_of_three, changes, match
):
    with pytest.raises(ValueError, match=f"training.*{match}"):
        make_table("training", labelled(**changes), collection_of_three)
