import dataclasses

import numpy as np
import pytest

from diffjax.index import IndexConfig, MappedConfig, MappedIndex
from diffjax.index._mapped_config import _OF_SEARCH

CONFIG = MappedConfig(
    index=IndexConfig(k=6, query_k=6, neighbors="clusters", reach=40, gamma=3)
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    folder = tmp_path_factory.mktemp("mapped") / "index"
    return MappedIndex.build(folder, vectors, config=CONFIG)


def changed(config, **changes):
    """Settings with others, wherever they belong."""
    own = {f.name for f in dataclasses.fields(MappedConfig)}
    inner = {name: value for name, value in changes.items() if name not in own}
    outer = {name: value for name, value in changes.items() if name in own}
    inner = dataclasses.replace(config.index, **inner)
    return dataclasses.replace(config, index=inner, **outer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": IndexConfig()}, "neighbors must be 'clusters'"),
        (
            {"index": IndexConfig(neighbors="clusters", shortlist=3)},
            "shortlist must be",
        ),
        ({"storage": "int4"}, "storage must be"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_settings_that_an_index_on_the_disk_does_not_have(change, message):
    with pytest.raises(ValueError, match=message):
        MappedConfig(**change)


OF_BUILD = {
    "clusters": 3,
    "probes": 2,
    "storage": "pq",
    "code_bytes": 2,
    "seed": 1,
    "dim": 4,
    "whitening": "pca",
    "shrinkage": 0.1,
    "k": 5,
    "gamma": 2.0,
    "bias": 0.1,
    "pooling": "sum",
    "lam": 2.0,
    "tail": "zero",
}
OF_SEARCH = {
    "query_probes": 3,
    "query_k": 5,
    "query_gamma": 2.0,
    "alpha": 0.5,
    "rule": "official",
    "solver": "cg",
    "rtol": 1e-3,
    "max_steps": 50,
    "keep_best": False,
    "reach": None,
    "warn_residual": 0.5,
}
# What an index on the disk has one value of.
FIXED = {"neighbors", "shortlist", "cut", "offline"}


def test_every_setting_is_of_the_build_or_of_the_search():
    names = {
        field.name
        for config in (MappedConfig, IndexConfig)
        for field in dataclasses.fields(config)
    }
    assert set(OF_SEARCH) == set(_OF_SEARCH)
    assert {*OF_BUILD, *OF_SEARCH, *FIXED, "index"} == names


@pytest.mark.parametrize("name", OF_BUILD)
def test_settings_of_the_build_can_not_be_changed_afterwards(index, name):
    config = changed(index.config, **{name: OF_BUILD[name]})
    with pytest.raises(ValueError, match=rf"^{name} must be .*as the index was built"):
        dataclasses.replace(index, config=config)


@pytest.mark.parametrize("name", OF_SEARCH)
def test_settings_of_the_search_can(index, name):
    config = changed(index.config, **{name: OF_SEARCH[name]})
    other = dataclasses.replace(index, config=config)
    assert other.config == config
    assert other.built == CONFIG
    # And back again: what was built is remembered.
    assert dataclasses.replace(other, config=CONFIG).config == CONFIG
