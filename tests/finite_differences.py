"""Gradients held to central differences, with one compiled program.

`jax.test_util.check_grads` compiles a program for each of its steps.
"""

import jax
import jax.numpy as jnp
import numpy as np


def check_gradient(function, arguments, *, order=1, tolerance=1e-5, step=1e-5):
    """Compares the gradient of a weighted sum of outputs with central differences.

    The weights of the outputs and the direction of the difference are random, so that
    no term can hide another. Call it in double precision.

    Args:
        function: Takes the arguments and returns arrays.
        arguments: Tuple of arrays, or of trees of them, all differentiated.
        order: 1, or 2 to check the gradient of the directional derivative as well.
        tolerance: Relative and absolute.
        step: Length of the step in the direction, whose entries are about 1.
    """
    rng = np.random.default_rng(0)

    def draw(tree):
        return jax.tree.map(lambda leaf: rng.normal(size=np.shape(leaf)), tree)

    def dot(left, right):
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
        return sum(jax.tree.leaves(products))

    arguments = jax.tree.map(np.asarray, arguments)
    weights = draw(jax.eval_shape(function, *arguments))
    directions = [draw(arguments) for _ in range(order)]

    def total(arguments):
        return dot(function(*arguments), weights)

    def along(scalar, direction):
        return lambda arguments: dot(jax.grad(scalar)(arguments), direction)

    scalars = [total]
    for direction in directions:
        scalars.append(along(scalars[-1], direction))
    values = jax.jit(lambda arguments: [scalar(arguments) for scalar in scalars])

    slopes = values(arguments)[1:]
    for i, direction in enumerate(directions):
        ahead, behind = (
            values(
                jax.tree.map(
                    lambda x, d, s=sign: x + s * step * d, arguments, direction
                )
            )[i]
            for sign in (1, -1)
        )
        expected = (float(ahead) - float(behind)) / (2 * step)
        assert float(slopes[i]) != 0
        np.testing.assert_allclose(
            float(slopes[i]), expected, rtol=tolerance, atol=tolerance
        )
