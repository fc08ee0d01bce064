"""Settings chosen on half of the objects and tested on queries for the other half."""

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from experiments._collections import Collection, Outcome

from ._methods import method_outcome


class TunedMethod(NamedTuple):
    """A method at settings that were chosen without the queries it is tested on.

    Attributes:
        outcome: How good its answers are, at the settings that are best for the other
            half's queries.
        untuned_precision: Average precision of every query at the first settings.
        chosen: The settings that the halves were tested with, alike ones once.
        tried: How many settings there were.
    """

    outcome: Outcome
    untuned_precision: Float[np.ndarray, " q"]
    chosen: tuple[Mapping[str, Any], ...]
    tried: int

    @property
    def settings_text(self) -> str:
        """The settings that were chosen, in words."""
        return "; ".join(
            ", ".join(f"{key} {value}" for key, value in one.items())
            for one in self.chosen
        )


def halve_objects(
    objects: Sequence[Hashable], *, seed: int = 0
) -> Bool[np.ndarray, " q"]:
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


def tune_method(
    name: str,
    collection: Collection,
    second: Bool[np.ndarray, " q"],
    *,
    choices: Sequence[Mapping[str, Any]],
    always: Mapping[str, Any] = MappingProxyType({}),
) -> TunedMethod:
    """Tests each half of the queries at the settings that are best for the other.

    Args:
        name: A method, one of `METHODS`.
        collection: The benchmark.
        second: Per query whether it is in the second half.
        choices: The settings to try; of those that tie, the first is taken.
        always: Settings that stay.

    Returns:
        The method, tuned and tested. What was tried before is found.
    """
    tried = [method_outcome(name, collection, **one, **always) for one in choices]
    precision = np.stack([one.precision for one in tried])
    # Settings for the first half are learned on the second, and the other way round.
    of_first, of_second = (
        best_setting(precision, second),
        best_setting(precision, ~second),
    )
    return TunedMethod(
        outcome=Outcome(
            *(
                np.where(second, in_second, in_first)
                for in_first, in_second in zip(
                    tried[of_first], tried[of_second], strict=True
                )
            )
        ),
        untuned_precision=tried[0].precision,
        chosen=tuple(choices[one] for one in dict.fromkeys((of_first, of_second))),
        tried=len(choices),
    )


def best_setting(
    precision: Float[np.ndarray, "c q"], learned: Bool[np.ndarray, " q"]
) -> int:
    """Finds the settings of the highest mean over some queries, the first of equals.

    Args:
        precision: Average precision by settings and query; NaN where a query has no
            positives.
        learned: The queries.
    """
    return int(np.argmax(np.nanmean(precision[:, learned], axis=1)))
