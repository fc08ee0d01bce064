"""Entries of records: intervals, differences, every query, descriptor settings."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from diffjax.evaluation import bootstrap_interval, paired_bootstrap, paired_test
from diffjax.images import DescriptorConfig
from diffjax.report import difference_table, mean_ap_table, read_records
from diffjax.weights import PretrainedNetwork
from experiments import _entries
from experiments._entries import (
    descriptor_settings,
    method_entry,
    query_precision_fields,
    read_query_precision,
)
from experiments._runner import RECORDS, record_tables

PRECISION = np.array([0.25, 0.123456, 1.0, np.nan, 0.5])
OBJECTS = tuple("aabbc")


def test_an_entry_has_intervals_facts_differences_and_every_query():
    baseline = np.array([0.5, 0.2, 0.9, np.nan, 0.1])
    entry = method_entry(
        "ours",
        PRECISION,
        groups=OBJECTS,
        seed=3,
        against=[("theirs", baseline)],
        test=True,
        tried=7,
    )
    drawing = {"groups": OBJECTS, "seed": 3}
    interval = bootstrap_interval(PRECISION, **drawing)
    assert (entry["mean_ap"], entry["low"], entry["high"]) == (
        interval.mean,
        interval.low,
        interval.high,
    )
    assert (entry["method"], entry["tried"]) == ("ours", 7)
    (difference,) = entry["differences"]
    pair = paired_bootstrap(PRECISION, baseline, **drawing)
    p = paired_test(PRECISION, baseline, **drawing)
    assert difference == {"against": "theirs", **pair._asdict(), "p": p}
    assert "differences" not in method_entry("ours", PRECISION, groups=OBJECTS)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_every_query_is_stored_to_four_decimals_and_read_again():
    fields = query_precision_fields(PRECISION)
    assert fields == {"query_average_precision": [0.25, 0.1235, 1.0, None, 0.5]}
    precision = read_query_precision(fields)
    assert precision is not None
    np.testing.assert_allclose(precision, PRECISION, atol=5e-5)


def test_readers_accept_records_that_were_made_before_queries_were_kept():
    entry = method_entry("a", PRECISION, groups=None)
    old = {k: v for k, v in entry.items() if k != "query_average_precision"}
    assert read_query_precision(old) is None
    for table in (mean_ap_table, difference_table):
        assert table([old]) == table([entry])
    for path in RECORDS.glob("*.jsonl"):
        assert all(map(record_tables, read_records(path))), path.name


def test_a_descriptor_is_recorded_with_all_settings_and_no_path(monkeypatch):
    config = DescriptorConfig(side=416, grid=4, scales=(1.0, 0.7))
    settings = descriptor_settings(config)
    fields = {field.name for field in dataclasses.fields(DescriptorConfig)}
    assert set(settings) == fields - {"weights"}
    assert settings == {
        "network": "efficientnet-lite0",
        "map": "head",
        "aggregate": "mac",
        "gem_power": None,
        "network_whitening": None,
        "grid": 4,
        "side": 416,
        "scales": [1.0, 0.7],
    }
    # Weights with a GeM power choose the aggregation, unless the settings do.
    trained = _entries.load_pretrained(config)
    assert isinstance(trained, PretrainedNetwork)
    monkeypatch.setattr(
        _entries, "load_pretrained", lambda _: trained._replace(gem_power=2.5)
    )
    assert descriptor_settings(config)["gem_power"] == 2.5
    assert descriptor_settings(config)["aggregate"] == "gem"
    power = dataclasses.replace(config, aggregate="gem", gem_power=4.0)
    assert descriptor_settings(power)["gem_power"] == 4.0
    mac = dataclasses.replace(config, aggregate="mac")
    assert descriptor_settings(mac)["gem_power"] is None
    with_path = dataclasses.replace(mac, weights=str(pathlib.Path("w.pth")))
    assert descriptor_settings(with_path) == descriptor_settings(mac)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_draws_the_intervals(seed):
    entry = method_entry("a", PRECISION, groups=None, seed=seed)
    expected = bootstrap_interval(PRECISION, groups=None, seed=seed)
    assert (entry["low"], entry["high"]) == (expected.low, expected.high)
