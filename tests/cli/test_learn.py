"""`diffjax learn` and `search --params`, on a few composed scenes."""

import csv
import dataclasses
import sys

import numpy as np
import pytest

from diffjax.cli import _main as cli
from diffjax.cli._learn import learn_from_labels
from diffjax.datasets import ScenesConfig, compose_scenes, read_labels
from diffjax.index import Index, IndexConfig, index_folder
from diffjax.learning import FitConfig, FitResult, load_parameters, parameters

SCENES = ScenesConfig(
    objects=4, scenes_per_object=3, empty_scenes=2, queries_per_object=1
)
CONFIG = IndexConfig.of(dim=8, k=20, query_k=10)
COLUMNS = "picture", "x0", "y0", "x1", "y1", "label"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with pictures, their index, and labels of them."""
    home = tmp_path_factory.mktemp("learn")
    scenes = compose_scenes(home / "scenes", config=SCENES)
    index_folder(scenes.folder / "database", home / "index", config=CONFIG)
    with (home / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for scene in scenes.database:
            if scene.box is not None:
                rows.writerow([scene.name, *scene.box, f"thing {scene.object}"])
    return home


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["diffjax", *map(str, words)])
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.filterwarnings("ignore:.*fewer|.*residual")
def test_learned_parameters_are_used_by_search(home, tmp_path, monkeypatch, capsys):
    out = tmp_path / "params.safetensors"
    labels = home / "labels.csv"
    words = home / "index", "--queries", labels, "--out", out, "--steps", 20
    assert run(monkeypatch, "learn", *words) == 0
    output = capsys.readouterr().out
    assert "held out: thing " in output
    assert "which were chosen there" in output
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    index = Index.open(home / "index")
    stored = load_parameters(out, fingerprint=index.fingerprint)
    assert stored.notes["steps"] == 20
    picture = home / "scenes" / "database" / "scene_00000.jpg"
    assert run(monkeypatch, "search", home / "index", picture, "--params", out) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    best = index.with_parameters(stored.parameters).search_picture(picture)
    assert index.pictures is not None
    assert [line.split()[-1] for line in lines] == [
        index.pictures.names[image] for image in best.images[0].tolist()
    ]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.*fewer|.*residual")
def test_shrinkage_is_searched_with_as_a_projection(home, tmp_path, monkeypatch):
    out = tmp_path / "params.safetensors"
    words = home / "index", "--queries", home / "labels.csv", "--out", out
    parts = "--parts", "alpha", "shrinkage", "emphasis", "--steps", 20
    assert run(monkeypatch, "learn", *words, *parts) == 0
    stored = load_parameters(out).parameters
    assert stored.shrinkage is None
    # Of so few pictures it may be no better than the index, which is then kept.
    assert stored.projection is None or stored.projection.shape == (8, 8)
    picture = home / "scenes" / "database" / "scene_00000.jpg"
    assert run(monkeypatch, "search", home / "index", picture, "--params", out) == 0


@pytest.mark.filterwarnings("ignore:.*fewer|.*residual")
@pytest.mark.parametrize(("held_out", "kept"), [(0.0, False), (1.1, True)])
def test_a_whitening_that_is_no_better_than_the_index_is_not_kept(
    home, monkeypatch, held_out, kept
):
    # Learning ends as it is told to; what the index itself finds is judged in earnest.
    whitened = parameters(("projection",), dim=8, alpha=0.5)
    ended = FitResult(whitened, {"held_out": np.array([held_out])}, 5, "steps", 1)
    monkeypatch.setattr("diffjax.cli._learn.fit", lambda *_, **__: ended)
    index, truth = Index.open(home / "index"), read_labels(home / "labels.csv")
    got = learn_from_labels(
        index,
        truth,
        learned=("alpha", "shrinkage", "emphasis"),
        config=FitConfig(k=20, query_k=10),
    )
    assert 0 < got.precision_before <= 1
    assert got.precision_after == (held_out if kept else got.precision_before)
    learned_parameters = got.fit_result.parameters
    assert (learned_parameters.projection is not None) == kept
    assert float(learned_parameters.alpha) == pytest.approx(
        0.5 if kept else index.config.search.alpha
    )


def test_parameters_of_another_index_are_refused(home, tmp_path, monkeypatch, capsys):
    out = tmp_path / "params.safetensors"
    labels = home / "labels.csv"
    words = home / "index", "--queries", labels, "--out", out, "--steps", 20
    assert run(monkeypatch, "learn", *words) == 0
    index = Index.open(home / "index")
    other = Index.build(np.array(index.vectors)[::-1], config=IndexConfig.of(k=5))
    other.save(tmp_path / "other")
    picture = home / "scenes" / "database" / "scene_00000.jpg"
    capsys.readouterr()
    code = run(monkeypatch, "search", tmp_path / "other", picture, "--params", out)
    said = capsys.readouterr().err
    assert code == 1
    assert "was learned on another index" in said
    assert said.count("\n") == 1


@pytest.mark.full
def test_the_labels_are_split_by_object_and_the_row_itself_does_not_count(home):
    index, truth = Index.open(home / "index"), read_labels(home / "labels.csv")
    config = FitConfig(steps=2, evaluate_every=2, batch=2, k=20, query_k=10)
    got = learn_from_labels(index, truth, config=config)
    assert len(got.held_out) == 1
    assert 0 <= got.precision_before <= got.precision_after <= 1
    assert got.fit_result.num_solves > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("scene_0000", "none_0000"), "that it does not hold"),
        (
            lambda text: (
                text.replace("thing 1", "thing 0")
                .replace("thing 2", "thing 0")
                .replace("thing 3", "thing 0")
            ),
            "two objects or more",
        ),
    ],
    ids=["another index", "one object"],
)
def test_labels_that_teach_nothing_are_refused(home, tmp_path, change, message):
    path = tmp_path / "labels.csv"
    path.write_text(change((home / "labels.csv").read_text()))
    with pytest.raises(ValueError, match=message):
        learn_from_labels(Index.open(home / "index"), read_labels(path))


@pytest.mark.parametrize(
    "changes",
    [{"shortlist": 4}, {"local_nodes": 99}, {"pooling": "sum"}, {"rule": "official"}],
)
def test_an_index_of_another_search_is_refused(home, changes):
    index, truth = Index.open(home / "index"), read_labels(home / "labels.csv")
    other = dataclasses.replace(index, config=index.config.replace(**changes))
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"an index with {name} {value}"):
        learn_from_labels(other, truth)


def test_an_index_of_vectors_has_no_pictures_to_learn_from(home):
    index = Index.build(
        np.eye(8, dtype=np.float32), config=IndexConfig.of(k=3, query_k=3)
    )
    with pytest.raises(ValueError, match=r"learning.fit"):
        learn_from_labels(index, read_labels(home / "labels.csv"))
