import dataclasses

import numpy as np
import pytest
from PIL import Image

from configs import grocery, scenes
from configs.schema import EvaluateConfig, GroceryData
from diffjax.datasets import compose_scenes
from diffjax.index import CompareConfig
from diffjax.report import read_records
from experiments.paper.evaluate import CARDS, run

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


@pytest.mark.filterwarnings("ignore:.* is more than")  # Few pictures here.
def test_quick_scenes_leave_a_record_and_the_same_command_repeats_its_numbers(tmp_path):
    config = few_resamples(scenes.quick())
    first = run(config, tmp_path / "work", records=tmp_path / "records")
    again = run(config, tmp_path / "work", records=tmp_path / "records")
    assert [result["method"] for result in first["results"]] == METHODS
    assert again["results"] == first["results"]
    assert read_records(tmp_path / "records" / "scenes.jsonl") == [first, again]


@pytest.mark.filterwarnings("ignore:.* is more than")
def test_quick_grocery_reads_classes_from_folders(tmp_path):
    made = compose_scenes(tmp_path / "scenes", config=scenes.few_scenes())
    for part, shown in ("train", made.database), ("test", made.queries):
        source = made.folder / ("database" if part == "train" else "queries")
        for scene in shown:
            target = tmp_path / "data" / part / str(scene.object)
            target.mkdir(parents=True, exist_ok=True)
            (target / scene.name).write_bytes((source / scene.name).read_bytes())
    config = few_resamples(grocery.quick(GroceryData(tmp_path / "data")))
    record = run(config, tmp_path / "work", records=tmp_path / "records")
    assert [result["method"] for result in record["results"]] == METHODS
    assert record["settings"]["images"] == len(made.database)


def test_a_picture_that_cannot_be_read_is_refused_since_answers_are_positions(tmp_path):
    for part in "train", "test":
        folder = tmp_path / part / "a"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(
            255, size=(64, 64, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(folder / "good.png")
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad\.png"):
        run(
            grocery.quick(GroceryData(tmp_path)),
            tmp_path / "work",
            records=tmp_path / "records",
        )
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("name", CARDS)
def test_each_config_is_a_card(name):
    text = CARDS[name].__doc__
    assert text
    for heading in "Paper:", "Data:", "Expected:", "Cost:", "Command:":
        assert heading in text
    assert f"python -m experiments evaluate {name}" in text


def test_the_demonstration_and_the_experiment_have_the_same_settings():
    assert scenes.full().compare == CompareConfig(global_k=10, global_query_k=3)
