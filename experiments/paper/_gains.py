"""Gains of regional over global diffusion, positive by positive."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.ranking import rank
from experiments._collections import Collection

from ._methods import method_scores

COMPARED = "global diffusion", "regional diffusion"


class Gains(NamedTuple):
    """Ranks and precision of every positive of every query by both methods.

    Attributes:
        query: Query of each positive.
        image: Image of each positive.
        ranks: 0-based ranks by global and by regional diffusion, junk left out.
        precision: Precision down to those ranks.
        average_precision: Average precision of every query by both methods.
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
    settings = {"k": global_k, "query_k": global_query_k}, {"k": k, "query_k": k}
    scores = [
        method_scores(method, collection, **chosen)
        for method, chosen in zip(COMPARED, settings, strict=True)
    ]
    orders = [np.asarray(rank(columns)) for columns in scores]
    query, image, ranks, precision = [], [], [], []
    truth = collection.truth
    for number in range(collection.num_queries):
        positives = np.asarray(truth.positives[number], np.int64)
        both = [
            _rank_positives(
                order[:, number], positives, np.asarray(truth.junk[number], int)
            )
            for order in orders
        ]
        query.append(np.full(len(positives), number))
        image.append(positives)
        ranks.append(np.stack([method.ranks for method in both], 1))
        precision.append(np.stack([method.precision for method in both], 1))
    return Gains(
        query=np.concatenate(query),
        image=np.concatenate(image),
        ranks=np.concatenate(ranks),
        precision=np.concatenate(precision),
        average_precision=np.stack([collection.precision(s) for s in scores], 1),
    )


def entries_of_both(collection: Collection, gains: Gains) -> list[dict[str, Any]]:
    """Makes entries of global and of regional diffusion, with their difference.

    Args:
        collection: The benchmark.
        gains: From `measure_gains`.
    """
    by_image, by_region = gains.average_precision.T
    return [
        collection.make_entry(COMPARED[0], by_image),
        collection.make_entry(
            COMPARED[1], by_region, against=[(COMPARED[0], by_image)]
        ),
    ]


class _RankedPositives(NamedTuple):
    """Positives of a query by one method.

    Attributes:
        ranks: 0-based rank of every positive, junk left out.
        precision: Precision down to that rank.
    """

    ranks: Int[np.ndarray, " p"]
    precision: Float[np.ndarray, " p"]


def _rank_positives(
    order: Int[np.ndarray, " m"],
    positives: Int[np.ndarray, " p"],
    junk: Int[np.ndarray, " j"],
) -> _RankedPositives:
    """Ranks positives without junk."""
    without_junk = order[~np.isin(order, junk)]
    rank_of_image = np.zeros(len(order), np.int64)
    rank_of_image[without_junk] = np.arange(len(without_junk))
    ranks = rank_of_image[positives]
    # Number of positives down to each.
    count = np.argsort(np.argsort(ranks)) + 1
    return _RankedPositives(ranks, count / (ranks + 1))
