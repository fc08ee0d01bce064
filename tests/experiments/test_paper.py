"""Tables and figures of the paper at their quick settings, on a small collection."""

import dataclasses
import importlib
import pathlib
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import random_average_precision

from configs import paper
from configs.table2 import TRIED_SETTINGS
from diffjax.datasets import GroundTruth
from diffjax.evaluation import bootstrap_interval
from diffjax.images import DescriptorConfig
from diffjax.regions import fit_pca_whitening
from diffjax.report import read_records
from experiments import _collections, _entries
from experiments._benchmarks import find_benchmark, load_benchmark
from experiments._entries import read_query_precision
from experiments.paper import _crow_netvlad, _gains, _methods, departures, text
from experiments.paper._gains import measure_gains
from experiments.paper._methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")

FIGURES = "figure2", "figure3", "figure4", "figure5", "figure6"
FEW = "R-MAC", "R-match", "regional diffusion"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Folder with the index of the pictures for all experiments."""
    return tmp_path_factory.mktemp("work")


def run_quick(name, workdir, records, **changes):
    """Runs an experiment of this name and returns its settings and record."""
    card = importlib.import_module(f"configs.{name}")
    config = dataclasses.replace(card.quick(), **changes)
    run = importlib.import_module(f"experiments.paper.{name}").run
    record = run(config, workdir, records=records)
    assert read_records(records / f"{name}_{config.benchmark}.jsonl") == [record]
    return config, record


@pytest.mark.full
@pytest.mark.parametrize(
    "methods",
    [FEW, pytest.param(tuple(METHODS), marks=pytest.mark.full)],
    ids=["few", "all"],
)
def test_every_method_of_the_table_is_tuned_and_compared(methods, workdir, tmp_path):
    config, record = run_quick("table2", workdir, tmp_path, methods=methods)
    assert [result["method"] for result in record["results"]] == list(methods)
    for result in record["results"]:
        assert result["low"] <= result["mean_ap"] <= result["high"]
        assert 1 <= result["tried"] <= config.trials
        precision = read_query_precision(result)
        assert precision is not None
        assert len(precision) == record["settings"]["queries"]
        assert np.nanmean(precision) == pytest.approx(result["mean_ap"], abs=1e-4)
    descriptor = record["settings"]["descriptor"]
    assert {"map": "head", "side": 320, "grid": 3}.items() <= descriptor.items()
    last = record["results"][-1]
    assert (last["method"], last["instre_map"]) == ("regional diffusion", 0.8)
    assert "differences" not in last
    for result in record["results"][:-1]:
        (difference,) = result["differences"]
        gap = result["mean_ap"] - last["mean_ap"]
        assert difference["mean"] == pytest.approx(gap, abs=1e-9)
        assert 0 <= difference["p"] <= 1


def test_the_methods_of_the_paper_are_compared():
    assert set(paper.TABLE2) <= set(METHODS) == set(TRIED_SETTINGS)


def test_cached_trials_are_not_computed_again(workdir, tmp_path, monkeypatch):
    methods = "R-MAC", "R-match"
    _, first = run_quick("table2", workdir, tmp_path / "a", methods=methods)
    trials = {path.name for path in (workdir / "results").iterdir()}

    def refuse(*_, **__):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        for name in methods:
            again = METHODS[name]._replace(score=refuse)
            patch.setattr(_methods, "METHODS", {**METHODS, name: again})
        _, second = run_quick("table2", workdir, tmp_path / "b", methods=methods)
    assert second["results"] == first["results"]
    assert {path.name for path in (workdir / "results").iterdir()} == trials


@pytest.mark.full
def test_a_changed_setting_computes_only_trials_that_depend_on_it(
    workdir, tmp_path, monkeypatch
):
    run_quick("table1", workdir, tmp_path / "a", k=(20,))
    computed = []
    name = "regional diffusion"

    def count(collection, **settings):
        computed.append(settings)
        return METHODS[name].score(collection, **settings)

    counted = {**METHODS, name: METHODS[name]._replace(score=count)}
    monkeypatch.setattr(_methods, "METHODS", counted)
    run_quick("table1", workdir, tmp_path / "b", k=(20, 10))
    assert computed == [
        {"k": 10, "query_k": 10, "pooling": "sum"},
        {"k": 10, "query_k": 10, "pooling": "gmp"},
    ]
    # Figures share cached scores of the same graph.
    run_quick("figure7", workdir, tmp_path / "c", k=15)
    assert computed[2:] == [{"k": 15, "query_k": 15}]
    run_quick("figure6", workdir, tmp_path / "c", k=15)
    assert len(computed) == 3


def test_an_unknown_method_is_refused_before_anything_is_described(tmp_path):
    with pytest.raises(ValueError, match=r"methods must be of CroW, .* got R-MACC"):
        run_quick("table2", tmp_path / "none", tmp_path, methods=("R-MACC",))
    assert not (tmp_path / "none").exists()


def test_table_1_compares_both_poolings_on_the_same_graph(workdir, tmp_path):
    _, record = run_quick("table1", workdir, tmp_path)
    assert [r["method"] for r in record["results"]] == ["sum, k 20", "GMP, k 20"]
    assert [r["instre_map"] for r in record["results"]] == pytest.approx([0.791, 0.8])
    assert record["results"][1]["differences"][0]["against"] == "sum, k 20"


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in {"figure2", "figure6"}
        else pytest.param(name, marks=pytest.mark.full)
        for name in FIGURES
    ],
)
def test_a_figure_is_drawn_and_recorded(name, workdir, tmp_path):
    config, record = run_quick(name, workdir, tmp_path)
    drawn = {path.suffix for path in tmp_path.glob(f"{name}_{config.benchmark}.*")}
    assert drawn == {".jsonl", ".svg", ".png"}
    assert len(record["results"]) >= 2
    methods = [r for r in record["results"] if "method" in r]
    assert any("differences" in entry for entry in methods)
    assert all("query_average_precision" in entry for entry in methods)


@pytest.mark.full
def test_causes_are_changed_one_at_a_time(workdir, tmp_path):
    config, record = run_quick("departures", workdir, tmp_path)
    entries = [r for r in record["results"] if "method" in r]
    rows = [r for r in record["results"] if "changed" in r]
    half = len(rows) // 2
    methods, causes = rows[:half], rows[half:]
    assert len(entries) == 3 * half
    assert len([e for e in entries if "differences" in e]) == half
    changed = {result["changed"]: result for result in methods}
    assert [result["changed"] for result in causes] == list(changed)
    assert list(changed) == [
        "nothing",
        f"pictures at {config.side} px",
        f"{config.scenes_per_object} scenes an object",
        f"whitened on {config.elsewhere}",
        "PCA without whitening",
    ]
    first = config.composed
    more = changed[f"{config.scenes_per_object} scenes an object"]["images"]
    added = config.scenes_per_object - first.scenes_per_object
    assert more - changed["nothing"]["images"] == first.objects * added
    same = {r["images"] for name, r in changed.items() if "scenes" not in name}
    assert same == {changed["nothing"]["images"]}
    assert all(0 <= r["R-match + AQE, %"] <= 100 for r in methods)
    for cause in causes:
        assert 0 < cause["mutual of 10"] <= 10
        assert 0 <= cause["positives in the best 10%, %"] <= 100


@pytest.mark.full
def test_whitening_is_fitted_elsewhere_and_dimensions_stay(workdir, monkeypatch):
    config = importlib.import_module("configs.departures").quick()
    fitted = []

    def note(vectors, *, dim):
        fitted.append(np.asarray(vectors))
        return fit_pca_whitening(vectors, dim=dim)

    monkeypatch.setattr(departures, "fit_pca_whitening", note)
    changed = dict(departures._collections(config, workdir))
    raw = load_benchmark(dataclasses.replace(config, dim=None), workdir)
    (used,) = fitted
    unwhitened = np.asarray(raw.index.vectors)
    assert used.shape != unwhitened.shape or not np.allclose(used, unwhitened)
    dims = {c.index.vectors.shape[1] for c in changed.values()}
    assert dims == {config.dim}
    for collection in changed.values():
        lengths = np.linalg.norm(collection.regions, axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_a_missing_collection_is_an_error_before_pictures_are_described(tmp_path):
    config = importlib.import_module("configs.departures").quick()
    config = dataclasses.replace(config, elsewhere="grocery", data=tmp_path)
    with pytest.raises(ValueError, match="grocery_packages"):
        next(departures._collections(config, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_recall_looks_at_a_hundred_images():
    m = 150
    truth = GroundTruth(
        name="made",
        database=tuple(map(str, range(m))),
        queries=("q",),
        boxes=(None,),
        positives=(np.array([0, 99, 100, 149]),),
        junk=(np.array([], int),),
        objects=("a",),
    )
    index: Any = types.SimpleNamespace(num_images=m)
    nothing = jnp.zeros((1, 2))
    collection = _collections.Collection(index, nothing, np.zeros(1, int), truth)
    got = collection.evaluate_answers(-jnp.arange(m, dtype=jnp.float32)[:, None])
    assert got.recall_at_100.tolist() == [0.5]
    assert got.precision_at_10.tolist() == [0.1]


@pytest.mark.full
def test_scores_of_means_are_those_of_an_index_of_them(workdir):
    config = importlib.import_module("configs.figure4").quick()
    collection = load_benchmark(config, workdir)
    settings = {"components": 3, "k": 10, "query_k": 10}
    index = _methods.index_of_means(collection, **settings)
    m = collection.index.num_images
    got = index.search(collection.regions, collection.query_ids, top=m)
    expected = np.zeros((len(got.images), m))
    np.put_along_axis(expected, np.asarray(got.images), np.asarray(got.scores), 1)
    scores = _methods.score_by_mixture_diffusion(collection, **settings)
    np.testing.assert_allclose(scores, expected.T, rtol=1e-5, atol=1e-9)


@pytest.mark.full
def test_a_descriptor_of_other_settings_has_an_index_of_its_own(workdir):
    config = importlib.import_module("configs.departures").quick()
    whitened = load_benchmark(config, workdir)
    raw = load_benchmark(dataclasses.replace(config, dim=None), workdir)
    again = load_benchmark(config, workdir)
    assert raw.index.vectors.shape[1] == 1280
    assert whitened.digest == again.digest != raw.digest


def test_the_page_of_figure_7_shows_ranks_gained(workdir, tmp_path):
    config, record = run_quick("figure7", workdir, tmp_path)
    page = (tmp_path / f"figure7_{config.benchmark}.html").read_text()
    queries = [result for result in record["results"] if "object" in result]
    assert page.count("<section") == len(queries) == config.queries
    assert "→ 100 %" in page
    assert len({result["object"] for result in queries}) == config.queries


@pytest.mark.full
def test_the_text_has_a_value_for_each_of_the_papers(workdir, tmp_path):
    config, record = run_quick("text", workdir, tmp_path)
    rows = [result for result in record["results"] if "what" in result]
    ours = {result["what"]: result["ours"] for result in rows}
    collection = load_benchmark(config, workdir)
    precision = _methods.method_outcome(
        "regional diffusion", collection, k=config.k, query_k=config.k
    ).precision[: config.inserted]
    assert config.inserted < collection.num_queries
    name = f"query through its neighbours, the first {config.inserted} queries"
    assert ours[name] == pytest.approx(100 * precision.mean())
    papers = " ".join(result["paper"] for result in rows)
    for value in ("80.0", "77.7", "92.5", "91.6", "95.2", "94.6", "25", "75"):
        assert value in papers
    for value in ("0.001", "0.321", "0.02", "0.664", "13.9", "1.0", "20", "110"):
        assert value in papers
    assert all(np.isfinite(result["ours"]) for result in rows)
    compared = [r["method"] for r in record["results"] if "differences" in r]
    assert len(compared) == 3


def test_junk_is_left_out_of_the_ranks(workdir):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    positives = collection.truth.positives[0]
    rest = np.setdiff1d(np.arange(collection.index.num_images), positives)
    junk = (rest, *collection.truth.junk[1:])
    truth = collection.truth._replace(junk=junk)
    without = dataclasses.replace(collection, truth=truth)
    got = measure_gains(without, k=20, global_k=5, global_query_k=3)
    # All wrong answers of the first query are junk: its positives alone are left.
    for ranks in got.ranks[got.query == 0].T:
        assert sorted(ranks) == list(range(len(positives)))
    assert (got.precision[got.query == 0] == 1).all()


def test_gains_have_the_precision_of_counted_ranks(workdir):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    got = measure_gains(collection, k=20, global_k=5, global_query_k=3)
    positives = [list(p) for p in collection.truth.positives]
    assert got.image.tolist() == [image for images in positives for image in images]
    # Precision of the last positive is their number over its rank.
    for query, images in enumerate(positives):
        rows = got.query == query
        worst = got.ranks[rows].max(0)
        last = np.argmax(got.ranks[rows], 0)
        precision = got.precision[rows][last, [0, 1]]
        np.testing.assert_allclose(precision, len(images) / (worst + 1))


def test_gains_are_of_the_two_methods_at_their_own_settings(workdir, monkeypatch):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    asked = {}

    def note(name, collection, **settings):
        asked[name] = settings
        return _methods.method_scores(name, collection, **settings)

    monkeypatch.setattr(_gains, "method_scores", note)
    got = measure_gains(collection, k=20, global_k=5, global_query_k=3)
    assert asked == {
        "global diffusion": {"k": 5, "query_k": 3},
        "regional diffusion": {"k": 20, "query_k": 20},
    }
    for column, (name, settings) in enumerate(asked.items()):
        expected = _methods.method_outcome(name, collection, **settings).precision
        np.testing.assert_array_equal(got.average_precision[:, column], expected)


def test_intervals_of_an_entry_are_over_objects(workdir):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    count = collection.num_queries
    two = tuple("ab"[number < count // 2] for number in range(count))
    of_two = dataclasses.replace(
        collection, truth=collection.truth._replace(objects=two)
    )
    measure = np.linspace(0, 1, count)
    outcome = _collections.Outcome(measure, measure, measure, measure)
    entry = of_two.make_entry("R-match", outcome)
    grouped = bootstrap_interval(outcome.precision, groups=two, seed=0)
    alone = bootstrap_interval(outcome.precision, seed=0)
    assert (entry["low"], entry["high"]) == (grouped.low, grouped.high)
    assert (grouped.low, grouped.high) != (alone.low, alone.high)


def test_precision_and_recall_of_first_answers_are_counts(workdir):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    m, q = collection.index.num_images, collection.num_queries
    # The images in the order of their numbers, for every query.
    falling = jnp.broadcast_to(-jnp.arange(m, dtype=jnp.float32)[:, None], (m, q))
    got = collection.evaluate_answers(falling)
    for query, positives in enumerate(collection.truth.positives):
        cutoff = min(10, 1 + max(positives))
        num_right = sum(image < cutoff for image in positives)
        assert got.precision_at_10[query] == pytest.approx(num_right / cutoff)
        assert got.recall_at_100[query] == 1  # There are fewer images than a hundred.


@pytest.mark.full
def test_the_text_gives_seconds_of_one_query(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "time_calls", lambda *runs, **_: (3.0,) * len(runs))
    config, record = run_quick("text", workdir, tmp_path)
    rows = [r for r in record["results"] if "what" in r]
    seconds = [r["ours"] for r in rows if r["what"].endswith("one query")]
    assert seconds == [3.0 / config.timed] * 5


def test_ties_have_the_precision_of_random_ranks(workdir):
    config = importlib.import_module("configs.figure7").quick()
    collection = load_benchmark(config, workdir)
    m, q = collection.index.num_images, collection.num_queries
    nothing = collection.evaluate_answers(jnp.zeros((m, q)))
    for positives, chance in zip(
        collection.truth.positives, nothing.expected_precision, strict=True
    ):
        expected = random_average_precision(len(positives), m)
        assert chance == pytest.approx(expected, rel=1e-9)
    assert (nothing.precision != nothing.expected_precision).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": "folder"}, "give --pictures"),
        ({"benchmark": "oxford5k"}, "oxford5k must be in a folder, got none at"),
        ({"benchmark": "oxford105k", "pictures": pathlib.Path()}, "give --distractors"),
        ({"benchmark": "instre", "data": pathlib.Path("none")}, "diffjax fetch instre"),
    ],
    ids=["folder", "oxford5k", "distractors", "truth"],
)
def test_errors_of_missing_benchmarks_name_files_and_folders(
    changes, message, tmp_path, shared_data
):
    config = importlib.import_module("configs.table1").quick()
    config = dataclasses.replace(config, **({"data": shared_data} | changes))
    with pytest.raises(ValueError, match=message):
        find_benchmark(config, tmp_path)


class OtherNetwork:
    """Network of which only the names of maps are looked at."""

    strides = types.MappingProxyType({"conv4": 8, "conv5": 16, "pool5": 32})


def test_crow_and_netvlad_use_the_network_and_the_side_of_the_descriptor(monkeypatch):
    loaded = {"efficientnet-lite0": OtherNetwork(), "vgg16": OtherNetwork()}
    pretrained = {
        name: types.SimpleNamespace(network=network, architecture=name)
        for name, network in loaded.items()
    }
    described = []
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)

    def describe(_, describer, descriptor):
        described.append((describer.network, describer.name, descriptor.side))
        return _crow_netvlad.PictureVectors(vectors, vectors[:2])

    def describe_cells(sources, describer, *, sides, **_):
        described.append((describer.network, describer.name, *sides))
        yield _crow_netvlad.DescribedPicture(0, vectors, np.zeros((6, 4), np.float32))

    for module in (_entries, _crow_netvlad):
        monkeypatch.setattr(
            module, "load_pretrained", lambda config: pretrained[config.network]
        )
    monkeypatch.setattr(_crow_netvlad, "_describe_benchmark", describe)
    monkeypatch.setattr(_crow_netvlad, "describe_pictures", describe_cells)
    truth: Any = types.SimpleNamespace(database=("a",))
    for name, netvlad_map in {"efficientnet-lite0": "stage6", "vgg16": "conv5"}.items():
        descriptor = DescriptorConfig(network=name, side=416)
        described.clear()
        _crow_netvlad.crow_vectors(truth, descriptor)
        _crow_netvlad.netvlad_vectors(truth, descriptor, clusters=2)
        network = loaded[name]
        assert described == [
            (network, "conv5", 416),
            (network, netvlad_map, 416),
            (network, netvlad_map, 416),
        ]
