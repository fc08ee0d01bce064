import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from configs import descriptors as card
from diffjax.datasets import Benchmark
from diffjax.images import QueryRegions
from diffjax.index import Regions
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


def test_names_of_rows_are_different():
    for config in card.full().values():
        names = [row.name for row in config.rows]
        assert len(set(names)) == len(names)


@pytest.fixture
def described():
    """Six objects in three images of two regions each, a query of two regions each."""
    draw = np.random.default_rng(0)
    objects = tuple("abcdef")

    def unit(count):
        vectors = draw.normal(size=(count, 12)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    nothing = np.zeros(0, np.int64)
    truth = Benchmark(
        name="synthetic",
        folder=pathlib.Path(),
        database=(pathlib.Path(),) * 18,
        queries=(pathlib.Path(),) * 6,
        boxes=(None,) * 6,
        positives=tuple(np.arange(3 * i, 3 * i + 3) for i in range(6)),
        junk=(nothing,) * 6,
        objects=objects,
    )
    ids = np.repeat(np.arange(18, dtype=np.int32), 2)
    regions = Regions(unit(36), ids, np.zeros((36, 4), np.float32))
    queries = QueryRegions(unit(12), np.repeat(np.arange(6, dtype=np.int32), 2))
    return descriptors._DescribedBenchmark(truth, regions, queries)


@pytest.mark.parametrize("whitening", ["supervised", "supervised, then pca-whitening"])
def test_a_supervised_whitening_never_sees_the_objects_of_its_test(
    described, whitening, monkeypatch
):
    seen = []
    fit = descriptors.fit_supervised_whitening

    def watch_fit(vectors, pairs, **settings):
        seen.append({row.tobytes() for row in np.asarray(vectors)})
        return fit(vectors, pairs, **settings)

    def mark_search(data, *_):
        # In place of precision: the number of the fit that an answer comes from.
        marks = np.full(len(data.truth.queries), len(seen) - 1.0)
        return descriptors._Precision(marks, marks)

    monkeypatch.setattr(descriptors, "fit_supervised_whitening", watch_fit)
    monkeypatch.setattr(descriptors, "_search", mark_search)
    row = card.Row(whitening=whitening, dim=4)
    marks = descriptors._cross_fit(row, card.quick(), described)
    truth, regions, _ = described
    images = np.asarray(
        global_descriptors(jnp.asarray(regions.vectors), regions.image_ids)
    )
    assert set(marks.regional) == {0, 1}
    np.testing.assert_array_equal(marks.nearest, marks.regional)
    for query, fit_number in enumerate(marks.regional.astype(int)):
        assert seen[fit_number]
        positives = {images[i].tobytes() for i in truth.positives[query]}
        assert not seen[fit_number] & positives


def test_a_row_is_searched_with_its_whitening(described, monkeypatch):
    searched = []
    monkeypatch.setattr(
        descriptors, "_search", lambda _, settings: searched.append(settings)
    )
    config = card.quick()
    for row in (
        card.Row(whitening="none"),
        card.Row(whitening="pca", dim=5),
        card.Row(dim=6),
        card.Row(whitening="shrunk", dim=7),
    ):
        descriptors._evaluate_row(row, config, described)
    graphs = [settings.graph for settings in searched]
    whitenings = [(g.dim, g.dim and g.whitening, g.shrinkage) for g in graphs]
    assert whitenings == [
        (None, None, 0.0),
        (5, "pca", 0.0),
        (6, "pca-whitening", 0.0),
        (7, "pca-whitening", config.shrinkage),
    ]
