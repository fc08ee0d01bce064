import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import evaluate as card
from configs.schema import EvaluateConfig, GroceryData, few_scenes
from diffjax.datasets import compose_scenes
from diffjax.evaluation import evaluate as library_evaluate
from diffjax.index import BenchmarkRun, CompareConfig, MethodScores, compare
from diffjax.ranking import rank
from diffjax.report import make_record, read_records
from experiments._entries import read_query_precision
from experiments.paper import evaluate
from experiments.paper.evaluate import run

METHODS = [
    "global k-NN",
    "R-match",
    "global diffusion",
    "regional diffusion, sum",
    "regional diffusion, GMP",
]


def few_resamples(config: EvaluateConfig) -> EvaluateConfig:
    compare = dataclasses.replace(config.compare, resamples=50)
    return dataclasses.replace(config, compare=compare)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* is more than")  # Few pictures here.
def test_quick_scenes_leave_a_record_and_the_same_command_repeats_its_numbers(tmp_path):
    config = few_resamples(card.quick())
    first = run(config, tmp_path / "work", records=tmp_path / "records")
    again = run(config, tmp_path / "work", records=tmp_path / "records")
    assert [result["method"] for result in first["results"]] == METHODS
    assert again["results"] == first["results"]
    assert read_records(tmp_path / "records" / "scenes.jsonl") == [first, again]
    for entry in first["results"]:
        precision = read_query_precision(entry)
        assert precision is not None
        assert len(precision) == first["settings"]["queries"]
        assert precision.mean() == pytest.approx(entry["mean_ap"], abs=1e-4)
    descriptor = first["settings"]["descriptor"]
    assert {"map": "head", "side": 320, "grid": 3}.items() <= descriptor.items()


def test_a_record_gets_every_query_and_the_settings_of_the_descriptor(
    tmp_path, monkeypatch
):
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
    config = card.quick()
    truth = config.benchmark.load(tmp_path)
    scored = MethodScores("a method", scores, None)
    entries = compare([scored], truth, objects=truth.objects)
    record = make_record("x", settings={"queries": 3}, results=entries, seed=0)
    monkeypatch.setattr(
        evaluate, "run_benchmark", lambda *_, **__: BenchmarkRun(record, (scored,))
    )
    evaluate.run(config, tmp_path, records=tmp_path / "records")
    (written,) = read_records(tmp_path / "records" / "scenes.jsonl")
    precision = read_query_precision(written["results"][0])
    assert precision is not None
    expected = library_evaluate(rank(scores), truth).average_precision
    np.testing.assert_allclose(precision, expected, atol=5e-5)
    assert written["settings"]["descriptor"]["side"] == config.folder.descriptor.side


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* is more than")
def test_quick_grocery_reads_classes_from_folders(tmp_path):
    scenes = compose_scenes(tmp_path / "scenes", config=few_scenes())
    for side, shown in ("train", scenes.database), ("test", scenes.queries):
        source = scenes.folder / ("database" if side == "train" else "queries")
        for scene in shown:
            target = tmp_path / "data" / side / str(scene.object)
            target.mkdir(parents=True, exist_ok=True)
            (target / scene.name).write_bytes((source / scene.name).read_bytes())
    config = few_resamples(EvaluateConfig(GroceryData(tmp_path / "data")))
    record = run(config, tmp_path / "work", records=tmp_path / "records")
    assert [result["method"] for result in record["results"]] == METHODS
    assert record["settings"]["images"] == len(scenes.database)


def test_a_picture_that_cannot_be_read_is_refused_since_answers_are_positions(tmp_path):
    for side in "train", "test":
        folder = tmp_path / side / "a"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(
            255, size=(64, 64, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / "good.png")
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad\.png"):
        run(
            EvaluateConfig(GroceryData(tmp_path)),
            tmp_path / "work",
            records=tmp_path / "records",
        )
    assert not (tmp_path / "records").exists()


def test_the_demonstration_and_the_experiment_have_the_same_settings():
    assert card.full()["scenes"].compare == CompareConfig(global_k=10, global_query_k=3)
