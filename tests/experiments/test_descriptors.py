import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from configs import descriptors as card
from diffjax.regions import global_descriptors
from diffjax.report import difference_table, mean_ap_table, read_records
from experiments.paper import descriptors

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


@pytest.mark.full
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
    known, whitenings = [], []
    fit, search = descriptors.fit_supervised_whitening, descriptors._search

    def watch_fit(vectors, matched, **settings):
        known.append(np.asarray(vectors))
        whitenings.append(fit(vectors, matched, **settings))
        return whitenings[-1]

    def mark(data, settings, whitening):
        # Instead of a precision: which fit a query's answer comes from.
        (number,) = [i for i, w in enumerate(whitenings) if w is whitening]
        marks = np.full(len(data.truth.queries), number / 10)
        real = search(data, settings, whitening)
        assert len(real.nearest) == len(marks)
        answered.append(data)
        return descriptors._Precision(marks, marks)

    answered = []
    monkeypatch.setattr(descriptors, "fit_supervised_whitening", watch_fit)
    monkeypatch.setattr(descriptors, "_search", mark)
    config = card.quick()
    config = dataclasses.replace(config, rows=config.rows[1:], netvlad_clusters=0)
    marks, entry = [], {"mean_ap": 0.5, "low": 0.4, "high": 0.6}
    monkeypatch.setattr(
        descriptors,
        "_entry",
        lambda name, found, *_: marks.append(found) or dict(entry, method=name),
    )
    descriptors.run(config, tmp_path, records=tmp_path / "records")
    truth, regions, _ = answered[0]
    whole = np.asarray(
        global_descriptors(jnp.asarray(regions.vectors), regions.image_ids)
    )
    for query, number in enumerate(np.rint(10 * marks[0].regional).astype(int)):
        learned = {row.tobytes() for row in known[number]}
        assert learned
        assert not learned & {whole[i].tobytes() for i in truth.positives[query]}
