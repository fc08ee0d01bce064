"""Settings of an index: ranges, names, defaults, JSON."""

import dataclasses
import json

import numpy as np
import pytest

from diffjax.index import GraphConfig, IndexConfig, pictures_config
from diffjax.index._config import config_from_json, config_to_json
from diffjax.retrieve import LARGE_COLLECTION, SearchConfig

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("k", 0), ("dim", 0), ("clusters", 0), ("neighbor_probes", 0)),
        *(("code_bytes", 0), ("offline_neighbors", 0)),
        *(("gamma", 0.0), ("gamma", np.nan), ("lam", -1.0), ("lam", np.inf)),
        *(("bias", 1.0), ("bias", -1.0), ("shrinkage", 1.0), ("shrinkage", -0.1)),
        *(("pooling", "max"), ("storage", "int4"), ("method", "psychic")),
        *(("whitening", "zca"), ("query_gamma", 0.0), ("alpha", 1.0)),
    ],
)
def test_settings_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got '?{value}'?"):
        IndexConfig.of(**{name: value})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"whitening": "pca", "shrinkage": 0.1},
            "shrinkage must be 0 with whitening 'pca'",
        ),
        (
            {"offline_neighbors": 5, "shortlist": 5},
            "shortlist must not be set with offline_neighbors.*got 5",
        ),
        (
            {"offline_neighbors": 5, "local_nodes": 60},
            "local_nodes must not be set with offline_neighbors.*got 60",
        ),
        ({"whitening": "zca"}, r"whitening must be one of \('pca-whitening', 'pca'\)"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        IndexConfig.of(**settings)


def test_settings_are_named_without_the_part_that_they_belong_to():
    config = IndexConfig.of(k=20, alpha=0.9)
    assert config == IndexConfig(GraphConfig(k=20), SearchConfig(alpha=0.9))
    changed = config.replace(alpha=0.5, gamma=2.0)
    assert changed == IndexConfig(GraphConfig(k=20, gamma=2.0), SearchConfig(alpha=0.5))
    assert config.graph.k == changed.graph.k == 20
    assert config == IndexConfig.of(k=20, alpha=0.9)  # It is never changed.


def test_every_setting_belongs_to_one_part():
    names = [
        {field.name for field in dataclasses.fields(part)}
        for part in (GraphConfig, SearchConfig)
    ]
    assert not names[0] & names[1]
    for name in names[0] | names[1]:
        assert IndexConfig.of(**{name: _default(name)}) == IndexConfig()


def _default(name):
    for part in (GraphConfig(), SearchConfig()):
        if hasattr(part, name):
            return getattr(part, name)
    raise AssertionError(name)


RENAMED = {
    "neighbors": "method",
    "offline": "offline_neighbors",
    "reach": "local_nodes",
    "query_probes": "probes",
    "cut": "renormalize_shortlist",
    "tail": "outside_shortlist",
    "image_ids": "ids",
    "index": "graph and search",
}


@pytest.mark.parametrize("name", RENAMED)
def test_old_names_are_answered_with_the_new_ones(name):
    for make in IndexConfig.of, IndexConfig().replace:
        with pytest.raises(TypeError, match=f"{name} is called {RENAMED[name]}"):
            make(**{name: 1})


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(TypeError, match="colour must be a setting of an index, one"):
        IndexConfig.of(colour="red")
    with pytest.raises(TypeError, match="alpha, bias, clusters"):
        IndexConfig().replace(colour="red")


def test_settings_that_depend_on_the_size_are_filled_in():
    small = IndexConfig().resolve(LARGE_COLLECTION)
    assert small.graph.method == "exact"
    assert (small.search.probes, small.search.local_nodes) == (0, 0)
    large = IndexConfig().resolve(LARGE_COLLECTION + 1)
    assert large.graph.method == "clusters"
    assert (large.search.probes, large.search.local_nodes) == (64, 4000)
    asked = IndexConfig.of(method="exact", local_nodes=0).resolve(10**7)
    assert (asked.graph.method, asked.search.local_nodes) == ("exact", 0)
    offline = IndexConfig.of(offline_neighbors=5)
    assert offline.is_offline
    assert offline.resolve(10**7).search.local_nodes == 0
    assert not IndexConfig().is_offline


def test_settings_come_back_from_json():
    config = IndexConfig.of(k=7, dim=9, shortlist=3, alpha=0.5, storage="pq")
    text = json.dumps(config_to_json(config))
    assert config_from_json(json.loads(text)) == config
    for bad, error in (
        ({"graph": {"k": 0}, "search": {}}, ValueError),
        ({"graph": {"reach": 1}, "search": {}}, TypeError),
    ):
        with pytest.raises(error):
            config_from_json(bad)


def test_pictures_are_whitened_by_default():
    assert pictures_config() == IndexConfig.of(dim=256)
