"""Entries of records: mean average precision with intervals, differences, every query.

Old records have neither `query_average_precision` nor a descriptor's settings: readers
accept both kinds.
"""

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffjax.evaluation import bootstrap_interval, paired_bootstrap, paired_test
from diffjax.images import DescriptorConfig, find_weights_file
from diffjax.weights import PretrainedNetwork, load_network

# Name and average precision per query of a method to compare with.
Baseline = tuple[str, Float[np.ndarray, " q"]]

_QUERY_PRECISION = "query_average_precision"
_DECIMALS = 4  # Of average precision in records: a hundredth of a percent.
_GEM_POWER = 3.0  # Where neither the settings nor the weights have one.


def method_entry(
    method: str,
    precision: Float[np.ndarray, " q"],
    *,
    groups: Sequence[Hashable] | None,
    seed: int = 0,
    against: Sequence[Baseline] = (),
    test: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Makes a record's entry of a method from its average precision per query.

    Args:
        method: Name of the method.
        precision: Average precision of every query; NaN without positives.
        groups: Object of every query: the bootstrap draws queries of one object
            together. None if queries are independent.
        seed: Seed of the bootstrap.
        against: Methods to compare with, query by query, on the same queries.
        test: Whether differences have the p-value of a sign-flip test.
        facts: Further JSON values for the entry.

    Returns:
        `method`, `mean_ap`, `low` and `high` (95 % interval), the facts,
        `differences` if there are any, and `query_average_precision`.
    """
    drawing: dict[str, Any] = {"groups": groups, "seed": seed}
    interval = bootstrap_interval(precision, **drawing)
    entry = {"method": method, "mean_ap": interval.mean}
    entry |= {"low": interval.low, "high": interval.high, **facts}
    differences = []
    for name, baseline in against:
        pair = paired_bootstrap(precision, baseline, **drawing)
        difference = {"against": name, **pair._asdict()}
        if test:
            difference["p"] = paired_test(precision, baseline, **drawing)
        differences.append(difference)
    if differences:
        entry["differences"] = differences
    return entry | query_precision_fields(precision)


def query_precision_fields(precision: Float[np.ndarray, " q"]) -> dict[str, Any]:
    """Makes the part of an entry that keeps the average precision of every query.

    Args:
        precision: Average precision of every query; NaN, without positives, is stored
            as None.

    Returns:
        `query_average_precision`, rounded to four decimals.
    """
    rounded = np.round(np.asarray(precision, np.float64), _DECIMALS).tolist()
    return {_QUERY_PRECISION: [None if np.isnan(p) else p for p in rounded]}


def read_query_precision(
    entry: Mapping[str, Any],
) -> Float[np.ndarray, " q"] | None:
    """Reads the average precision of every query from a record's entry.

    Args:
        entry: One of a record's `results`.

    Returns:
        Average precision, NaN for queries without positives; None in records that
        were made before it was kept.
    """
    if _QUERY_PRECISION not in entry:
        return None
    return np.array(entry[_QUERY_PRECISION], np.float64)  # None becomes NaN.


@functools.lru_cache(maxsize=4)
def load_pretrained(config: DescriptorConfig) -> PretrainedNetwork:
    """Loads the network that a descriptor's settings name, once per process."""
    weights = find_weights_file(config)
    return load_network(weights.architecture, weights.path)


def resolve_map(config: DescriptorConfig) -> str:
    """Finds the map of the network that is pooled: the last, but for the last pooling.

    Args:
        config: Settings of the descriptor; `map` None leaves the choice to the network.
    """
    if config.map is not None:
        return config.map
    names = load_pretrained(config).network.strides
    return [name for name in names if not name.startswith("pool")][-1]


def descriptor_settings(config: DescriptorConfig) -> dict[str, Any]:
    """Lists all settings of a descriptor as a record keeps them, defaults resolved.

    Args:
        config: Settings of the descriptor.

    Returns:
        JSON values by field, without the path of the weights: network, map,
        aggregation, its power if it is GeM, whitening, grid, side and scales.
    """
    settings = dataclasses.asdict(config.descriptor())
    del settings["weights"]
    settings |= {"map": resolve_map(config), "scales": list(config.scales)}
    if config.aggregate in {None, "gem"}:
        power = config.gem_power or load_pretrained(config).gem_power
        aggregate = config.aggregate or ("gem" if power else "mac")
        settings["aggregate"] = aggregate
        settings["gem_power"] = (power or _GEM_POWER) if aggregate == "gem" else None
    return settings
