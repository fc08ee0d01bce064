import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax._arguments import (
    check_ids,
    check_in_range,
    check_matrix,
    check_not_downcast,
    check_vectors,
    count_ids,
    is_concrete,
    max_rows_per_id,
)
from diffjax._ranges import check_at_least, check_choice

INFINITE = float("inf")
TRANSFORMS = [jax.jit, jax.vmap, jax.grad]


@pytest.mark.parametrize("value", [1, 1.5, np.ones(2), jnp.ones(2)])
def test_numbers_and_arrays_are_concrete(value):
    assert is_concrete(value)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_traced_arrays_are_not_concrete(transform):
    concrete = []

    def observe(x):
        concrete.append(is_concrete(x))
        return x

    transform(observe)(jnp.ones(3) if transform is jax.vmap else jnp.float32(1))
    assert concrete == [False]


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), jnp.float32(0.5)])
def test_a_number_within_the_range_passes(value):
    check_in_range("alpha", value, low=0, high=1)


@pytest.mark.parametrize(
    ("value", "closed_low", "rule"),
    [
        (0, False, r"in \(0, 1\), got 0"),
        (1, False, r"in \(0, 1\), got 1"),
        (1.0, True, r"in \[0, 1\), got 1.0"),
        (-0.5, True, r"in \[0, 1\), got -0.5"),
        (float("nan"), True, r"in \[0, 1\), got nan"),
        (np.float32(2), False, r"in \(0, 1\), got 2.0"),
        (jnp.float32(2), False, r"in \(0, 1\), got 2.0"),
    ],
)
def test_a_number_outside_the_range_is_refused_with_the_rule(value, closed_low, rule):
    with pytest.raises(ValueError, match=f"alpha must be {rule}"):
        check_in_range("alpha", value, low=0, high=1, closed_low=closed_low)


def test_the_lower_end_belongs_to_a_closed_range_only():
    check_in_range("alpha", 0, low=0, high=1, closed_low=True)
    with pytest.raises(ValueError, match="alpha"):
        check_in_range("alpha", 0, low=0, high=1)


@pytest.mark.parametrize("value", [0, -1, INFINITE, float("nan")])
def test_an_unbounded_range_says_finite(value):
    with pytest.raises(
        ValueError, match=f"gamma must be finite and above 0, got {value}"
    ):
        check_in_range("gamma", value, low=0, high=INFINITE)


def test_a_closed_unbounded_range_says_at_least():
    check_in_range("gamma", 0, low=0, high=INFINITE, closed_low=True)
    with pytest.raises(ValueError, match="finite and at least 0, got -1"):
        check_in_range("gamma", -1, low=0, high=INFINITE, closed_low=True)


def test_the_least_number_is_one():
    check_at_least("grid", 1, 1)
    with pytest.raises(ValueError, match="grid must be at least 1, got 0"):
        check_at_least("grid", 0, 1)


def test_another_choice_is_refused_with_those_that_exist():
    check_choice("method", "ivf", ("exact", "ivf"))
    with pytest.raises(
        ValueError, match=r"method must be one of \('exact', 'ivf'\), got 'hnsw'"
    ):
        check_choice("method", "hnsw", ("exact", "ivf"))


@pytest.mark.parametrize(
    "transform", [jax.jit, pytest.param(jax.vmap, marks=pytest.mark.full)]
)
def test_values_are_not_checked_under_tracing(transform):
    def checked(x):
        check_in_range("alpha", x, low=5, high=6)
        check_vectors("vectors", x * jnp.zeros((2, 3)))
        check_ids("ids", jnp.array([4, 2]) + (0 * x).astype(jnp.int32), rows=2)
        return x

    transform(checked)(jnp.zeros(3) if transform is jax.vmap else jnp.float32(0))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_finite_vectors_with_a_direction_pass(kind):
    check_vectors("vectors", kind(np.eye(3, dtype=np.float32) * 1e-30))
    check_vectors("vectors", kind(np.zeros((0, 3), np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_counted_and_the_first_is_named(bad):
    vectors = np.ones((4, 3), np.float32)
    vectors[[1, 3], [0, 2]] = bad
    complaint = "vectors must be finite, .* in 2 of 4 rows, first in row 1"
    with pytest.raises(ValueError, match=complaint):
        check_vectors("vectors", vectors)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.ones((2, 3), np.int32), r"int32 \[2, 3\]"),
        (np.ones(3, np.float32), r"float32 \[3\]"),
        (np.ones((1, 2, 3), np.float32), r"float32 \[1, 2, 3\]"),
        ([[1.0]], "an array, got list"),
    ],
)
def test_only_a_matrix_of_floating_point_is_one(array, got):
    check_matrix("scores", np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=f"scores must be .*{got}"):
        check_matrix("scores", array)


def test_vectors_without_a_direction_are_counted_and_the_first_is_named():
    vectors = np.ones((4, 3), np.float32)
    vectors[2:] = [[0, 0, 0], [0, -0.0, 0]]
    complaint = "queries must have a direction, got 2 of 4 rows .* first row 2"
    with pytest.raises(ValueError, match=complaint):
        check_vectors("queries", vectors)


def test_double_precision_is_refused_where_jax_would_downcast_it():
    for refuse in (check_not_downcast, check_vectors):
        with pytest.raises(
            ValueError, match="vectors must be float32 here, got float64"
        ):
            refuse("vectors", np.ones((2, 3)))


@pytest.mark.usefixtures("x64")
def test_double_precision_passes_where_jax_keeps_it():
    check_vectors("vectors", np.ones((2, 3)))
    check_not_downcast("vectors", jnp.ones((2, 3)))


def test_bytes_in_a_foreign_order_are_refused():
    for refuse in (check_not_downcast, check_vectors):
        with pytest.raises(
            ValueError, match=r"byte order, got >f4.*astype\('float32'\)"
        ):
            refuse("vectors", np.ones((2, 3), ">f4"))


def test_masked_entries_are_refused_and_an_empty_mask_is_none():
    check_not_downcast("vectors", np.ma.asarray(np.ones((2, 3), np.float32)))
    masked = np.ma.masked_greater(np.ones((2, 3), np.float32), 0)
    with pytest.raises(ValueError, match="vectors must have no masked entries"):
        check_not_downcast("vectors", masked)


@pytest.mark.parametrize("value", [1.0, np.ones(2, np.float32), np.ones(2, np.int64)])
def test_other_types_pass_the_check_of_double_precision(value):
    check_not_downcast("value", value)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), max_size=6))
def test_ascending_ids_pass_and_are_counted(rows_of_each):
    ids = np.repeat(np.arange(len(rows_of_each)), rows_of_each)
    check_ids("ids", ids, rows=len(ids))
    count = count_ids("ids", ids, count=None, count_name="num_ids")
    assert count == len(rows_of_each)
    most = max_rows_per_id("ids", ids, limit=None, limit_name="max_rows")
    assert most == max(rows_of_each, default=0)


@settings(max_examples=40)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=5))
def test_other_ids_are_refused(ids):
    # The same rule in other words: first 0, then the same or one more.
    allowed = ids[0] == 0 and all(b - a in {0, 1} for a, b in itertools.pairwise(ids))
    if allowed:
        check_ids("ids", np.array(ids), rows=len(ids))
    else:
        with pytest.raises(ValueError, match="ids must"):
            check_ids("ids", np.array(ids), rows=len(ids))


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ([1, 1, 2], "image_ids must start at 0, got 1"),
        ([-1, 0, 1], "image_ids must start at 0, got -1"),
        ([0, 2, 1], "neither decrease nor skip a number, got 2 after 0 in row 1"),
        ([0, 1, 0], "neither decrease nor skip a number, got 0 after 1 in row 2"),
    ],
)
def test_the_first_bad_id_is_named(ids, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_ids("image_ids", np.array(ids), rows=3)


def test_every_row_must_have_an_id():
    complaint = r"ids must have one id per row, 4, got \(3,\)"
    with pytest.raises(ValueError, match=complaint):
        check_ids("ids", np.arange(3), rows=4)
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(lambda ids: check_ids("ids", ids, rows=4), jnp.arange(3))


def test_a_given_count_may_be_larger_than_the_ids_but_not_smaller():
    ids = np.array([0, 0, 1])
    assert count_ids("ids", ids, count=2, count_name="num_ids") == 2
    assert count_ids("ids", ids, count=5, count_name="num_ids") == 5
    with pytest.raises(ValueError, match="num_ids must be at least 2, got 1"):
        count_ids("ids", ids, count=1, count_name="num_ids")
    assert max_rows_per_id("ids", ids, limit=4, limit_name="max_rows") == 4
    with pytest.raises(ValueError, match="max_rows must be at least 2, got 1"):
        max_rows_per_id("ids", ids, limit=1, limit_name="max_rows")


def test_of_traced_ids_only_the_given_counts_are_known():
    def counts(ids, count):
        return count_ids("ids", ids, count=count, count_name="num_ids"), (
            max_rows_per_id("ids", ids, limit=count, limit_name="max_rows")
        )

    ids = jax.ShapeDtypeStruct((3,), jnp.int32)
    jax.eval_shape(lambda ids: jnp.zeros(counts(ids, 7)), ids)
    with pytest.raises(ValueError, match="num_ids must be given under jit, where ids"):
        jax.eval_shape(lambda ids: counts(ids, None), ids)
    with pytest.raises(ValueError, match="max_rows must be given under jit, where ids"):
        jax.eval_shape(
            lambda ids: max_rows_per_id("ids", ids, limit=None, limit_name="max_rows"),
            ids,
        )
