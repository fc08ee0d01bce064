"""Where the fit of a mixture starts: regions drawn far from each other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def seed_components(
    vectors: Float[Array, "r d"],
    used: Bool[Array, " r"],
    draws: Float[Array, " g"],
) -> Float[Array, "r g"]:
    r"""Gives every region to the nearest of a few of them, drawn by k-means++.

    The first centre is a region drawn evenly, each next one a region drawn with
    probability proportional to the squared distance from the nearest centre so far. A
    component beyond the regions that differ has no members.

    Args:
        vectors: Regions of one image; zero in rows that are not used.
        used: Which rows are regions; the others are never drawn and belong to nobody.
        draws: A number for each centre, drawn evenly from [0, 1): that share of the
            probability lies before the region that is drawn.

    Returns:
        1 where a region belongs to a component, else 0; a constant to differentiation.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA
        2007.
    """
    vectors = jax.lax.stop_gradient(vectors)
    least = rounding(vectors) ** 2

    def draw(distance: Array, share: Array) -> tuple[Array, Array]:
        apart = distance > least
        mass = jnp.where(apart, jnp.where(jnp.isinf(distance), 1, distance), 0)
        sums = jnp.cumsum(mass)
        # The first that reaches its share; one that is apart, whatever rounding does.
        chosen = jnp.argmax(
            jnp.where(apart, jnp.where(sums > share * sums[-1], 2, 1), 0)
        )
        centre = vectors[chosen]
        own = jnp.where(used, ((vectors - centre[None, :]) ** 2).sum(-1), 0)
        own = jnp.where(apart.any(), own, jnp.inf)  # There was nothing to draw.
        return jnp.minimum(distance, own), own

    nowhere = jnp.where(used, jnp.asarray(jnp.inf, vectors.dtype), 0)
    distances = jax.lax.scan(draw, nowhere, draws)[1]
    members = jax.nn.one_hot(distances.argmin(0), draws.shape[0], dtype=vectors.dtype)
    return jnp.where(used[:, None], members, 0)


def rounding(vectors: Float[Array, "r d"]) -> Float[Array, ""]:
    """The length that rounding alone can give to a difference of such vectors."""
    longest = jnp.sqrt((vectors**2).sum(-1).max(initial=0))
    return 8 * jnp.finfo(vectors.dtype).eps * longest
