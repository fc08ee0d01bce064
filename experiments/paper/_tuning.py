"""Tuning of settings on half of the objects, tested on queries for the other half."""

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from experiments._collections import Collection, Outcome

from ._methods import method_outcome


class TunedMethod(NamedTuple):
    """Method at settings that were chosen without the queries of its test.

    Attributes:
        outcome: Quality of its answers, at the best settings for the other half's
            queries.
        untuned_precision: Average precision of every query at the first settings.
        chosen: Settings that the halves were tested with, equal ones once.
        tried: Number of settings.
    """

    outcome: Outcome
    untuned_precision: Float[np.ndarray, " q"]
    chosen: tuple[Mapping[str, Any], ...]
    tried: int

    @property
    def settings_text(self) -> str:
        """Chosen settings in words."""
        return "; ".join(
            ", ".join(f"{key} {value}" for key, value in settings.items())
            for settings in self.chosen
        )


def halve_objects(
    objects: Sequence[Hashable], *, seed: int = 0
) -> Bool[np.ndarray, " q"]:
    """Draws half of the objects; queries of one object fall on the same side.

    Args:
        objects: Object of each query.
        seed: Seed of the draw.

    Returns:
        Mask of the queries whose object is in the second half.

    Raises:
        ValueError: If there are fewer than two objects.
    """
    names = sorted(set(map(str, objects)))
    if len(names) < 2:
        raise ValueError(
            f"objects must be two or more to be halved, got {len(names)}: settings "
            "can't be chosen on one and tested on another."
        )
    halves = np.random.default_rng(seed).permutation(len(names)) % 2 == 1
    is_second = dict(zip(names, halves.tolist(), strict=True))
    return np.array([is_second[str(name)] for name in objects])


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
        name: Name of the method, one of `METHODS`.
        collection: The benchmark.
        second: Mask of the queries in the second half.
        choices: Settings to try; the first of equals is chosen.
        always: Settings that are the same in all trials.

    Returns:
        The tuned and tested method. Cached trials are used again.
    """
    outcomes = [
        method_outcome(name, collection, **settings, **always) for settings in choices
    ]
    precision = np.stack([outcome.precision for outcome in outcomes])
    # Settings for the first half are chosen on the second, and vice versa.
    for_first, for_second = (
        best_setting(precision, second),
        best_setting(precision, ~second),
    )
    return TunedMethod(
        outcome=Outcome(
            *(
                np.where(second, values_of_second, values_of_first)
                for values_of_first, values_of_second in zip(
                    outcomes[for_first], outcomes[for_second], strict=True
                )
            )
        ),
        untuned_precision=outcomes[0].precision,
        chosen=tuple(choices[i] for i in dict.fromkeys((for_first, for_second))),
        tried=len(choices),
    )


def best_setting(
    precision: Float[np.ndarray, "c q"], chosen: Bool[np.ndarray, " q"]
) -> int:
    """Finds the settings of the highest mean over some queries, the first of equals.

    Args:
        precision: Average precision by settings and query; NaN where a query has no
            positives.
        chosen: Mask of the queries.
    """
    return int(np.argmax(np.nanmean(precision[:, chosen], axis=1)))
