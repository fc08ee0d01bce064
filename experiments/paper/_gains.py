"""Where regional diffusion gains on global diffusion, positive by positive."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.ranking import rank
from experiments._collections import Collection

from ._methods import method_scores


class Gains(NamedTuple):
    """Every positive of every query, ranked by both methods.

    Attributes:
        query: Its query.
        image: The positive.
        ranks: Its 0-based ranks by global and by regional diffusion, junk taken out.
        precision: Precision down to those ranks.
        average_precision: Of every query, by both.
    """

    query: Int[np.ndarray, " p"]
    image: Int[np.ndarray, " p"]
    ranks: Int[np.ndarray, "p 2"]
    precision: Float[np.ndarray, "p 2"]
    average_precision: Float[np.ndarray, "q 2"]


def measure_gains(
    collection: Collection, *, k: int, global_k: int, global_query_k: int
) -> Gains:
    """Ranks every positive by global and by regional diffusion.

    Args:
        collection: The benchmark.
        k: Neighbours in the graph of regions, and of the query.
        global_k: Neighbours in the graph of images.
        global_query_k: Neighbours of the query's global descriptor.

    Returns:
        The positives of all queries, one query after the other.
    """
    by_image = {"k": global_k, "query_k": global_query_k}
    by_region = {"k": k, "query_k": k}
    both = (
        method_scores("global diffusion", collection, **by_image),
        method_scores("regional diffusion", collection, **by_region),
    )
    orders = [np.asarray(rank(scores)) for scores in both]
    query, image, ranks, precision = [], [], [], []
    truth = collection.truth
    for number in range(collection.num_queries):
        positives = np.asarray(truth.positives[number], np.int64)
        pairs = [
            _ranks(order[:, number], positives, np.asarray(truth.junk[number], int))
            for order in orders
        ]
        query.append(np.full(len(positives), number))
        image.append(positives)
        ranks.append(np.stack([places for places, _ in pairs], 1))
        precision.append(np.stack([shares for _, shares in pairs], 1))
    return Gains(
        query=np.concatenate(query),
        image=np.concatenate(image),
        ranks=np.concatenate(ranks),
        precision=np.concatenate(precision),
        average_precision=np.stack([collection.precision(s) for s in both], 1),
    )


def _ranks(
    order: Int[np.ndarray, " m"],
    positives: Int[np.ndarray, " p"],
    junk: Int[np.ndarray, " j"],
) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Rank of every positive without junk, and the precision down to it."""
    kept = order[~np.isin(order, junk)]
    place = np.zeros(len(order), np.int64)
    place[kept] = np.arange(len(kept))
    ranks = place[positives]
    # How many positives stand at or before each.
    before = np.argsort(np.argsort(ranks)) + 1
    return ranks, before / (ranks + 1)
