"""Settings chosen on half of the objects and tested on queries for the other half."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Tuned(NamedTuple):
    """A method at settings that were chosen without the queries it is tested on.

    Attributes:
        precision: Average precision of every query, at the settings that are best for
            the other half's queries.
        chosen: The number of the settings that each half was tested with.
    """

    precision: Float[np.ndarray, " q"]
    chosen: tuple[int, int]


def halve(objects: Sequence[Hashable], *, seed: int = 0) -> Bool[np.ndarray, " q"]:
    """Draws half of the objects; queries of one object fall on the same side.

    Args:
        objects: What each query shows.
        seed: Of the draw.

    Returns:
        Per query whether its object is in the second half.

    Raises:
        ValueError: If there are fewer than two objects.
    """
    names = sorted(set(map(str, objects)))
    if len(names) < 2:
        raise ValueError(
            f"objects must be two or more to be halved, got {len(names)}: settings "
            "can't be chosen on one and tested on another."
        )
    drawn = np.random.default_rng(seed).permutation(len(names)) % 2 == 1
    side = dict(zip(names, drawn.tolist(), strict=True))
    return np.array([side[str(name)] for name in objects])


def tune(precision: Float[np.ndarray, "c q"], second: Bool[np.ndarray, " q"]) -> Tuned:
    """Tests each half of the queries at the settings that are best for the other.

    Args:
        precision: Average precision by settings and query; NaN where a query has no
            positives.
        second: Per query whether it is in the second half.

    Returns:
        Every query, tested; of settings that tie, the first.
    """
    best = tuple(
        int(np.argmax(np.nanmean(precision[:, learned], axis=1)))
        for learned in (second, ~second)
    )
    chosen = best[0], best[1]
    return Tuned(np.where(second, precision[chosen[1]], precision[chosen[0]]), chosen)
