"""NetVLAD: sums of differences from cluster centres, cluster by cluster."""

from typing import NamedTuple

import faiss
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_vectors

from ._region_pooling import l2_normalize

_KMEANS_STEPS = 100  # As in the authors' program.
# Mean ratio of a descriptor's two largest assignments, as in the authors' program.
_ASSIGNMENT_RATIO = 100


class NetVLAD(NamedTuple):
    """Parameters of a NetVLAD layer; all can be learned.

    Attributes:
        centres: Cluster centres c_k, subtracted from the descriptors.
        weights: w_k of the assignment.
        biases: b_k of the assignment; zeros for a layer trained without biases.
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
    length, and so is their concatenation, cluster after cluster.

    Args:
        maps: Feature maps; a cell of zeros has no direction and stays zero.
        mask: The cells to use.
        layer: From `fit_netvlad`, or learned.

    Returns:
        One vector of unit length per map, all channels of one cluster after those of
        another (the authors' program stores clusters within channels); zeros where the
        mask has no cell.

    References:
        Arandjelovic, Gronat, Torii, Pajdla and Sivic, NetVLAD: CNN architecture for
        weakly supervised place recognition, CVPR 2016,
        https://arxiv.org/abs/1511.07247. Cited without an equation number; the two
        normalisations are those of the authors' program.
    """
    exact = jax.lax.Precision.HIGHEST
    local = l2_normalize(jnp.where(mask[..., None], maps, 0))
    logits = jnp.einsum("bhwc,kc->bhwk", local, layer.weights, precision=exact)
    assignments = jax.nn.softmax(logits + layer.biases[None, None, None], axis=-1)
    assignments = jnp.where(mask[..., None], assignments, 0)
    sums = jnp.einsum("bhwk,bhwc->bkc", assignments, local, precision=exact)
    masses = assignments.sum((1, 2))
    differences = l2_normalize(sums - masses[..., None] * layer.centres[None])
    return l2_normalize(differences.reshape(len(maps), -1))


def fit_netvlad(
    descriptors: Float[Array | np.ndarray, "n c"], *, clusters: int, seed: int = 0
) -> NetVLAD:
    r"""Initialises a NetVLAD layer from local descriptors, by k-means.

    The centres c_k are those of k-means on the descriptors scaled to unit length, w_k =
    2 alpha c_k and b_k = -alpha |c_k|^2, so that a_ik is proportional to exp(-alpha
    |x_i - c_k|^2). alpha = log(100) / mean_i(d_i2 - d_i1), d being squared distances to
    the two nearest centres: the nearest gets 100 times the share of the next.

    Args:
        descriptors: Cells of feature maps, of any length but zero; all are used, so
            draw a sample before (the authors draw 50,000 for 64 clusters).
        clusters: Number of clusters k, at least 2.
        seed: Random seed of the centres that k-means starts from.

    Returns:
        The layer, in the descriptors' type.

    Raises:
        ValueError: If `clusters` is below 2 or above the number of different
            descriptors, or if a descriptor is zero or not finite.

    References:
        Arandjelovic et al., CVPR 2016, https://arxiv.org/abs/1511.07247. The authors'
        program (`addLayers.m`) has two initialisations: this is the one with biases,
        which they say follows the paper; their experiments use the other.
    """
    if clusters < 2:
        raise ValueError(f"clusters must be at least 2, got {clusters}.")
    check_vectors("descriptors", descriptors)
    local = np.asarray(l2_normalize(jnp.asarray(descriptors)))
    num_different = len(np.unique(local, axis=0))
    if clusters > num_different:
        raise ValueError(
            f"clusters must be at most {num_different}, the number of different "
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
    squared_distances, _ = kmeans.index.search(single, 2)
    gaps = squared_distances[:, 1] - squared_distances[:, 0]
    alpha = np.log(_ASSIGNMENT_RATIO) / np.mean(gaps, dtype=np.float64)
    centres = np.asarray(kmeans.centroids, np.float64)
    parameters = centres, 2 * alpha * centres, -alpha * (centres**2).sum(1)
    return NetVLAD(*(jnp.asarray(x.astype(local.dtype)) for x in parameters))
