import inspect

import pytest

from configs import reduction as card
from diffjax.regions import reduce_regions
from diffjax.report import difference_table, mean_ap_table, read_records
from experiments.paper import reduction

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


@pytest.mark.full
def test_quick_reduction_leaves_a_record_of_fewer_nodes_and_edges(tmp_path):
    config = card.quick()
    record = reduction.run(config, tmp_path, records=tmp_path / "records")
    assert read_records(tmp_path / "records" / "reduction_scenes.jsonl") == [record]
    regions, means = record["results"]
    assert regions["method"] == "all regions, k 20"
    assert means["method"] == "3 diagonal means, k 10"
    assert regions["nodes"] == record["settings"]["regions"]
    assert means["nodes"] == 3 * record["settings"]["images"]
    assert 0 < means["edges"] < regions["edges"]
    assert "seconds_reduction" not in regions
    for result in record["results"]:
        times = [value for name, value in result.items() if name.startswith("seconds")]
        assert times
        assert min(times) > 0
    assert len(mean_ap_table(record["results"]).rows) == 2
    ((method, difference),) = difference_table(record["results"]).rows
    assert method == means["method"]
    assert difference.endswith("from all regions, k 20")


def test_mixtures_are_fitted_as_the_library_does_if_not_told_otherwise():
    library = inspect.signature(reduce_regions).parameters
    for config in card.full().values():
        for name in "restarts", "steps", "regularization":
            assert getattr(config, name) == library[name].default
        assert library["components"].default in config.components
        assert library["covariance"].default in config.covariances
