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

CovarianceType = Literal["diagonal", "spherical"]


class Mixture(NamedTuple):
    """A mixture of Gaussians with diagonal covariances.

    A component that was dropped has weight 0 and mean 0.

    Attributes:
        weights: Weight of each component, of sum 1.
        means: Mean of each component.
        variances: Variance of each component along each dimension, with
            `regularization`; all the same where covariances are spherical.
        log_likelihood: Natural logarithm of the density of all vectors together.
    """

    weights: Float[Array, " g"]
    means: Float[Array, "g d"]
    variances: Float[Array, "g d"]
    log_likelihood: Float[Array, ""]


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
    r"""Fits a Gaussian mixture p(x) = sum over j of w_j N(x; m_j, diag(v_j)).

    Each restart assigns the vectors to centres drawn by k-means++ and improves the
    mixture of these assignments by EM. An EM step computes the responsibilities
    s_ij = w_j N(x_i; m_j, diag(v_j)) / p(x_i) and from them w_j = mean over i of s_ij,
    m_j = sum of s_ij x_i / sum of s_ij, and v_j, the variance about m_j with the same
    weights, plus `regularization`. No step lowers the likelihood by more than adding
    the regularisation costs. A component whose responsibilities sum to rounding is
    dropped for good.

    The restart of largest likelihood is returned; of restarts that are as likely up to
    rounding the first, so that rounding does not change their order.

    Differentiable in the vectors and the regularisation; the drawn centres and the
    chosen restart are constants to differentiation.

    Args:
        vectors: Vectors to describe, at least one.
        components: Number of components, at least 1. Components beyond the number of
            different vectors are dropped, see `Mixture`. A Python number.
        key: Random key of the draws.
        covariance: "diagonal", a variance for each dimension; "spherical", their mean
            for all dimensions.
        restarts: Number of starts, at least 1. A Python number.
        steps: Number of EM steps, at least 0; all of them are done. A Python number.
        regularization: Added to each variance, above 0, in squared units of the
            vectors; may be traced and differentiated. (Vectors of unit length and d
            dimensions have variances of at most 1/d on average.)

    Returns:
        The mixture.

    Raises:
        ValueError: If a setting is outside its range, there is no vector, or vectors
            are float64 without `jax_enable_x64`.

    References:
        Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
        algorithm, J. R. Stat. Soc. B 39(1), 1977. Arthur and Vassilvitskii, k-means++:
        the advantages of careful seeding, SODA 2007. `regularization` is what
        scikit-learn calls `reg_covar`.
    """
    check_mixture_settings(components, restarts, covariance, steps, regularization)
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


def check_mixture_settings(
    components: int,
    restarts: int,
    covariance: str,
    steps: int,
    regularization: Scalar,
) -> None:
    """Refuses settings of `fit_mixture` outside their range."""
    for name, value in ("components", components), ("restarts", restarts):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if covariance not in get_args(CovarianceType):
        raise ValueError(
            f"covariance must be one of {get_args(CovarianceType)}, got {covariance!r}."
        )
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}.")
    check_in_range("regularization", regularization, low=0, high=float("inf"))


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


def fit_masked_mixture(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    starts: Float[Array, "s g"],
    regularization: Scalar,
    *,
    covariance: CovarianceType,
    steps: int,
) -> Mixture:
    """Fits a mixture to the rows that are regions, as `fit_mixture` does.

    Args:
        vectors: Regions of one image; zero in padding rows.
        is_region: Which rows are regions; without any, all weights are 0.
        starts: Draws of `kmeans_plus_plus_memberships`, a row for each of s restarts.
        regularization: See `fit_mixture`.
        covariance: See `fit_mixture`.
        steps: See `fit_mixture`.
    """
    update = functools.partial(
        maximization_step, vectors, covariance=covariance, regularization=regularization
    )

    def fit_from(draws):
        members = kmeans_plus_plus_memberships(vectors, is_region, draws)
        return run_em_steps(vectors, is_region, update(members), update, steps=steps)

    mixtures = jax.vmap(fit_from)(starts)
    likelihood = mixtures.log_likelihood
    best = likelihood.max()
    slack = 100 * jnp.finfo(vectors.dtype).eps * jnp.abs(best)
    chosen = jnp.argmax(likelihood >= best - slack)
    return jax.tree.map(lambda leaf: leaf[chosen], mixtures)


def kmeans_plus_plus_memberships(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    draws: Float[Array, " g"],
) -> Float[Array, "r g"]:
    r"""Assigns every region to the nearest of g centres, drawn by k-means++.

    The first centre is a region drawn uniformly, each next one a region drawn with
    probability proportional to the squared distance from the nearest centre so far. A
    component beyond the number of different regions has no members.

    Args:
        vectors: Regions of one image; zero in padding rows.
        is_region: Which rows are regions; the others are never drawn and belong to no
            component.
        draws: A uniform number in [0, 1) for each centre: that share of the
            probability lies before the region that is drawn.

    Returns:
        1 where a region belongs to a component, else 0; a constant to differentiation.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA
        2007.
    """
    vectors = jax.lax.stop_gradient(vectors)
    min_square = difference_rounding(vectors) ** 2

    def draw_next_centre(nearest_squares: Array, share: Array) -> tuple[Array, Array]:
        is_apart = nearest_squares > min_square
        mass = jnp.where(
            is_apart, jnp.where(jnp.isinf(nearest_squares), 1, nearest_squares), 0
        )
        sums = jnp.cumsum(mass)
        # The first that reaches its share; one that is apart, whatever rounding does.
        chosen = jnp.argmax(
            jnp.where(is_apart, jnp.where(sums > share * sums[-1], 2, 1), 0)
        )
        centre = vectors[chosen]
        squares = jnp.where(is_region, ((vectors - centre[None, :]) ** 2).sum(-1), 0)
        squares = jnp.where(is_apart.any(), squares, jnp.inf)  # No region was left.
        return jnp.minimum(nearest_squares, squares), squares

    before_any = jnp.where(is_region, jnp.asarray(jnp.inf, vectors.dtype), 0)
    squares = jax.lax.scan(draw_next_centre, before_any, draws)[1]
    members = jax.nn.one_hot(squares.argmin(0), draws.shape[0], dtype=vectors.dtype)
    return jnp.where(is_region[:, None], members, 0)


def difference_rounding(vectors: Float[Array, "r d"]) -> Float[Array, ""]:
    """Bounds the length that rounding alone can give to a difference of vectors."""
    longest = jnp.sqrt((vectors**2).sum(-1).max(initial=0))
    return 8 * jnp.finfo(vectors.dtype).eps * longest


def run_em_steps(
    vectors: Float[Array, "r d"],
    is_region: Bool[Array, " r"],
    start: Mixture,
    update: Callable[[Array], Mixture],
    *,
    steps: int,
) -> Mixture:
    """Improves a mixture by EM steps on the rows that are regions.

    Args:
        vectors: Regions of one image; finite in padding rows.
        is_region: Which rows are regions.
        start: Mixture to start from; its `log_likelihood` is not used.
        update: Makes a mixture of responsibilities, see `maximization_step`.
        steps: Number of steps.

    Returns:
        The mixture after the last step, with its likelihood.
    """

    @jax.checkpoint  # Else a gradient keeps [r, g, d] numbers of every step.
    def take_em_step(mixture, _):
        return update(component_responsibilities(vectors, is_region, mixture)), None

    # The likelihood is computed once, after the last step.
    start = start._replace(log_likelihood=jnp.zeros((), vectors.dtype))
    mixture = jax.lax.scan(take_em_step, start, length=steps)[0]
    densities = jax.nn.logsumexp(_log_joint(vectors, mixture), axis=1)
    return mixture._replace(log_likelihood=jnp.where(is_region, densities, 0).sum())


def component_responsibilities(
    vectors: Float[Array, "r d"], is_region: Bool[Array, " r"], mixture: Mixture
) -> Float[Array, "r g"]:
    """Computes the responsibility of each component for each vector; 0 in padding."""
    responsibilities = jax.nn.softmax(_log_joint(vectors, mixture), axis=1)
    return jnp.where(is_region[:, None], responsibilities, 0)


def maximization_step(
    vectors: Float[Array, "r d"],
    responsibilities: Float[Array, "r g"],
    *,
    covariance: CovarianceType,
    regularization: Scalar,
) -> Mixture:
    """Computes the most likely mixture for responsibilities, then regularises it.

    Without any responsibilities all weights are 0. The likelihood is not computed.
    """
    total = responsibilities.sum(0)
    # A dropped component takes no more from the log-likelihood than its total. Not
    # "is above": NaN is no reason to drop one.
    is_alive = ~(total <= 10 * jnp.finfo(vectors.dtype).eps)
    total = jnp.where(is_alive, total, 0)
    sizes = jnp.where(is_alive, total, 1)[None, :]
    shares = jnp.where(is_alive[None, :], responsibilities / sizes, 0)
    means = jnp.matmul(shares.T, vectors, precision=jax.lax.Precision.HIGHEST)
    variances = (shares[:, :, None] * _squared_differences(vectors, means)).sum(0)
    grand_total = total.sum()
    return Mixture(
        weights=total / jnp.where(grand_total == 0, 1, grand_total),
        means=means,
        variances=_COVARIANCE_FORMS[covariance](variances)
        + jnp.asarray(regularization, vectors.dtype),
        log_likelihood=jnp.zeros((), vectors.dtype),
    )


def _log_joint(vectors: Array, mixture: Mixture) -> Array:
    """Computes the logarithms of w_j N(x_i; m_j, diag(v_j)), [r, g]."""
    weights, means, variances, _ = mixture
    is_alive = weights > 0
    # Finite: where no component is alive, infinity minus infinity would be NaN.
    lowest = jnp.finfo(vectors.dtype).min / 2
    prior = jnp.where(is_alive, jnp.log(jnp.where(is_alive, weights, 1)), lowest)
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
