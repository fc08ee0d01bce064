import dataclasses
import sys

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import scipy.stats

from configs import figure1
from diffjax.datasets import toy_manifolds
from diffjax.evaluation import average_precision
from diffjax.graph import affinity, normalize
from diffjax.report import read_records
from experiments import _runner
from experiments.paper import figure1 as experiment
from experiments.paper._plane_diffusion import nearest_points, score_plane, search_plane
from experiments.paper.figure1 import run

QUICK = figure1.quick()
RED, GREEN, BLUE = (0xD7, 0x19, 0x1C), (0x12, 0x89, 0x4A), (0x2A, 0x5C, 0xA8)


def change(**settings):
    return dataclasses.replace(QUICK, **settings)


def points_and_graph(config):
    toy = toy_manifolds(
        points_per_manifold=config.points_per_manifold,
        clutter=config.clutter,
        noise=config.noise,
        seed=config.seed,
    )
    neighbors = nearest_points(
        toy.points, toy.points, config.k, bandwidth=config.bandwidth
    )
    return toy, normalize(affinity(neighbors, gamma=1.0))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Folder and record of a run."""
    folder = tmp_path_factory.mktemp("figure1")
    return folder, run(QUICK, folder, records=folder)


@pytest.fixture(scope="module")
def picture(finished_run):
    with PIL.Image.open(finished_run[0] / "figure1.png") as drawn:
        drawn.load()
        assert drawn.format == "PNG"
        return np.asarray(drawn.convert("RGB")).astype(int)


def where(picture, color):
    """Mask of the pixels of a colour, [height, width]."""
    return (np.abs(picture - np.array(color)) <= 3).all(-1)


def spots(picture, color, *, least):
    """Counts the connected areas of a colour, of `least` pixels or more."""
    got = where(picture, color)
    areas = np.zeros(got.shape, np.int32)
    scipy.ndimage.label(got, output=areas)
    return int(np.sum(np.bincount(areas.ravel())[1:] >= least))


def test_nearest_points_and_their_similarities_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    points, centres = (rng.normal(size=(n, 2)).astype(np.float32) for n in (9, 4))
    got = nearest_points(points, centres, 3, bandwidth=0.7)
    for centre, indices, values in zip(centres, *map(np.asarray, got), strict=True):
        squares = [float(np.sum((centre - point) ** 2)) for point in points]
        expected = sorted(range(9), key=squares.__getitem__)[:3]
        assert indices.tolist() == expected
        similar = [np.exp(-squares[i] / (2 * 0.7**2)) for i in expected]
        np.testing.assert_allclose(values, similar, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_scores_are_those_of_a_dense_solve(count):
    toy, graph = points_and_graph(QUICK)
    y = np.zeros(len(toy.points))
    squares = np.sum((toy.queries[:count, None] - toy.points) ** 2, axis=-1)
    for row in squares:  # eq. 8, query by query.
        for i in np.argsort(row)[: QUICK.query_k]:
            y[i] += np.exp(-row[i] / (2 * QUICK.bandwidth**2))
    system = np.eye(len(y)) - QUICK.alpha * graph.to_scipy().toarray().astype(float)
    expected = np.linalg.solve(system, y)
    got = search_plane(toy, graph, count, config=QUICK)
    # A residual of 1e-6 |y|, and the smallest eigenvalue is 1 - alpha = 0.01.
    atol = 2e-4 * float(np.linalg.norm(y))
    np.testing.assert_allclose(got.scores, expected, rtol=1e-3, atol=atol)
    assert got.nearest_points.tolist() == np.flatnonzero(y).tolist()


@pytest.mark.parametrize(
    ("seed", "count", "most"), [(0, 1, 0.7), (1, 3, 0.95), (2, 1, 0.7)]
)
def test_diffusion_finds_the_manifolds_of_its_queries_and_distance_does_not(
    seed, count, most
):
    config = change(seed=seed)
    done = search_plane(*points_and_graph(config), count, config=config)
    diffused, measured = (result["average_precision"] for result in done.results)
    assert diffused > 0.995
    assert measured < most


def test_average_precision_by_distance_is_that_of_the_nearest_query():
    toy, graph = points_and_graph(QUICK)
    done = search_plane(toy, graph, 3, config=QUICK)
    squares = np.sum((toy.queries[:, None] - toy.points) ** 2, axis=-1).min(axis=0)
    right = toy.labels[np.argsort(squares)] >= 0
    # The trapezoidal mean of precisions lies within 1 / positives of the plain one.
    expected = (np.cumsum(right) / np.arange(1, right.size + 1))[right].mean()
    got = done.results[1]["average_precision"]
    np.testing.assert_allclose(got, expected, atol=1 / right.sum())


def test_scores_fall_along_the_manifold():
    toy, graph = points_and_graph(QUICK)
    scores = search_plane(toy, graph, 1, config=QUICK).scores
    on_manifold = toy.labels == 0
    # Seen from the origin, the first arm winds from 0 to 1.4 pi.
    around, query = (
        np.mod(np.arctan2(at[..., 1], at[..., 0]), 2 * np.pi)
        for at in (toy.points, toy.queries[0])
    )
    for side in on_manifold & (around > query), on_manifold & (around < query):
        away = np.abs(around - query)[side]
        ranks = [scipy.stats.rankdata(values) for values in (away, scores[side])]
        assert np.corrcoef(ranks)[0, 1] < -0.97


def test_score_of_the_plane_is_the_formula():
    rng = np.random.default_rng(1)
    points, scores = rng.normal(size=(5, 2)), rng.uniform(size=5)
    x, y = np.array([0.0, 0.4, 9.0]), np.array([-0.3, 0.2])
    got = score_plane(points, scores, x, y, bandwidth=0.5)
    assert got.shape == (2, 3)
    for row, second in enumerate(y):
        for column, first in enumerate(x):
            squares = np.sum((points - [first, second]) ** 2, axis=1)
            s = np.exp(-squares / (2 * 0.5**2))
            expected = np.sum(s * scores) / (1 + np.sum(s))
            np.testing.assert_allclose(got[row, column], expected, rtol=1e-12)
    assert (got[:, 2] < 1e-12).all()  # Far from all points nothing is left.


@pytest.mark.parametrize("count", [1, 3])
def test_contours_follow_the_manifolds_of_the_queries(count):
    toy, graph = points_and_graph(QUICK)
    done = search_plane(toy, graph, count, config=QUICK)
    x, y = toy.points.T
    plane = score_plane(toy.points, done.scores, x, y, bandwidth=QUICK.bandwidth)
    read = np.diag(plane)
    wanted = (toy.labels >= 0) & (toy.labels < count)
    # On a manifold as in the data; the zero that a place adds lowers it a little.
    np.testing.assert_allclose(read[wanted], done.scores[wanted], rtol=0.3)
    assert (read[toy.labels >= count] < 1e-3 * done.scores.max()).all()
    assert average_precision(np.argsort(-read), np.flatnonzero(wanted)) > 0.99


def test_a_run_leaves_a_figure_and_a_record(finished_run, picture):
    folder, record = finished_run
    assert {path.name for path in folder.iterdir()} == {"figure1.jsonl", "figure1.png"}
    assert read_records(folder / "figure1.jsonl") == [record]
    assert picture.shape == (808, 1600, 3)
    assert [r["method"] for r in record["results"]] == ["diffusion", "distance"] * 2
    assert [r["queries"] for r in record["results"]] == [1, 1, 3, 3]
    for result in record["results"][::2]:
        assert result["residual"] <= QUICK.rtol
        assert 20 < result["num_steps"] < QUICK.max_steps
    assert record["settings"] == dataclasses.asdict(QUICK)
    assert record["seed"] == QUICK.seed


def test_the_figure_shows_one_query_left_and_three_right_among_their_points(picture):
    # Below the titles and above the legend, which has a mark of each kind too.
    left, right = picture[50:755, :733], picture[50:755, 733:1460]
    assert [spots(panel, RED, least=20) for panel in (left, right)] == [1, 3]
    for panel, count in ((left, 1), (right, 3)):
        # Neighbours may overlap each other or their query.
        near = spots(panel, GREEN, least=5)
        assert count <= near <= count * QUICK.query_k
        assert spots(panel, BLUE, least=3) > 200
    # Around the query are the highest scores, in the colour of the bar's upper end.
    y, x = np.argwhere(where(left, RED)).mean(axis=0).astype(int)
    assert where(left[y - 40 : y + 40, x - 40 : x + 40], picture[60, 1490]).mean() > 0.3


def test_three_queries_colour_more_of_the_plane_than_one(picture):
    panels = picture[50:755, :733], picture[50:755, 733:1460]
    # From pale yellow to orange: much less blue than red, and red at its most.
    one, three = (
        np.sum((panel[..., 0] > 225) & (panel[..., 2] < 230)) for panel in panels
    )
    assert 0.05 < one / panels[0][..., 0].size < 0.4
    assert 2 < three / one < 4


def test_drawing_leaves_a_margin(picture):
    for edge in (picture[:4], picture[-4:], picture[:, :4], picture[:, -4:]):
        assert (edge == 255).all()


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(
    finished_run, tmp_path
):
    first = (finished_run[0] / "figure1.png").read_bytes()
    assert b"atplotlib" not in first
    record = run(QUICK, tmp_path, records=tmp_path / "again")
    assert (tmp_path / "again" / "figure1.png").read_bytes() == first
    assert record["results"] == finished_run[1]["results"]
    run(change(seed=1), tmp_path, records=tmp_path / "other")
    assert (tmp_path / "other" / "figure1.png").read_bytes() != first


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"points_per_manifold": 0}, "points_per_manifold must be .* got 0"),
        ({"clutter": -1}, "clutter must be .* got -1"),
        ({"noise": -1.0}, "noise must be .* got -1.0"),
        ({"bandwidth": 0.0}, "bandwidth must be finite and above 0, got 0.0"),
        ({"bandwidth": 1e-4}, "bandwidth must give a data point .* got 0.0001"),
        ({"k": 0}, r"k must be in 1..440 \(n\), got 0"),
        ({"query_k": 441}, r"k must be in 1..440 \(n\), got 441"),
        ({"alpha": 1.0}, "alpha must be .* got 1.0"),
        ({"max_steps": 0}, "max_steps must be .* got 0"),
        ({"grid": 1}, "grid must be at least 2, got 1"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(
    unchecked, tmp_path, settings, rule
):
    with pytest.raises(ValueError, match=rule):
        run(change(**settings), tmp_path, records=tmp_path / "records")
    assert not list(tmp_path.iterdir())


def test_the_command_line_changes_settings(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_runner, "RECORDS", tmp_path)
    monkeypatch.setattr(_runner, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(_runner, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(figure1, "full", figure1.quick)
    monkeypatch.setattr(sys, "argv", ["experiments", "--alpha", "0.9"])
    experiment.main()
    (record,) = read_records(tmp_path / "figure1.jsonl")
    assert record["settings"] == dataclasses.asdict(change(alpha=0.9))
    printed = capsys.readouterr().out
    for result in record["results"]:
        assert f"{result['average_precision']:.3g}" in printed
