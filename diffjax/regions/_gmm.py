"""Gaussian mixtures fitted by EM from k-means++ starts."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffjax._arguments import check_in_range, check_not_downcast
from diffjax.types import Scalar


def kmeans_plus_plus_memberships(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    draws: Float[Array, " g"],
) -> Float[Array, "r g"]:
    r"""Gives every region to the nearest of a few of them, drawn by k-means++.

    The first centre is a region drawn evenly, each next one a region drawn with
    probability proportional to the squared distance from the nearest centre so far. A
    component beyond the regions that differ has no members.

    Args:
        vectors: Regions of one image; zero in rows that are not used.
        is_region: Which rows are regions; the others are never drawn and belong to
            nobody.
        draws: A number for each centre, drawn evenly from [0, 1): that share of the
            probability lies before the region that is drawn.

    Returns:
        1 where a region belongs to a component, else 0; a constant to differentiation.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA
        2007.
    """
    vectors = jax.lax.stop_gradient(vectors)
    least = difference_rounding(vectors) ** 2

    def draw(distance: Array, share: Array) -> tuple[Array, Array]:
        apart = distance > least
        mass = jnp.where(apart, jnp.where(jnp.isinf(distance), 1, distance), 0)
        sums = jnp.cumsum(mass)
        # The first that reaches its share; one that is apart, whatever rounding does.
        chosen = jnp.argmax(
            jnp.where(apart, jnp.where(sums > share * sums[-1], 2, 1), 0)
        )
        centre = vectors[chosen]
        own = jnp.where(is_region, ((vectors - centre[None, :]) ** 2).sum(-1), 0)
        own = jnp.where(apart.any(), own, jnp.inf)  # There was nothing to draw.
        return jnp.minimum(distance, own), own

    nowhere = jnp.where(is_region, jnp.asarray(jnp.inf, vectors.dtype), 0)
    distances = jax.lax.scan(draw, nowhere, draws)[1]
    members = jax.nn.one_hot(distances.argmin(0), draws.shape[0], dtype=vectors.dtype)
    return jnp.where(is_region[:, None], members, 0)


def difference_rounding(vectors: Float[Array, "r d"]) -> Float[Array, ""]:
    """The length that rounding alone can give to a difference of such vectors."""
    longest = jnp.sqrt((vectors**2).sum(-1).max(initial=0))
    return 8 * jnp.finfo(vectors.dtype).eps * longest


CovarianceType = Literal["diagonal", "spherical"]


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


def refine_mixture(
    vectors: Float[Array, "r d"],
    mixture: Mixture,
    *,
    covariance: CovarianceType = "diagonal",
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
    check_em_settings(covariance, steps, regularization)
    check_not_downcast("vectors", vectors)
    if mixture.means.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"mixture must have the vectors' {vectors.shape[1]} dimensions, got "
            f"{mixture.means.shape[1]}."
        )
    return _refine_mixture(
        vectors, mixture, regularization, covariance=covariance, steps=steps
    )


def check_em_settings(covariance: str, steps: int, regularization: Scalar) -> None:
    """Refuses settings of `refine_mixture` outside their range."""
    if covariance not in get_args(CovarianceType):
        raise ValueError(
            f"covariance must be one of {get_args(CovarianceType)}, got {covariance!r}."
        )
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}.")
    check_in_range("regularization", regularization, low=0, high=float("inf"))


@functools.partial(jax.jit, static_argnames=("covariance", "steps"))
def _refine_mixture(vectors, mixture, regularization, *, covariance, steps):
    is_region = jnp.ones(vectors.shape[0], jnp.bool_)
    update = functools.partial(
        maximization_step, vectors, covariance=covariance, regularization=regularization
    )
    return run_em_steps(vectors, is_region, mixture, update, steps=steps)


def run_em_steps(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    start: Mixture,
    update: Callable[[Array], Mixture],
    *,
    steps: int,
) -> Mixture:
    """Improves a mixture of the rows that are used.

    Args:
        vectors: Regions of one image; finite in rows that are not used.
        is_region: Which rows are regions.
        start: Where to start.
        update: Makes a mixture of shares, see `maximization_step`.
        steps: Number of steps.

    Returns:
        The mixture after the last step, with its own likelihood.
    """

    @jax.checkpoint  # Else a gradient keeps [r, g, d] numbers of every step.
    def step(mixture, _):
        return update(component_responsibilities(vectors, is_region, mixture)), None

    # While it is improved a mixture has no likelihood.
    start = start._replace(log_likelihood=jnp.zeros((), vectors.dtype))
    found = jax.lax.scan(step, start, length=steps)[0]
    densities = jax.nn.logsumexp(_log_joint(vectors, found), axis=1)
    return found._replace(log_likelihood=jnp.where(is_region, densities, 0).sum())


def component_responsibilities(
    vectors: Float[Array, "r d"], is_region: Bool[Array, " r"], mixture: Mixture
) -> Float[Array, "r g"]:
    """Computes what share of each vector each component has; 0 in unused rows."""
    shares = jax.nn.softmax(_log_joint(vectors, mixture), axis=1)
    return jnp.where(is_region[:, None], shares, 0)


def maximization_step(
    vectors: Float[Array, "r d"],
    shares: Float[Array, "r g"],
    *,
    covariance: CovarianceType,
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
    variances = (parts[:, :, None] * _squared_differences(vectors, means)).sum(0)
    everything = total.sum()
    return Mixture(
        weights=total / jnp.where(everything == 0, 1, everything),
        means=means,
        variances=_COVARIANCE_FORMS[covariance](variances)
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
    squares = (_squared_differences(vectors, means) / variances[None]).sum(-1)
    volume = jnp.log(2 * jnp.pi * variances).sum(-1)
    return (prior - volume / 2)[None, :] - squares / 2


def _squared_differences(vectors: Array, means: Array) -> Array:
    """Squared differences along each dimension, [r, g, d].

    Multiplied out they are wrong in single precision: what rounding leaves of the
    vectors' squares may be more than the variance of regions that look alike.
    """
    return (vectors[:, None, :] - means[None, :, :]) ** 2


def _diagonal_variances(variances: Array) -> Array:
    return variances


def _spherical_variances(variances: Array) -> Array:
    return jnp.broadcast_to(variances.mean(-1, keepdims=True), variances.shape)


_COVARIANCE_FORMS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"diagonal": _diagonal_variances, "spherical": _spherical_variances}
)


def fit_mixture(
    vectors: Float[Array, "r d"],
    *,
    components: int = 5,
    key: PRNGKeyArray,
    covariance: CovarianceType = "diagonal",
    restarts: int = 5,
    steps: int = 10,
    regularization: Scalar = 3e-3,
) -> Mixture:
    r"""Fits a mixture of Gaussians to vectors.

    Each restart gives the vectors to centres drawn by k-means++ and goes on from there
    by `refine_mixture`. The mixture of most likelihood is taken; of those that are as
    likely up to rounding the first, so that rounding does not change their order.

    Differentiable in the vectors and the regularisation; which vectors are drawn and
    which restart is taken are constants to differentiation.

    Args:
        vectors: At least one.
        components: Number of components, at least 1. There are no more than vectors
            that differ: those beyond are dropped, see `Mixture`. A Python number.
        key: Of the draws.
        covariance: See `refine_mixture`.
        restarts: Number of starts, at least 1. A Python number.
        steps: See `refine_mixture`.
        regularization: See `refine_mixture`.

    Returns:
        The mixture.

    Raises:
        ValueError: If a setting is outside its range, there is no vector, or vectors
            are float64 without `jax_enable_x64`.

    References:
        See `refine_mixture`; Arthur and Vassilvitskii, k-means++: the advantages of
        careful seeding, SODA 2007.
    """
    check_mixture_settings(components, restarts)
    check_em_settings(covariance, steps, regularization)
    check_not_downcast("vectors", vectors)
    if vectors.shape[0] == 0:
        raise ValueError("vectors must be at least one, got none.")
    return _fit_mixture(
        vectors,
        key,
        regularization,
        components=components,
        covariance=covariance,
        restarts=restarts,
        steps=steps,
    )


def check_mixture_settings(components: int, restarts: int) -> None:
    """Refuses settings of `fit_mixture` outside their range."""
    for name, value in ("components", components), ("restarts", restarts):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def fit_masked_mixture(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    starts: Float[Array, "s g"],
    regularization: Scalar,
    *,
    covariance: CovarianceType,
    steps: int,
) -> Mixture:
    """Fits as `fit_mixture` to the rows that are used; the others must be zero.

    Args:
        vectors: Regions of one image.
        is_region: Which rows are regions; without any, all weights are 0.
        starts: What `kmeans_plus_plus_memberships` needs, a row for each of s restarts.
        regularization: See `refine_mixture`.
        covariance: See `refine_mixture`.
        steps: See `refine_mixture`.
    """
    update = functools.partial(
        maximization_step, vectors, covariance=covariance, regularization=regularization
    )

    def attempt(draws):
        members = kmeans_plus_plus_memberships(vectors, is_region, draws)
        return run_em_steps(vectors, is_region, update(members), update, steps=steps)

    found = jax.vmap(attempt)(starts)
    likelihood = found.log_likelihood
    best = likelihood.max()
    slack = 100 * jnp.finfo(vectors.dtype).eps * jnp.abs(best)
    taken = jnp.argmax(likelihood >= best - slack)
    return jax.tree.map(lambda part: part[taken], found)


@functools.partial(
    jax.jit, static_argnames=("components", "covariance", "restarts", "steps")
)
def _fit_mixture(
    vectors, key, regularization, *, components, covariance, restarts, steps
):
    starts = jax.random.uniform(key, (restarts, components), vectors.dtype)
    is_region = jnp.ones(vectors.shape[0], jnp.bool_)
    return fit_masked_mixture(
        vectors, is_region, starts, regularization, covariance=covariance, steps=steps
    )
