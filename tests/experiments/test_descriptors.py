import dataclasses

import pytest

from configs import descriptors as card
from diffjax.report import difference_table, mean_ap_table, read_records
from experiments import descriptors

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


def test_quick_descriptors_leave_a_record_and_are_not_described_twice(tmp_path):
    config = card.quick()
    record = descriptors.run(config, tmp_path, records=tmp_path / "records")
    assert read_records(tmp_path / "records" / "descriptors_scenes.jsonl") == [record]
    names = [result["method"] for result in record["results"]]
    assert names == [
        "head mac, 96 px, pca-whitening 16",
        "head mac, 96 px, supervised 8",
        "stage6 NetVLAD 2, whole pictures",
    ]
    assert all(0 < result["nearest_mean_ap"] <= 1 for result in record["results"])
    table = mean_ap_table(record["results"])
    assert table.header[1] == "k-NN mAP, %"
    differences = difference_table(record["results"]).rows
    assert [method for method, _ in differences] == names[1:]
    assert all(text.endswith(f"from {names[0]}") for _, text in differences)
    shards = list(tmp_path.glob("scenes.descriptors/extracted/*/regions-*"))
    assert len(shards) == 1  # Both rows are of the same regions.


def test_the_card_says_what_is_run():
    text = card.__doc__
    assert text
    for heading in "Paper:", "Data:", "Expected:", "Cost:", "Command:":
        assert heading in text
    for name in card.full():
        assert f"python -m experiments descriptors {name}" in text


def test_rows_are_told_apart_by_their_names():
    for config in card.full().values():
        names = [row.name for row in config.rows]
        assert len(set(names)) == len(names)


def test_a_supervised_whitening_never_sees_what_it_is_asked_for(tmp_path, monkeypatch):
    seen = []
    fit = descriptors.fit_supervised_whitening

    def watch(vectors, matched, **settings):
        seen.append(len(vectors))
        return fit(vectors, matched, **settings)

    monkeypatch.setattr(descriptors, "fit_supervised_whitening", watch)
    config = card.quick()
    config = dataclasses.replace(config, rows=config.rows[1:], netvlad_clusters=0)
    descriptors.run(config, tmp_path, records=tmp_path / "records")
    truth = config.benchmark.load(tmp_path)
    labelled = {int(i) for positives in truth.positives for i in positives}
    # The two halves share no picture, and scenes without an object are in neither.
    assert len(seen) == 2
    assert sum(seen) == len(labelled)
