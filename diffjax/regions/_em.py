"""Mixtures of Gaussians, improved by expectation and maximisation."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_in_range, check_not_halved
from diffjax.types import Scalar

Covariance = Literal["diagonal", "spherical"]


class Mixture(NamedTuple):
    """A mixture of Gaussians with diagonal covariances.

    A component that was dropped has weight 0 and mean 0.

    Attributes:
        weights: Shares of the components, of sum 1.
        means: Their means.
        variances: Their variances along each dimension, with `regularization`; all the
            same where covariances are spherical.
        log_likelihood: Natural logarithm of the density of all vectors together.
    """

    weights: Float[Array, " g"]
    means: Float[Array, "g d"]
    variances: Float[Array, "g d"]
    log_likelihood: Float[Array, ""]


def improve_mixture(
    vectors: Float[Array, "r d"],
    mixture: Mixture,
    *,
    covariance: Covariance = "diagonal",
    steps: int = 10,
    regularization: Scalar = 3e-3,
) -> Mixture:
    r"""Improves a mixture p(x) = sum over j of w_j N(x; m_j, diag(v_j)).

    Each step computes the shares s_ij = w_j N(x_i; m_j, diag(v_j)) / p(x_i) and from
    them w_j = mean over i of s_ij, m_j = sum of s_ij x_i / sum of s_ij, and v_j, the
    variance about m_j with the same shares, plus `regularization`. No step lowers the
    likelihood by more than adding the regularisation costs. A component whose shares
    sum to rounding is dropped for good.

    Args:
        vectors: What the mixture is to describe.
        mixture: Where to start; its `log_likelihood` is not looked at.
        covariance: "diagonal", a variance for each dimension; "spherical", their mean
            for all. The start may have any.
        steps: Number of steps, at least 0; all of them are done. A Python number.
        regularization: Added to each variance, above 0, in squared units of the
            vectors; may be traced and differentiated. (Vectors of unit length and d
            dimensions have variances of at most 1/d on average.)

    Returns:
        The mixture after the last step, with its own likelihood.

    Raises:
        ValueError: If a setting is outside its range, dimensions differ, or vectors are
            float64 without `jax_enable_x64`.

    References:
        Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
        algorithm, J. R. Stat. Soc. B 39(1), 1977. `regularization` is what scikit-learn
        calls `reg_covar`.
    """
    check_em(covariance, steps, regularization)
    check_not_halved("vectors", vectors)
    if mixture.means.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"mixture must have the vectors' {vectors.shape[1]} dimensions, got "
            f"{mixture.means.shape[1]}."
        )
    return _improve_all(
        vectors, mixture, regularization, covariance=covariance, steps=steps
    )


def check_em(covariance: str, steps: int, regularization: Scalar) -> None:
    """Refuses settings of `improve_mixture` outside their range."""
    if covariance not in get_args(Covariance):
        raise ValueError(
            f"covariance must be one of {get_args(Covariance)}, got {covariance!r}."
        )
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}.")
    check_in_range("regularization", regularization, low=0, high=float("inf"))


@functools.partial(jax.jit, static_argnames=("covariance", "steps"))
def _improve_all(vectors, mixture, regularization, *, covariance, steps):
    used = jnp.ones(vectors.shape[0], jnp.bool_)
    update = functools.partial(
        maximize, vectors, covariance=covariance, regularization=regularization
    )
    return improve(vectors, used, mixture, update, steps=steps)


def improve(
    vectors: Float[Array, "r d"],
    used: Bool[Array, " r"],
    start: Mixture,
    update: Callable[[Array], Mixture],
    *,
    steps: int,
) -> Mixture:
    """Improves a mixture of the rows that are used.

    Args:
        vectors: Regions of one image; finite in rows that are not used.
        used: Which rows are regions.
        start: Where to start.
        update: Makes a mixture of shares, see `maximize`.
        steps: Number of steps.

    Returns:
        The mixture after the last step, with its own likelihood.
    """

    @jax.checkpoint  # Else a gradient keeps [r, g, d] numbers of every step.
    def step(mixture, _):
        return update(shares_of_components(vectors, used, mixture)), None

    # While it is improved a mixture has no likelihood.
    start = start._replace(log_likelihood=jnp.zeros((), vectors.dtype))
    found = jax.lax.scan(step, start, length=steps)[0]
    densities = jax.nn.logsumexp(_log_joint(vectors, found), axis=1)
    return found._replace(log_likelihood=jnp.where(used, densities, 0).sum())


def shares_of_components(
    vectors: Float[Array, "r d"], used: Bool[Array, " r"], mixture: Mixture
) -> Float[Array, "r g"]:
    """Computes what share of each vector each component has; 0 in unused rows."""
    shares = jax.nn.softmax(_log_joint(vectors, mixture), axis=1)
    return jnp.where(used[:, None], shares, 0)


def maximize(
    vectors: Float[Array, "r d"],
    shares: Float[Array, "r g"],
    *,
    covariance: Covariance,
    regularization: Scalar,
) -> Mixture:
    """Makes the most likely mixture of given shares, then regularises it.

    Without any shares all weights are 0. The likelihood is not computed.
    """
    total = shares.sum(0)
    # A component left out takes no more from the log-likelihood than its total. Not
    # "is above": NaN is no reason to leave one out.
    alive = ~(total <= 10 * jnp.finfo(vectors.dtype).eps)
    total = jnp.where(alive, total, 0)
    sizes = jnp.where(alive, total, 1)[None, :]
    parts = jnp.where(alive[None, :], shares / sizes, 0)
    means = jnp.matmul(parts.T, vectors, precision=jax.lax.Precision.HIGHEST)
    variances = (parts[:, :, None] * _squares(vectors, means)).sum(0)
    everything = total.sum()
    return Mixture(
        weights=total / jnp.where(everything == 0, 1, everything),
        means=means,
        variances=_FORMS[covariance](variances)
        + jnp.asarray(regularization, vectors.dtype),
        log_likelihood=jnp.zeros((), vectors.dtype),
    )


def _log_joint(vectors: Array, mixture: Mixture) -> Array:
    """Logarithms of w_j N(x_i; m_j, diag(v_j)), [r, g]."""
    weights, means, variances, _ = mixture
    alive = weights > 0
    # Finite: where no component is alive, infinity minus infinity would be NaN.
    nothing = jnp.finfo(vectors.dtype).min / 2
    prior = jnp.where(alive, jnp.log(jnp.where(alive, weights, 1)), nothing)
    squares = (_squares(vectors, means) / variances[None]).sum(-1)
    volume = jnp.log(2 * jnp.pi * variances).sum(-1)
    return (prior - volume / 2)[None, :] - squares / 2


def _squares(vectors: Array, means: Array) -> Array:
    """Squared differences along each dimension, [r, g, d].

    Multiplied out they are wrong in single precision: what rounding leaves of the
    vectors' squares may be more than the variance of regions that look alike.
    """
    return (vectors[:, None, :] - means[None, :, :]) ** 2


def _one_for_each(variances: Array) -> Array:
    return variances


def _one_for_all(variances: Array) -> Array:
    return jnp.broadcast_to(variances.mean(-1, keepdims=True), variances.shape)


_FORMS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"diagonal": _one_for_each, "spherical": _one_for_all}
)
