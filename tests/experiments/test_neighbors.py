import dataclasses

import numpy as np
import pytest

from configs import neighbors
from diffjax.datasets import Benchmark
from diffjax.evaluation import evaluate
from diffjax.index import Index
from diffjax.report import read_records
from experiments._collections import Collection
from experiments.speed import neighbors as experiment
from experiments.speed._neighbor_searches import (
    draw_clustered_vectors,
    measure_neighbor_search,
)


@pytest.mark.full
def test_quick_leaves_a_record_of_every_search(tmp_path):
    config = neighbors.quick()
    record = experiment.run(config, tmp_path / "work", records=tmp_path / "records")
    assert [got["method"] for got in record["results"]] == list(config.searches)
    assert record["results"][0]["recall"] == 1.0
    for got in record["results"]:
        assert got["recall"] > 0.9
        assert got["seconds"] > 0
        assert 50 < got["largest_memory_mib"] < 2_000
    assert read_records(tmp_path / "records" / "neighbors.jsonl") == [record]


def test_memory_is_that_of_the_search_alone():
    ballast = np.ones(2**26)  # 512 MiB in this process, not in the new one.
    got = experiment.call_in_new_process(
        measure_neighbor_search, "exact", 50, dim=4, k=3, sample=9, seed=0
    )
    assert got["recall"] == 1
    assert got["seconds"] > 0
    assert 50 < got["largest_memory_mib"] < ballast.nbytes / 2**20


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* is more than the")  # Few vectors here.
def test_both_graphs_are_evaluated_on_a_benchmark(collection, tmp_path, monkeypatch):
    vectors = collection.vectors.astype(np.float32)
    index = Index.build(vectors, collection.image_ids)
    queries = max(collection.query_ids) + 1
    nothing = np.zeros(0, np.int64)
    truth = Benchmark(
        name="made up",
        folder=tmp_path,
        database=(),
        queries=(tmp_path,) * queries,
        boxes=(None,) * queries,
        positives=(np.array([1, 5, 7]),) * queries,
        junk=(nothing,) * queries,
        objects=tuple("abcde"),
    )
    regions = index.prepare(collection.queries.astype(np.float32))
    given = Collection(index, regions, collection.query_ids, truth)
    monkeypatch.setattr(experiment, "load_collection", lambda *_: given)
    config = dataclasses.replace(neighbors.full(), searches=())
    record = experiment.run(config, tmp_path, records=tmp_path)
    exact, near = record["results"]
    scores = index.search(
        collection.queries.astype(np.float32), collection.query_ids, top=24
    )
    expected = evaluate(np.asarray(scores.images).T, truth).mean_average_precision
    np.testing.assert_allclose(exact["mean_ap"], expected, rtol=1e-6)
    # So few vectors are searched exactly in both cases.
    assert near["mean_ap"] == exact["mean_ap"]
    assert near["differences"][0]["against"] == exact["method"]
    assert near["differences"][0]["mean"] == 0


def test_a_search_whose_package_is_missing_is_left_out(monkeypatch):
    asked = []

    def note(function, search, n, **settings):
        asked.append(search)
        return {}

    monkeypatch.setattr(experiment, "_pynndescent_version", lambda: None)
    monkeypatch.setattr(experiment, "call_in_new_process", note)
    config = dataclasses.replace(neighbors.full(), sizes=(5, 6))
    assert experiment._measure_all(config) == [{}] * 4
    assert asked == ["exact", "nn-descent, faiss"] * 2


def test_the_vectors_are_units_in_clusters_of_very_different_sizes():
    vectors = draw_clustered_vectors(3_000, 24, seed=0)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors, draw_clustered_vectors(3_000, 24, seed=0))
    assert (vectors != draw_clustered_vectors(3_000, 24, seed=1)).any()
    # How many are near: few in the small clusters, hundreds in the large.
    near = (vectors @ vectors.T > 0.5).sum(1)
    assert np.quantile(near, 0.9) > 10 * np.quantile(near, 0.1)
