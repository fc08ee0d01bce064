"""Where the fit of a mixture starts: regions drawn far from each other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


def seed_components(
    vectors: Float[Array, "r d"],
    used: Bool[Array, " r"],
    key: PRNGKeyArray,
    *,
    components: int,
) -> Float[Array, "r g"]:
    r"""Gives every region to the nearest of a few of them, drawn by k-means++.

    The first centre is a region drawn evenly, each next one a region drawn with
    probability proportional to the squared distance from the nearest centre so far. A
    component beyond the regions that differ has no members.

    Args:
        vectors: Regions of one image; zero in rows that are not used.
        used: Which rows are regions; the others are never drawn and belong to nobody.
        key: Of the draws. A centre depends neither on how many are drawn after it nor
            on how many rows are not used.
        components: Number of centres. A Python number.

    Returns:
        1 where a region belongs to a component, else 0; a constant to differentiation.

    References:
        Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, SODA
        2007.
    """
    vectors = jax.lax.stop_gradient(vectors)
    slots = jnp.arange(vectors.shape[0])
    least = rounding(vectors) ** 2

    def draw(distance, number):
        # A key for each row: with one for all, what a row gets may depend on how many
        # rows there are.
        draws = jax.random.fold_in(key, number)
        keys = jax.vmap(lambda slot: jax.random.fold_in(draws, slot))(slots)
        noise = jax.vmap(lambda own: jax.random.gumbel(own, dtype=vectors.dtype))(keys)
        apart = distance > least
        logits = jnp.where(apart, jnp.log(jnp.where(apart, distance, 1)), -jnp.inf)
        centre = vectors[jnp.argmax(logits + noise)]
        own = jnp.where(used, ((vectors - centre[None, :]) ** 2).sum(-1), 0)
        own = jnp.where(apart.any(), own, jnp.inf)  # There was nothing to draw.
        return jnp.minimum(distance, own), own

    nowhere = jnp.where(used, jnp.finfo(vectors.dtype).max, 0)
    distances = jax.lax.scan(draw, nowhere, jnp.arange(components))[1]
    members = jax.nn.one_hot(distances.argmin(0), components, dtype=vectors.dtype)
    return jnp.where(used[:, None], members, 0)


def rounding(vectors: Float[Array, "r d"]) -> Float[Array, ""]:
    """The length that rounding alone can give to a difference of such vectors."""
    longest = jnp.sqrt((vectors**2).sum(-1).max(initial=0))
    return 8 * jnp.finfo(vectors.dtype).eps * longest
