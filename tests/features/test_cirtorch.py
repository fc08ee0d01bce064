import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.features import PixelScaling
from diffjax.features._cirtorch import gem_power_of, scaling_of, whitenings_of
from diffjax.features._state_dict import Checkpoint
from diffjax.regions import whiten

DIM = 6


def checkpoint(tensors=(), **meta):
    return Checkpoint(dict(tensors), {"meta": meta} if meta else {}, "here")


def layer(weight, bias):
    return checkpoint({"whiten.weight": weight, "whiten.bias": bias})


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, DIM))
def test_the_learned_layer_gives_its_own_answer(seed, size):
    rng = np.random.default_rng(seed)
    # Rows of lengths 1 and above at right angles, turned: the mean stays small.
    turn, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    weight = (rng.uniform(1, 30, (size, 1)) * turn[:size]).astype(np.float32)
    bias = rng.normal(size=size).astype(np.float32)
    (name, found), *others = whitenings_of(layer(weight, bias)).items()
    assert (name, others) == ("end-to-end", [])
    assert found.projection.shape == (DIM, size)
    vectors = rng.normal(size=(5, DIM)).astype(np.float32)
    expected = vectors.astype(np.float64) @ weight.T + bias
    mean, projection = map(np.asarray, found)
    got = (vectors - mean) @ projection
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_mean_is_the_smallest_that_gives_the_bias():
    # W (x - m) with W = (2 0 0; 0 4 0): m = -(b1 / 2, b2 / 4, anything), so 0 there.
    weight = np.array([[2, 0, 0], [0, 4, 0]], np.float32)
    found = whitenings_of(layer(weight, np.array([6, 8], np.float32)))["end-to-end"]
    np.testing.assert_allclose(found.mean, [-3, -2, 0], atol=1e-6)
    np.testing.assert_array_equal(found.projection, weight.T)


def test_a_layer_without_full_row_rank_is_refused_unless_a_mean_exists():
    weight = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    message = "here: whiten.bias must be -W m .* full row rank; got .* off by"
    with pytest.raises(ValueError, match=message):
        whitenings_of(layer(weight, np.array([1, 1, 3], np.float32)))
    # 1 + 1 = 2: here is one.
    found = whitenings_of(layer(weight, np.array([1, 1, 2], np.float32)))["end-to-end"]
    np.testing.assert_allclose(found.mean, [-1, -1], rtol=1e-6)
    # And without a bias there always is.
    found = whitenings_of(layer(weight, np.zeros(3, np.float32)))["end-to-end"]
    np.testing.assert_array_equal(found.mean, 0)


def test_a_mean_too_large_for_single_precision_is_refused():
    # m = (0, -1e7): W m is -1e7 + 1e7 in its first row, and loses what is small.
    weight = np.array([[1, 1], [1, 1 + 1e-7]])
    with pytest.raises(ValueError, match="full row rank"):
        whitenings_of(layer(weight, np.array([0.3, 1.3])))


@pytest.mark.parametrize("column", [True, False], ids=["column", "vector"])
def test_fitted_whitenings_are_applied_as_cirtorch_does(column):
    rng = np.random.default_rng(0)
    shape = (DIM, 1) if column else (DIM,)
    fitted = {
        kind: {"m": rng.normal(size=shape), "P": rng.normal(size=(size, DIM))}
        for kind, size in (("ss", DIM), ("ms", 4))
    }
    found = whitenings_of(checkpoint(Lw={"SfM-30k": fitted, "SfM-120k": {}}))
    assert list(found) == ["SfM-30k/ss", "SfM-30k/ms"]
    # There a vector is a column: P (x - m), made of length 1.
    vectors = rng.normal(size=(DIM, 3)).astype(np.float32)
    for kind, parts in fitted.items():
        expected = parts["P"] @ (vectors - parts["m"].reshape(DIM, 1))
        expected /= np.linalg.norm(expected, axis=0)
        got = whiten(jnp.asarray(vectors.T), found[f"SfM-30k/{kind}"])
        np.testing.assert_allclose(got, expected.T, rtol=1e-5, atol=1e-5)


def test_a_file_without_any_has_none():
    for empty in (checkpoint(), checkpoint(architecture="vgg16"), checkpoint(Lw={})):
        assert whitenings_of(empty) == {}
        assert gem_power_of(empty) is None
        assert scaling_of(empty) is None


def test_colours_from_0_to_1_are_scaled_to_255():
    found = scaling_of(checkpoint(mean=[0.2, 0.4, 0.6], std=np.array([1, 2, 3.0])))
    assert found == PixelScaling((51, 102, 153), (255, 510, 765))


@pytest.mark.parametrize("shape", [(1,), ()])
def test_the_power_is_a_number(shape):
    power = gem_power_of(checkpoint({"pool.p": np.full(shape, 2.5, np.float32)}))
    assert isinstance(power, float)
    assert power == 2.5


@pytest.mark.parametrize(
    "tensor", [np.zeros(1), -np.ones(1), np.ones(2), np.array([np.nan])]
)
def test_a_power_that_is_none_is_refused(tensor):
    with pytest.raises(ValueError, match=r"here: pool\.p must be"):
        gem_power_of(checkpoint({"pool.p": tensor}))


SQUARE = np.eye(2)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (checkpoint({"whiten.weight": SQUARE}), "whiten.bias is missing"),
        (checkpoint({"whiten.bias": np.ones(2)}), "whiten.weight is missing"),
        (layer(SQUARE, np.ones(3)), "a vector that fit, got shapes (2, 2) and (3,)"),
        (layer(np.ones((2, 2, 1)), np.ones(2)), "must be a matrix"),
        (layer(np.ones((0, 2)), np.ones(0)), "must be a matrix"),
        (layer(SQUARE * np.nan, np.ones(2)), "whiten.weight must be finite"),
        (layer(SQUARE, np.array([1, np.inf])), "whiten.bias must be finite"),
        (checkpoint(Lw=[1]), "Lw must be a mapping, got a list"),
        (checkpoint(Lw={"a": 3}), "Lw a must be a mapping, got a int"),
        (checkpoint(Lw={"a": {"ss": SQUARE}}), "Lw a/ss must be a mapping"),
        (checkpoint(Lw={"a": {"ss": {"m": np.ones(2)}}}), "P of Lw a/ss is missing"),
        (
            checkpoint(Lw={"a": {"ms": {"m": np.ones(3), "P": SQUARE}}}),
            "Lw a/ms must be a matrix and a vector that fit, got shapes (2, 2)",
        ),
        (
            checkpoint(Lw={"a": {"ss": {"m": "mean", "P": SQUARE}}}),
            "m of Lw a/ss must be numbers, got str",
        ),
        (checkpoint(mean=[0.5], std=[1, 1, 1]), "mean and std in meta must be three"),
        (checkpoint(mean=["a"], std=[1, 1, 1]), "meta mean must be numbers"),
    ],
)
def test_what_is_broken_is_refused_in_a_line(unchecked, broken, said):
    with pytest.raises(ValueError, match=f"^here: .*{re.escape(said)}") as raised:
        _ = scaling_of(broken), whitenings_of(broken)
    assert "\n" not in str(raised.value)
