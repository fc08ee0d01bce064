import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest

from diffjax.native import lists_to_csr, mutual_slots

pytestmark = kernels.needed

LISTS = jnp.array([[1, 2, -1], [0, -1, -1], [1, 0, 2]], jnp.int32)
SLOTS = jnp.array([[0, 1, -1], [0, -1, -1], [-1, 1, -1]], jnp.int32)


def test_slots_of_three_lists():
    # 0 and 1 list each other, and 0 and 2; 2 lists 1 and itself, without an edge.
    np.testing.assert_array_equal(mutual_slots(LISTS), SLOTS)


def test_a_batch_of_lists():
    both = jnp.stack([LISTS, LISTS[:, ::-1]])
    got = jax.vmap(mutual_slots)(both)
    for one, lists in zip(got, both, strict=True):
        np.testing.assert_array_equal(one, mutual_slots(lists))


def test_neighbours_out_of_range_are_safe():
    far = LISTS.at[0, 0].set(2**30).at[1, 0].set(-(2**30))
    np.testing.assert_array_equal(
        mutual_slots(far), [[-1, 1, -1], [-1, -1, -1], [-1, 1, -1]]
    )


@pytest.mark.parametrize(
    ("starts", "count"), [([0, 2, 3, 3], 3), ([0, 1, 3, 4], 4), ([0, 3, 4, 4], 4)]
)
def test_starts_of_other_lists_are_an_error_and_no_crash(starts, count):
    numbers = jnp.ones(LISTS.shape)
    # JAX raises another error from the second call on.
    errors = jax.errors.JaxRuntimeError, ValueError
    with pytest.raises(errors, match="starts must be those of"):
        jax.block_until_ready(
            lists_to_csr(LISTS, numbers, jnp.array(starts), count=count, slots=SLOTS)
        )


def test_slots_out_of_range_are_safe():
    far = SLOTS.at[0, 0].set(2**30).at[1, 0].set(-(2**30))
    columns, _ = lists_to_csr(
        LISTS, jnp.ones(LISTS.shape), jnp.array([0, 1, 1, 2]), count=2, slots=far
    )
    assert columns.tolist() == [2, 0]


@pytest.mark.parametrize("starts", [jnp.int32, jnp.int64])
@pytest.mark.usefixtures("x64")
def test_rows_are_sorted_and_have_the_smaller_number(starts):
    numbers = jnp.array([[0.1, 0.9, 0.0], [0.2, 0, 0], [0.3, 0.8, 1.0]], jnp.float64)
    columns, got = lists_to_csr(
        LISTS, numbers, jnp.array([0, 2, 3, 4], starts), count=4, slots=SLOTS
    )
    assert columns.tolist() == [1, 2, 0, 0]
    np.testing.assert_array_equal(got, [0.1, 0.8, 0.1, 0.8])


@pytest.mark.parametrize("position", [(0, 0), (1, 0)])
def test_nan_in_either_direction_is_kept(position):
    numbers = jnp.ones(LISTS.shape).at[position].set(jnp.nan)
    starts = jnp.array([0, 2, 3, 4])
    _, got = lists_to_csr(LISTS, numbers, starts, count=4, slots=SLOTS)
    np.testing.assert_array_equal(got, [np.nan, 1, np.nan, 1])
