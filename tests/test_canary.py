"""A watch on JAX itself: fails where it computes something wrong or moved a name."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from diffjax._sharding import match_varying_axes, varying_axes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "length"), [(jnp.float64, 2**14 + 1), (jnp.float32, 2**15 + 1)]
)
def test_a_compiled_product_of_rows_is_the_eager_one(dtype, length):
    # jax 0.10.2 on CPU loses part of the last rows, silently: 266342400 in place of
    # 2^28 = 268435456. https://github.com/jax-ml/jax/issues/39103
    first = jnp.arange(length, dtype=dtype)
    rows = jnp.stack([first, jnp.zeros_like(first), jnp.zeros_like(first)], axis=1)
    matrix = jnp.eye(3, dtype=dtype)

    def squares(rows):
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)

    # Squares up to 2^30 of which only the leading 24 bits are kept in float32.
    expected = np.arange(length).astype(dtype) ** 2
    np.testing.assert_array_equal(squares(rows), expected)
    np.testing.assert_array_equal(jax.jit(squares)(rows), expected)


def test_the_axes_of_an_arrays_type_are_where_varying_axes_looks():
    # jax 0.12 moved jax.typeof(x).vma to jax.typeof(x).mat.varying.
    mesh, rows = Mesh(jax.devices()[:1], "rows"), PartitionSpec("rows")
    got, takes = [], []

    def look(x):
        takes.append(inspect.signature(type(jax.typeof(x))))
        same = jnp.zeros(3)
        got.extend(map(varying_axes, (x, same, *match_varying_axes(x, same))))
        return x

    try:
        jax.shard_map(look, mesh=mesh, in_specs=rows, out_specs=rows)(jnp.zeros(2))
    except AttributeError as error:
        pytest.fail(
            f"JAX {jax.__version__} moved a name that varying_axes or "
            f"match_varying_axes of diffjax._sharding needs: {error}. What "
            f"jax.typeof(x) gives is made of {takes}."
        )
    spread = frozenset({"rows"})
    assert got == [spread, frozenset(), spread, spread]
