"""Arrays that travel between the steps of a retrieval."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.diffusion import OfflineRows
from diffjax.graph import Clusters, Components
from diffjax.types import Graph

# Reads vectors from one node to another, in single precision.
ReadVectors = Callable[[int, int], Float[np.ndarray, "b p"]]


class Collection(NamedTuple):
    """Arrays of a collection that a search reads.

    Nodes are the regions in the order in which they are stored: that of their clusters,
    or one in which neighbours lie near each other in memory.

    Attributes:
        vectors: Unit vectors of the nodes; None where only `read_vectors` has them.
        graph: Normalised graph S on the nodes.
        image_ids: Image of every region, from 0 upwards; None if each is an image.
        num_images: Number of images m.
        weights: Pooling weight of every node; None is sum pooling.
        order: Region of every node; None where nodes are numbered as regions.
        inverse_order: Node of every region; None where nodes are numbered as regions.
        image_starts: First region of every image, and the end: m + 1.
        read_vectors: Reader of the vectors of consecutive nodes.
        clusters: Clusters in which candidates are searched, if there are any.
        components: Connected components of the graph, for local solves.
        max_degree: Most entries of any row of the graph, for local solves.
        descriptors: Global descriptors of the images, for short lists.
        offline_rows: Solutions that were made beforehand, for offline diffusion.
    """

    vectors: Float[Array, "n p"] | None
    graph: Graph
    image_ids: Int[Array, " n"] | None
    num_images: int
    weights: Float[Array, " n"] | None = None
    order: Int[np.ndarray, " n"] | None = None
    inverse_order: Int[Array, " n"] | None = None
    image_starts: Int[np.ndarray, " starts"] | None = None
    read_vectors: ReadVectors | None = None
    clusters: Clusters | None = None
    components: Components | None = None
    max_degree: int = 0
    descriptors: Float[Array, "m p"] | None = None
    offline_rows: OfflineRows | None = None


class Seeds(NamedTuple):
    """Right-hand sides of the diffusion, dense or sparse.

    Attributes:
        values: Dense right-hand sides [n, q], or values [q, s] on `nodes`.
        nodes: Nodes of sparse values, -1 in empty slots; None of dense ones.
    """

    values: Float[Array | np.ndarray, "a b"]
    nodes: Int[Array | np.ndarray, "q s"] | None = None


class ShortlistedNodes(NamedTuple):
    """Images that the diffusion of each query is limited to, and their nodes.

    Attributes:
        images: Image numbers, best global similarity first.
        nodes: Nodes of these images, -1 in empty slots.
        similarities: Global similarity of all images.
    """

    images: Int[Array, "q l"]
    nodes: Int[Array, "q t"]
    similarities: Float[Array, "m q"]


class ReachedImages(NamedTuple):
    """Scores of the images that a local solve reaches, for one query.

    Attributes:
        images: Image numbers, ascending.
        scores: Their pooled scores.
        contributions: What each of their regions adds, one image after the other.
        regions: These regions.
    """

    images: Int[np.ndarray, " c"]
    scores: Float[np.ndarray, " c"]
    contributions: Float[np.ndarray, " r"]
    regions: Int[np.ndarray, " r"]
