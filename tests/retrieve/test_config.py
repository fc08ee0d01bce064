import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from diffjax.retrieve import LARGE_COLLECTION, SearchConfig

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("query_k", 0), ("max_steps", 0), ("shortlist", 0)),
        *(("probes", -1), ("local_nodes", -1)),
        *(("query_gamma", 0.0), ("query_gamma", np.inf)),
        *(("alpha", 1.0), ("alpha", np.nan), ("rtol", -1.0)),
        *(("rule", "other"), ("solver", "lu"), ("outside_shortlist", "long")),
    ],
)
def test_settings_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*got '?{value}'?"):
        SearchConfig(**{name: value})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"local_nodes": 60, "shortlist": 5}, "shortlist must be None with local_node"),
        (
            {"local_nodes": 60, "solver": "direct"},
            "solver must be cg with local_nodes.*got direct",
        ),
        ({"local_nodes": 60, "keep_best": True}, "keep_best must be False with local"),
        ({"solver": "chebyshev", "keep_best": True}, "keep_best must be False with"),
        ({"solver": "cg-bcoo", "keep_best": True}, "keep_best must be False with"),
        ({"local_nodes": 5}, "local_nodes must be at least query_k, 50, got 5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        SearchConfig(**settings)


def test_settings_that_depend_on_the_collection_are_filled_in():
    config = SearchConfig()
    small, large = LARGE_COLLECTION, LARGE_COLLECTION + 1
    resolved = config.resolve(small, clustered=False)
    assert (resolved.probes, resolved.local_nodes) == (0, 0)
    assert resolved == dataclasses.replace(config, probes=0, local_nodes=0)
    resolved = config.resolve(large, clustered=True)
    assert (resolved.probes, resolved.local_nodes) == (64, 4000)
    wide = SearchConfig(query_k=5000).resolve(large, clustered=True)
    assert wide.local_nodes == 5000
    # Other ways to solve, and what was asked for, stay.
    others: tuple[dict[str, Any], ...]
    others = {"shortlist": 9}, {"solver": "direct"}, {"keep_best": True}
    for other in others:
        assert SearchConfig(**other).resolve(large, clustered=True).local_nodes == 0
    assert config.resolve(large, clustered=True, offline=True).local_nodes == 0
    asked = SearchConfig(probes=0, local_nodes=0)
    assert asked.resolve(large, clustered=True) == asked


def test_settings_are_made_without_jax():
    # The command line answers before JAX is imported.
    code = (
        "import sys; from diffjax.index import IndexConfig; IndexConfig.of(k=7); "
        "heavy = {'jax', 'scipy', 'faiss'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
