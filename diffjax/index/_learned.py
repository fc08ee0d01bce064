"""An index with parameters that were learned on it."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.types import Whitening

from ._build import make_parts
from ._storage import Parts

if TYPE_CHECKING:
    from diffjax.learning import Parameters

_SETTINGS = "alpha", "gamma", "lam", "query_gamma", "bias"


def apply_parameters(parts: Parts, parameters: "Parameters") -> Parts:
    """Puts learned parameters in the place of settings; see `Index.with_parameters`."""
    # Learning takes optax along, which a search without parameters does not need.
    from diffjax.learning import check_parameters, project_vectors  # noqa: PLC0415

    check_parameters(parameters)
    for name in ("scale_weights", "mixture"):
        if getattr(parameters, name) is not None:
            raise ValueError(
                f"parameters must be of one graph without weights of scales for an "
                f"index, got {name}: learning.score_images takes them."
            )
    found = {name: getattr(parameters, name) for name in _SETTINGS}
    given = {name: float(value) for name, value in found.items() if value is not None}
    config = dataclasses.replace(parts.config, **{"query_gamma": None, **given})
    if parameters.projection is None:
        return parts._replace(config=config, rows=None)
    dim = parts.vectors.shape[1]
    if parameters.projection.shape[1] != dim:
        raise ValueError(
            f"projection must be of the {dim} dimensions of the index, got "
            f"{parameters.projection.shape[1]}: were the parameters learned on another?"
        )
    projection = jnp.asarray(parameters.projection, parts.vectors.dtype)
    return make_parts(
        project_vectors(parts.vectors, projection),
        parts.image_ids,
        config=config,
        neighbors=None,
        pictures=parts.pictures,
        whitening=_then(parts.whitening, projection),
        prepared=True,
        boxes=parts.boxes,
    )


def fingerprint(
    vectors: Float[Array, "n p"],
    image_ids: Int[np.ndarray, " n"],
    whitening: Whitening | None,
) -> str:
    """Hashes what is learned on: vectors, their images, and how queries are whitened.

    Args:
        vectors: Region vectors.
        image_ids: Image of every region.
        whitening: What queries go through; None for nothing.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in (vectors, np.asarray(image_ids, np.int64), *(whitening or ())):
        host = np.ascontiguousarray(part)
        digest.update(f"{host.dtype} {host.shape}".encode())
        digest.update(host.data)
    return digest.hexdigest()


def _then(whitening: Whitening | None, projection: Float[Array, "p d"]) -> Whitening:
    """One map for both; lengths in between do not matter, made 1 at the end."""
    if whitening is None:
        mean = jnp.zeros(projection.shape[1], projection.dtype)
        return Whitening(mean=mean, projection=projection.T)
    both = jnp.matmul(whitening.projection, projection.T, precision="highest")
    return whitening._replace(projection=both)
