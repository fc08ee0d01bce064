import importlib

import numpy as np
import pytest
from matlab_files import StructArray, write_5

from configs.schema import BenchmarkName, Setup
from configs.table1 import Table1Config
from configs.table2 import Table2Config
from diffjax.datasets import read_revisited, read_revisited_names
from experiments import _collections
from experiments._benchmarks import find_benchmark, load_benchmark
from experiments.paper import table1, table2
from experiments.paper._methods import METHODS

NONE = np.zeros((0, 0))


@pytest.fixture(scope="module")
def oxford(shared_data, tmp_path_factory):
    """Empty files in place of all pictures of Oxford5k, and two distractors."""
    tmp_path = tmp_path_factory.mktemp("oxford")
    names = read_revisited_names(shared_data / "ground_truth" / "gnd_roxford5k.pkl")
    for folder, pictures in (("jpg", names), ("others", ("a", "b"))):
        (tmp_path / folder).mkdir()
        for name in pictures:
            (tmp_path / folder / f"{name}.jpg").touch()
    return tmp_path


def test_each_revisited_protocol_has_the_answers_of_its_reader(shared_data, oxford):
    truth = read_revisited(shared_data / "ground_truth" / "gnd_roxford5k.pkl")
    names: tuple[BenchmarkName, ...] = (
        *("roxford5k-easy", "roxford5k-medium", "roxford5k-hard"),
    )
    for name in names:
        setup = Setup(benchmark=name, data=shared_data, pictures=oxford / "jpg")
        benchmark = find_benchmark(setup, oxford)
        assert benchmark.name == name
        assert (len(benchmark.database), len(benchmark.queries)) == (4993, 70)
        protocol = getattr(truth, name.rpartition("-")[2])
        for got, wanted in zip(benchmark.positives, protocol.positives, strict=True):
            np.testing.assert_array_equal(got, wanted)
        for got, wanted in zip(benchmark.junk, protocol.junk, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_distractors_come_after_the_database(shared_data, oxford):
    setup = Setup(
        benchmark="oxford105k",
        data=shared_data,
        pictures=oxford / "jpg",
        distractors=oxford / "others",
    )
    got = find_benchmark(setup, oxford)
    assert (got.name, len(got.database)) == ("oxford105k", 5065)
    assert [path.stem for path in got.database[-2:]] == ["a", "b"]
    listed = oxford / "others" / "list.txt"
    listed.write_text("b.jpg\n")
    setup = Setup(
        benchmark="roxford5k-hard",
        data=shared_data,
        pictures=oxford / "jpg",
        distractors=listed,
    )
    assert [path.stem for path in find_benchmark(setup, oxford).database[4993:]] == [
        "b"
    ]


@pytest.fixture
def released(tmp_path):
    """Descriptors and truth of six images of three regions, as MATLAB wrote them."""
    draw = np.random.default_rng(0)

    def unit(count):
        vectors = draw.normal(size=(16, count))
        return vectors / np.linalg.norm(vectors, axis=0)

    parts = {
        "reg": {"V": [unit(3) for _ in range(6)], "Q": [unit(3) for _ in range(2)]},
        "glob": {"V": [unit(1) for _ in range(6)], "Q": [unit(1) for _ in range(2)]},
    }
    write_5(tmp_path / "oxford5k_siamac.mat", parts)
    gnd = [
        {"ok": np.array([[1.0, 4.0]]), "junk": np.array([[2.0]])},
        {"ok": np.array([[6.0]]), "junk": NONE},
    ]
    halls = [f"{'hall' if i < 5 else 'tower'}_{i}" for i in range(6)]
    names = {"imlist": halls, "qidx": np.array([[1.0, 6.0]])}
    write_5(tmp_path / "gnd_oxford5k.mat", names | {"gnd": StructArray(gnd)})
    return tmp_path, parts


def released_setup(folder, **changes):
    given = {
        "benchmark": "oxford5k",
        "descriptors": folder / "oxford5k_siamac.mat",
        "truth": folder / "gnd_oxford5k.mat",
    }
    return {**given, **changes}


def test_released_descriptors_are_searched_as_they_are(released):
    folder, parts = released
    collection = load_benchmark(Setup(**released_setup(folder)), folder)
    np.testing.assert_allclose(
        collection.index.vectors, np.hstack(parts["reg"]["V"]).T, atol=1e-6
    )
    assert [p.tolist() for p in collection.truth.positives] == [[0, 3], [5]]
    assert [j.tolist() for j in collection.truth.junk] == [[1], []]
    # The global descriptors are those of the release, not sums of its regions.
    expected = np.hstack(parts["glob"]["V"]).T @ np.hstack(parts["glob"]["Q"])
    scores = METHODS["R-MAC"].score(collection)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_descriptors_of_another_data_set_are_refused(released):
    folder, parts = released
    one_less = {
        kind: {"V": sides["V"][:5], "Q": sides["Q"]} for kind, sides in parts.items()
    }
    write_5(folder / "other.mat", one_less)
    setup = Setup(**released_setup(folder, descriptors=folder / "other.mat"))
    with pytest.raises(ValueError, match=r"the 6 images .* got descriptors of 5"):
        load_benchmark(setup, folder)


def released_graph(path, regions, k):
    """The k nearest of every region and minus the products, as the authors' file."""
    products = regions @ regions.T
    order = np.argsort(-products, axis=1)[:, :k]
    best_products = np.take_along_axis(products, order, axis=1)
    write_5(path, {"knn_": (order + 1.0).T, "s_": -best_products.T})


def test_a_released_graph_replaces_the_search_for_neighbors(released, monkeypatch):
    folder, parts = released
    regions = np.hstack(parts["reg"]["V"]).T
    released_graph(folder / "knn.mat", regions, 6)
    without = load_benchmark(Setup(**released_setup(folder)), folder)
    expected = METHODS["regional diffusion"].score(without, k=6, query_k=3)

    def refuse(*_, **__):
        raise AssertionError("searched again")

    monkeypatch.setattr(_collections, "knn", refuse)
    setup = Setup(**released_setup(folder, graph=folder / "knn.mat"))
    collection = load_benchmark(setup, folder)
    assert collection.facts["graph"] == "released"
    got = METHODS["regional diffusion"].score(collection, k=6, query_k=3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"k must be at most the 6 neighbours"):
        METHODS["regional diffusion"].score(collection, k=7, query_k=3)


def test_a_graph_without_its_descriptors_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"graph must be of released descriptors"):
        load_benchmark(Setup(graph=tmp_path / "knn.mat"), tmp_path)


@pytest.mark.filterwarnings("ignore:.* is more than")
def test_rows_that_need_pictures_are_listed_where_there_are_none(released):
    folder, _ = released
    config = Table2Config(**released_setup(folder), methods=("R-MAC", "CroW"), trials=1)
    record = table2.run(config, folder / "work", records=folder / "records")
    assert [r["method"] for r in record["results"]] == ["R-MAC"]
    assert record["settings"]["without_pictures_left_out"] == ["CroW"]


@pytest.mark.filterwarnings("ignore:.* is more than")
def test_a_table_of_released_descriptors_has_the_values_of_the_paper(released):
    folder, _ = released
    config = Table1Config(**released_setup(folder), k=(5,))
    record = table1.run(config, folder / "work", records=folder / "records")
    assert [r["paper_map"] for r in record["results"]] == pytest.approx([0.922, 0.932])
    assert record["settings"]["network"] == "released descriptors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": None}, "give --truth"),
        ({"benchmark": "instre"}, "truth must be left out for instre"),
        ({"benchmark": "grocery"}, "leave --descriptors out"),
    ],
    ids=["classic", "instre", "grocery"],
)
def test_descriptors_need_the_ground_truth_of_their_order(released, changes, message):
    folder, _ = released
    with pytest.raises(ValueError, match=message):
        load_benchmark(Setup(**released_setup(folder, **changes)), folder)


def test_truths_are_found_in_the_folder_of_diffjax_fetch(shared_data, oxford, tmp_path):
    home = tmp_path / "datasets" / "roxford5k"
    home.mkdir(parents=True)
    source = shared_data / "ground_truth" / "gnd_roxford5k.pkl"
    (home / "gnd_roxford5k.pkl").write_bytes(source.read_bytes())
    (home.parent / "oxford5k").mkdir()
    (home.parent / "oxford5k" / "jpg").symlink_to(oxford / "jpg")
    setup = Setup(benchmark="roxford5k-easy", data=home.parent)
    assert len(find_benchmark(setup, oxford).database) == 4993


def test_a_users_collection_is_recorded_by_its_name(tmp_path):
    setup = Setup(benchmark="folder", pictures=tmp_path / "holiday")
    assert setup.label == "folder-holiday"
    assert Setup(benchmark="grocery").label == "grocery"
    quick = importlib.import_module("configs.table1").quick()
    assert quick.folder.index.graph.dim == 16
