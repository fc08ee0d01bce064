"""NetVLAD: differences from cluster centres, summed cluster by cluster."""

from typing import NamedTuple

import faiss
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_vectors

from ._region_pooling import l2_normalize

_KMEANS_STEPS = 100  # Of k-means, as in the authors' program.
_ASSIGNMENT_RATIO = (
    100  # Of the two largest assignments of a descriptor, on average, likewise.
)


class NetVLAD(NamedTuple):
    """The parameters of a NetVLAD layer; all may be learned.

    Attributes:
        centres: Cluster centres c_k that differences are taken from.
        weights: w_k of the assignment.
        biases: b_k of the assignment; zeros where a layer was trained without.
    """

    centres: Float[Array, "k c"]
    weights: Float[Array, "k c"]
    biases: Float[Array, " k"]


def netvlad(
    maps: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, layer: NetVLAD
) -> Float[Array, "b kc"]:
    r"""Sums differences of local descriptors from the centres they are assigned to.

    With x_i the cells scaled to unit length, V_k = sum_i a_ik (x_i - c_k), where a_ik =
    exp(w_k' x_i + b_k) / sum_k' exp(w_k'' x_i + b_k'). Every V_k is scaled to unit
    length, and so is the vector of all of them, cluster after cluster.

    Args:
        maps: Feature maps; a cell of zeros has no direction and stays zero.
        mask: The cells to use.
        layer: From `fit_netvlad`, or learned.

    Returns:
        One vector of unit length per map, the channels of one cluster after those of
        another (the authors' program has it the other way round); zeros where the mask
        has no cell.

    References:
        Arandjelovic, Gronat, Torii, Pajdla and Sivic, NetVLAD: CNN architecture for
        weakly supervised place recognition, CVPR 2016,
        https://arxiv.org/abs/1511.07247. Cited without a number; the two
        normalisations are those of the authors' program.
    """
    exact = jax.lax.Precision.HIGHEST
    local = l2_normalize(jnp.where(mask[..., None], maps, 0))
    logits = jnp.einsum("bhwc,kc->bhwk", local, layer.weights, precision=exact)
    assigned = jax.nn.softmax(logits + layer.biases[None, None, None], axis=-1)
    assigned = jnp.where(mask[..., None], assigned, 0)
    sums = jnp.einsum("bhwk,bhwc->bkc", assigned, local, precision=exact)
    masses = assigned.sum((1, 2))
    differences = l2_normalize(sums - masses[..., None] * layer.centres[None])
    return l2_normalize(differences.reshape(len(maps), -1))


def fit_netvlad(
    descriptors: Float[Array | np.ndarray, "n c"], *, clusters: int, seed: int = 0
) -> NetVLAD:
    r"""Starts a NetVLAD layer from local descriptors, by k-means.

    The centres c_k are those of k-means on the descriptors scaled to unit length, w_k =
    2 alpha c_k and b_k = -alpha |c_k|^2, so that a_ik is proportional to exp(-alpha
    |x_i - c_k|^2). alpha = log(100) / mean_i(d_i2 - d_i1), d being squared distances to
    the two nearest centres: the nearest gets 100 times the share of the next.

    Args:
        descriptors: Cells of feature maps, of any length but zero; all are used, so
            draw a sample before (the authors draw 50,000 for 64 clusters).
        clusters: Number of clusters k, at least 2.
        seed: Of the centres that k-means starts from.

    Returns:
        The layer, in the descriptors' type.

    Raises:
        ValueError: If `clusters` is below 2 or above the number of different
            descriptors, or if a descriptor is zero or not finite.

    References:
        Arandjelovic et al., CVPR 2016, https://arxiv.org/abs/1511.07247. Of the two
        starting points in the authors' program (`addLayers.m`) this is the one with
        biases, which they say follows the paper; their experiments use the other.
    """
    if clusters < 2:
        raise ValueError(f"clusters must be at least 2, got {clusters}.")
    check_vectors("descriptors", descriptors)
    local = np.asarray(l2_normalize(jnp.asarray(descriptors)))
    different = len(np.unique(local, axis=0))
    if clusters > different:
        raise ValueError(
            f"clusters must be at most {different}, the number of different "
            f"descriptors, got {clusters}."
        )
    single = np.ascontiguousarray(local, np.float32)
    kmeans = faiss.Kmeans(
        single.shape[1],
        clusters,
        niter=_KMEANS_STEPS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(single),
    )
    kmeans.train(single)
    squares, _ = kmeans.index.search(single, 2)
    alpha = np.log(_ASSIGNMENT_RATIO) / np.mean(
        squares[:, 1] - squares[:, 0], dtype=np.float64
    )
    centres = np.asarray(kmeans.centroids, np.float64)
    parts = centres, 2 * alpha * centres, -alpha * (centres**2).sum(1)
    return NetVLAD(*(jnp.asarray(part.astype(local.dtype)) for part in parts))
