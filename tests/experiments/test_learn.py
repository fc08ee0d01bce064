"""Methods of learning, on a synthetic collection and on a few composed scenes."""

import numpy as np
import PIL.Image
import pytest

from configs import learn as card
from configs import learn_path as path_card
from configs import learn_whitening as whitening_card
from diffjax.datasets import GroundTruth
from diffjax.index import Index, IndexConfig
from diffjax.learning import parameters, split_by_object
from diffjax.report import read_records
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection
from experiments.learning import learn, learn_path, learn_whitening
from experiments.learning._methods import LEARNING_METHODS
from experiments.learning._task import LearningTask

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


@pytest.fixture(scope="module")
def described_task(workdir):
    config = card.quick()
    collection = load_benchmark(config, workdir)
    objects = [str(name) for name in collection.truth.objects]
    return LearningTask(collection, split_by_object(objects, splits=1)[0], config)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def collection():
    """Six objects in three images of two regions each, and a query of each."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(6, 16))

    def draw_regions(objects, per_image):
        rows = np.repeat(objects, per_image)
        vectors = centres[rows] + 0.8 * draw.normal(size=(len(rows), 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = np.repeat(np.arange(len(objects), dtype=np.int32), per_image)
        return vectors.astype(np.float32), ids

    vectors, image_ids = draw_regions(np.repeat(np.arange(6), 3), 2)
    queries, query_ids = draw_regions(np.arange(6), 2)
    index = Index.build(vectors, image_ids, config=IndexConfig.of(k=10, query_k=10))
    truth = GroundTruth(
        name="synthetic",
        database=tuple(map(str, range(18))),
        queries=tuple("abcdef"),
        boxes=(None,) * 6,
        positives=tuple(np.arange(3 * i, 3 * i + 3) for i in range(6)),
        junk=(np.zeros(0, np.int64),) * 6,
        objects=tuple("abcdef"),
    )
    return Collection(index, index.prepare(queries), query_ids, truth)


@pytest.fixture(scope="module")
def task(collection):
    config = card.quick()
    objects = [str(name) for name in collection.truth.objects]
    return LearningTask(collection, split_by_object(objects, splits=1)[0], config)


@pytest.mark.full
def test_the_defaults_have_the_precision_of_an_index(task):
    everything = np.ones(task.collection.num_queries, bool)
    index = task.collection.index
    same_settings = task.collection.build_index(
        type(index.config).of(k=task.config.k, query_k=task.config.fit.query_k)
    )
    expected = task.collection.precision(task.collection.scores(same_settings))
    got = task.precision(parameters(), everything)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_tested_objects_are_in_no_other_part(task):
    split = task.split
    objects = np.array([str(name) for name in task.collection.truth.objects])
    learns = set(objects[split.train]) | set(objects[split.held_out])
    assert not learns & set(objects[split.test])
    labelled = task.labelled(split.train)
    assert set(labelled.objects) == set(objects[split.train])


def test_the_closed_form_sees_no_picture_of_an_object_that_is_tested(task):
    truth = task.collection.truth
    projection = task.fit_supervised_projection(task.is_training, shrinkage=0.1)
    known = np.concatenate(task.images_of(task.is_training))
    # Other answers to the queries of the test part change nothing.
    positives = tuple(
        np.array([0]) if tested else row
        for row, tested in zip(truth.positives, task.split.test, strict=True)
    )
    changed = truth._replace(positives=positives)
    other = LearningTask(
        type(task.collection)(
            task.collection.index,
            task.collection.regions,
            task.collection.query_ids,
            changed,
        ),
        task.split,
        task.config,
    )
    np.testing.assert_array_equal(
        other.fit_supervised_projection(task.is_training, shrinkage=0.1), projection
    )
    np.testing.assert_array_equal(
        np.concatenate(other.images_of(task.is_training)), known
    )
    shown = set(known.tolist())
    for query in np.flatnonzero(task.split.test):
        assert not shown & set(np.asarray(truth.positives[query]).tolist())


@pytest.mark.full
def test_every_method_is_compared_on_all_objects(workdir, tmp_path):
    record = learn.run(card.quick(), workdir, records=tmp_path)
    assert read_records(next(tmp_path.glob("*.jsonl"))) == [record]
    ways = {result["method"]: result for result in record["results"]}
    assert tuple(ways) == card.quick().ways
    assert {*card.full().ways, *whitening_card.full().ways} == set(LEARNING_METHODS)
    assert all(r["low"] <= r["mean_ap"] <= r["high"] for r in ways.values())
    assert ways["defaults"]["solves"] == 0
    # A search costs no more than the gradient, and a setting's worth less at most.
    assert 0 < ways["random"]["solves"] <= ways["gradient"]["solves"]
    assert ways["supervised whitening"]["differences"][0]["against"] == "defaults"
    whole = whitening_card.quick()
    assert whole.rank == whole.dim
    full_record = learn_whitening.run(whole, workdir, records=tmp_path / "whole")
    assert [result["method"] for result in full_record["results"]] == list(whole.ways)
    again = learn.run(card.quick(), workdir, records=tmp_path / "again")
    assert again["results"] == record["results"]


@pytest.mark.full
def test_every_method_runs(described_task):
    task = described_task
    learned = {name: way(task) for name, way in LEARNING_METHODS.items()}
    assert learned["mixed whitening, random"].solves > 0
    for name, got in learned.items():
        precision = task.precision(got.parameters, task.split.test)
        assert np.isfinite(precision[task.split.test]).all(), name
        assert np.isnan(precision[~task.split.test]).all(), name


@pytest.mark.full
def test_paths_are_drawn_on_the_surface(workdir, tmp_path):
    record = learn_path.run(path_card.quick(), workdir, records=tmp_path)
    assert read_records(next(tmp_path.glob("*.jsonl"))) == [record]
    points = {entry["method"]: entry for entry in record["results"]}
    assert all("query_average_precision" in entry for entry in record["results"])
    first, last = "path 1 begins", "path 1 before its last step"
    assert list(points) == ["best of the grid", first, last]
    assert points[first]["alpha"] == pytest.approx(0.9)
    assert points[last]["alpha"] != points[first]["alpha"]
    with PIL.Image.open(next(tmp_path.glob("*.png"))) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
