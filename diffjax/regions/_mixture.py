"""A mixture of Gaussians for the vectors of one image."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffjax._arguments import check_not_halved
from diffjax.types import Scalar

from ._em import Covariance, Mixture, check_em, improve, maximize
from ._kmeans import seed_components


def fit_mixture(
    vectors: Float[Array, "r d"],
    *,
    components: int = 5,
    key: PRNGKeyArray,
    covariance: Covariance = "diagonal",
    restarts: int = 5,
    steps: int = 10,
    regularization: Scalar = 3e-3,
) -> Mixture:
    r"""Fits a mixture of Gaussians to vectors.

    Each restart gives the vectors to centres drawn by k-means++ and goes on from there
    by `improve_mixture`. The mixture of most likelihood is taken; of those that are as
    likely up to rounding the first, so that rounding does not change their order.

    Differentiable in the vectors and the regularisation; which vectors are drawn and
    which restart is taken are constants to differentiation.

    Args:
        vectors: At least one.
        components: Number of components, at least 1. There are no more than vectors
            that differ: those beyond are dropped, see `Mixture`. A Python number.
        key: Of the draws.
        covariance: See `improve_mixture`.
        restarts: Number of starts, at least 1. A Python number.
        steps: See `improve_mixture`.
        regularization: See `improve_mixture`.

    Returns:
        The mixture.

    Raises:
        ValueError: If a setting is outside its range, there is no vector, or vectors
            are float64 without `jax_enable_x64`.

    References:
        See `improve_mixture`; Arthur and Vassilvitskii, k-means++: the advantages of
        careful seeding, SODA 2007.
    """
    check_fit(components, restarts)
    check_em(covariance, steps, regularization)
    check_not_halved("vectors", vectors)
    if vectors.shape[0] == 0:
        raise ValueError("vectors must be at least one, got none.")
    return _fit_all(
        vectors,
        key,
        regularization,
        components=components,
        covariance=covariance,
        restarts=restarts,
        steps=steps,
    )


def check_fit(components: int, restarts: int) -> None:
    """Refuses settings of `fit_mixture` outside their range."""
    for name, value in ("components", components), ("restarts", restarts):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def fit(
    vectors: Float[Array, "r d"],
    used: Bool[Array, " r"],
    starts: Float[Array, "s g"],
    regularization: Scalar,
    *,
    covariance: Covariance,
    steps: int,
) -> Mixture:
    """Fits as `fit_mixture` to the rows that are used; the others must be zero.

    Args:
        vectors: Regions of one image.
        used: Which rows are regions; without any, all weights are 0.
        starts: What `seed_components` needs, a row for each of s restarts.
        regularization: See `improve_mixture`.
        covariance: See `improve_mixture`.
        steps: See `improve_mixture`.
    """
    update = functools.partial(
        maximize, vectors, covariance=covariance, regularization=regularization
    )

    def attempt(draws):
        members = seed_components(vectors, used, draws)
        return improve(vectors, used, update(members), update, steps=steps)

    found = jax.vmap(attempt)(starts)
    likelihood = found.log_likelihood
    best = likelihood.max()
    slack = 100 * jnp.finfo(vectors.dtype).eps * jnp.abs(best)
    taken = jnp.argmax(likelihood >= best - slack)
    return jax.tree.map(lambda part: part[taken], found)


@functools.partial(
    jax.jit, static_argnames=("components", "covariance", "restarts", "steps")
)
def _fit_all(vectors, key, regularization, *, components, covariance, restarts, steps):
    starts = jax.random.uniform(key, (restarts, components), vectors.dtype)
    used = jnp.ones(vectors.shape[0], jnp.bool_)
    return fit(
        vectors, used, starts, regularization, covariance=covariance, steps=steps
    )
