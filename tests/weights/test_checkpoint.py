import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffjax.weights._checkpoint import select_state_dict, to_native_array

A, B = np.zeros(2), np.ones(3)


def select(contents):
    """The selected tensors and the extras."""
    tensors, extras, source = select_state_dict(contents, source="file")
    assert source == "file"
    return tensors, extras


@pytest.mark.parametrize(
    ("contents", "tensors", "extras"),
    [
        ({}, {}, {}),
        ({"w": A}, {"w": A}, {}),
        (
            {"w": A, "epoch": 3, "more": {"v": B}},
            {"w": A},
            {"epoch": 3, "more": {"v": B}},
        ),
        ({"anything": {"w": A}, "epoch": 3}, {"w": A}, {"epoch": 3}),
        ({"state_dict": {"w": A}, "mean": B}, {"w": A}, {"mean": B}),
        ({"ema": {"w": B}, "model": {"w": A}}, {"w": A}, {"ema": {"w": B}}),
        ({"net": {"w": A, "extra": None}}, {"w": A}, {"extra": None}),
        (
            {"model": {"w": B}, "state_dict": {"w": A}},
            {"w": A},
            {"model": {"w": B}},
        ),
        ({"optimizer": {"state": {0: {"m": B}}}, "net": {"w": A}}, {"w": A}, ...),
        ({"module.a": A, "module.b": B}, {"a": A, "b": B}, {}),
        ({"module.a": A, "b": B}, {"module.a": A, "b": B}, {}),
        ({"state_dict": {"module.module.a": A}}, {"module.a": A}, {}),
        ({0: {"w": A}, "epoch": 3}, {"w": A}, {"epoch": 3}),
    ],
    ids=str,
)
def test_the_state_dict_is_selected(contents, tensors, extras):
    got, rest = select(contents)
    assert list(got) == list(tensors)
    for name, array in tensors.items():
        assert got[name] is array
    if extras is not ...:
        assert rest == extras


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([A], "it holds a list, not a dict of tensors"),
        (A, "it holds a ndarray, not a dict"),
        ({"epoch": 3}, "it holds no tensors"),
        ({"state_dict": {}}, "it holds no tensors"),
        ({"student": {"w": A}, "teacher": {"w": B}}, "'student', 'teacher'"),
        ({1: A}, "tensor 1 has no name"),
    ],
    ids=str,
)
def test_contents_without_exactly_one_state_dict_are_refused(contents, message):
    with pytest.raises(ValueError, match=message):
        select(contents)


@given(
    hnp.arrays(
        hnp.floating_dtypes(sizes=(16, 32, 64)) | hnp.integer_dtypes(),
        hnp.array_shapes(min_dims=0, min_side=0),
    ),
    st.booleans(),
)
def test_a_native_array_has_the_same_numbers(array, transposed):
    view = array.T if transposed else array
    native = to_native_array(view)
    np.testing.assert_array_equal(native, view)
    assert native.flags.c_contiguous
    assert native.flags.writeable
    assert native.dtype.isnative
    assert native.dtype.kind == view.dtype.kind
    half = view.dtype.newbyteorder("=") == np.float16
    assert native.dtype.itemsize == (4 if half else view.dtype.itemsize)
    assert not np.shares_memory(native, array)
