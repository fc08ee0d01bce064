import dataclasses
import math

import pytest

from configs import gradient_cost as cost_card
from configs import solvers as solvers_card
from configs import variants as variants_card
from diffjax.report import read_records
from experiments.paper import solvers, variants
from experiments.speed import gradient_cost

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:.* is more than"),
]


def test_quick_solvers_agree_and_conjugate_gradient_converges_first(tmp_path):
    record = solvers.run(solvers_card.quick(), tmp_path, records=tmp_path / "records")
    assert read_records(tmp_path / "records" / "solvers_scenes.jsonl") == [record]
    agreement = [r for r in record["results"] if "difference" in r]
    assert [r["solver"] for r in agreement] == list(solvers_card.quick().solvers)
    for result in agreement:
        assert result["difference"] < 1e-4
        assert result["overlap"] > 0.95
    residuals = {
        (r["solver"], r["steps"]): r["residual"]
        for r in record["results"]
        if "mean_ap" in r
    }
    against = {
        d["against"] for r in record["results"] for d in r.get("differences", ())
    }
    assert against == {"cg, 20 steps"}
    assert residuals["cg", 20] < residuals["iterate", 20] / 2


def test_quick_variants_name_what_they_measured(tmp_path):
    config = variants_card.quick()
    record = variants.run(config, tmp_path, records=tmp_path / "records")
    methods = [r["method"] for r in record["results"] if "method" in r]
    assert methods == [
        "the paper's queries on the whole graph",
        "k per region, all of y kept",
        "inserted queries, the first 3",
        "official queries",
        "short list of 3, early",
        "short list of 3, late",
        "short list of 3, early, zero tail",
        "offline on 30 nodes",
    ]
    times = [r for r in record["results"] if "regions_per_query" in r]
    # One right-hand side for each query, however many regions it has.
    assert [r["columns"] for r in times] == [8, 8]
    assert [r["regions_per_query"] for r in times] == [1, 3]


def test_quick_gradient_cost_is_a_ratio_for_each_chain(tmp_path):
    config = cost_card.quick()
    record = gradient_cost.run(config, tmp_path, records=tmp_path / "records")
    assert len(record["results"]) == 2
    assert all(math.isfinite(r["ratio"]) for r in record["results"])
    assert record["settings"]["edges"] > config.nodes
    again = dataclasses.replace(config, seed=1)
    first, second = (gradient_cost.clustered_vectors(c) for c in (config, again))
    assert first.shape == (300, 8)
    assert (first != second).any()
