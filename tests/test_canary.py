"""A watch on the compiler itself: fails where JAX computes something wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


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
