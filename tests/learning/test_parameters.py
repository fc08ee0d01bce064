import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.learning._parameters import (
    PARAMETER_NAMES,
    at_range_end,
    check_parameters,
    constrain,
    parameters,
    present_parameters,
    unconstrain,
)

EVERYTHING = {"dim": 4, "rank": 2, "scales": 3, "graphs": 2}
INSIDE = st.floats(2**-16, 1 - 2**-16, width=32)
POSITIVE = st.floats(2**-19, 2**19, width=32)


def everything(**values):
    """Parameters with all parts, some of other values."""
    return parameters(PARAMETER_NAMES, **EVERYTHING)._replace(
        **{name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    )


def test_the_start_is_the_papers_and_its_parts_change_nothing():
    made = everything()
    assert list(map(float, jax.tree.leaves(made[:4]))) == pytest.approx([0.99, 3, 1, 3])
    assert made.bias == 0
    np.testing.assert_array_equal(made.scale_weights, 1)
    np.testing.assert_array_equal(made.projection, [[1, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(made.mixture, 0.5)
    np.testing.assert_array_equal(made.shrinkage, 0.25)


def test_parameters_that_are_not_named_are_none():
    assert parameters()[3:] == (None,) * 7
    assert len(jax.tree.leaves(parameters(("bias",)))) == 4


@settings(deadline=None, max_examples=50)
@given(
    alpha=INSIDE,
    gamma=POSITIVE,
    lam=POSITIVE,
    query_gamma=POSITIVE,
    bias=st.floats(-1 + 2**-10, 1 - 2**-10, width=32),
    share=INSIDE,
)
def test_unconstrained_values_round_trip(share, **values):
    start = everything(**values, mixture=[share, 1 - share], scale_weights=[1, 2, 0.1])
    back = present_parameters(constrain(unconstrain(start)))
    assert set(back) == set(PARAMETER_NAMES)
    for name, before in present_parameters(start).items():
        # A logarithm of single precision is off by its last digit, so exp of it, too.
        np.testing.assert_allclose(
            back[name], before, rtol=3e-6, atol=1e-6, err_msg=name
        )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32)
        | st.floats(-30, 30, width=32),
        min_size=23,
        max_size=23,
    )
)
def test_any_finite_numbers_give_parameters_strictly_in_range(numbers):
    leaves, tree = jax.tree.flatten(everything())
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(np.asarray(numbers, np.float32), ends[:-1])
    raw = [jnp.asarray(x).reshape(y.shape) for x, y in zip(parts, leaves, strict=True)]
    made = constrain(jax.tree.unflatten(tree, raw))
    check_parameters(made)
    parts = present_parameters(made)
    assert 0 < parts["alpha"] < 1
    assert -1 < parts["bias"] < 1
    for name in set(parts) - {"bias", "projection"}:
        assert (parts[name] > 0).all(), name


def test_the_maps_are_those_of_the_docstring():
    start = everything(alpha=0.75, gamma=np.e, bias=0.5, mixture=[0.8, 0.2])
    raw = present_parameters(unconstrain(start))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    close(raw["alpha"], np.log(0.75 / 0.25))
    close(raw["gamma"], 1)
    close(raw["bias"], np.log((1 + 0.5) / (1 - 0.5)) / 2)
    close(-np.diff(raw["mixture"]), np.log(0.8 / 0.2))


def test_missing_parameters_stay_none():
    assert jnp.isnan(constrain(everything(gamma=np.nan)).gamma)


def test_parameters_at_the_end_of_their_range_are_reported():
    raw = unconstrain(everything())
    assert not any(at_range_end(raw).values())
    far = raw._replace(gamma=jnp.float32(-20), bias=jnp.float32(9))
    told = [name for name, flag in at_range_end(far).items() if flag]
    assert told == ["gamma", "bias"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("alpha", np.nan),
        ("gamma", 0.0),
        ("lam", -1.0),
        ("query_gamma", np.inf),
        ("bias", 1.0),
        ("scale_weights", [1.0, 0.0, 1.0]),
        ("projection", [[np.nan, 0, 0, 0]]),
        ("mixture", [1.5, -0.5]),
    ],
)
def test_rejects_a_value_outside_its_range(name, value):
    bad = np.ravel(value)
    shown = next(x for x in bad if x not in {1.0, 1.5} or bad.size == 1)
    if name == "mixture":
        shown = 1.5
    with pytest.raises(ValueError, match=rf"{name} must be .* got {shown}"):
        unconstrain(everything(**{name: value}))


def test_rejects_weights_of_graphs_that_do_not_sum_to_one():
    with pytest.raises(ValueError, match=r"mixture must sum to 1, got 0\.75"):
        unconstrain(everything(mixture=[0.5, 0.25]))


def test_rejects_a_part_of_another_rank():
    with pytest.raises(ValueError, match="gamma must have 0 dimensions, got 1"):
        unconstrain(everything(gamma=[3.0]))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"names": ["beta"]}, "names .* got 'beta'"),
        ({"names": ["projection"]}, "dim must be at least 1 with projection, got None"),
        ({"names": ["mixture"], "graphs": 0}, "graphs .* got 0"),
        ({"names": ["scale_weights"]}, "scales .* got None"),
        ({"names": ["projection"], "dim": 3, "rank": 4}, "rank must be in 1..3"),
        ({"alpha": 1.0}, "alpha .* got 1.0"),
    ],
)
def test_rejects_a_start_that_can_not_be(bad, match):
    with pytest.raises(ValueError, match=match):
        parameters(**bad)
