import dataclasses

import numpy as np
import pytest

from configs import storage_loss as card
from diffjax.datasets import GroundTruth
from diffjax.index import Index, IndexConfig
from diffjax.report import read_records
from experiments._collections import Collection
from experiments.speed import storage_loss

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


@pytest.fixture
def described(collection):
    """A small collection of vectors, as a benchmark that was described."""
    vectors = collection.vectors.astype(np.float32)
    index = Index.build(vectors, collection.image_ids, config=IndexConfig.of(k=10))
    nothing = np.zeros(0, np.int64)
    truth = GroundTruth(
        name="made up",
        database=tuple(map(str, range(24))),
        queries=tuple("abcde"),
        boxes=(None,) * 5,
        positives=(np.array([1, 5, 7]),) * 5,
        junk=(nothing,) * 5,
        objects=tuple("abcde"),
    )
    regions = index.prepare(collection.queries.astype(np.float32))
    return Collection(index, regions, collection.query_ids, truth)


@pytest.mark.full
def test_every_storage_is_compared_with_whole_vectors(described, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_loss, "load_benchmark", lambda *_: described)
    config = dataclasses.replace(
        card.full(), code_bytes=(6, 3), k=10, reach=90, benchmark="scenes-small"
    )
    record = storage_loss.run(config, tmp_path, records=tmp_path)
    path = tmp_path / "storage_loss_scenes-small.jsonl"
    assert read_records(path) == [record]
    results = {entry["method"]: entry for entry in record["results"]}
    sizes = [entry["vector_bytes"] for entry in record["results"]]
    assert sizes == [48, 24, 6, 3, 48, 24]
    whole = results["whole vectors"]
    assert "differences" not in whole
    # It is what an index in memory answers.
    settings = IndexConfig.of(k=10, query_k=10, warn_residual=np.inf)
    built = described.build_index(settings)
    expected = described.precision(described.scores(built)).mean()
    np.testing.assert_allclose(whole["mean_ap"], expected, rtol=1e-6)
    for name in "half precision", "codes of 6 bytes", "codes of 3 bytes":
        (difference,) = results[name]["differences"]
        assert difference["against"] == "whole vectors"
        assert results[name]["recall_of_lists"] == 1
