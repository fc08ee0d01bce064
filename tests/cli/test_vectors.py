import json

import numpy as np
import pandas as pd
import pytest

from diffjax.index import Index, IndexConfig


@pytest.fixture
def queries(tmp_path):
    """Queries near vectors that lie, with their ids, in files of the working folder."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    queries = vectors[[4, 31, 32]] + 0.1 * rng.normal(size=(3, 8)).astype(np.float32)
    files = {"v": vectors, "ids": np.repeat(np.arange(20), 3), "q": queries}
    for name, array in (files | {"qi": np.array([0, 1, 1])}).items():
        np.save(tmp_path / f"{name}.npy", array)
    return queries


FLAGS = (
    *("--out", "out", "--ids", "ids.npy", "--k", "10", "--query-k", "10"),
    *("--local-nodes", "60", "--method", "clusters"),
)


def test_vectors_are_indexed_searched_and_described(run, queries, tmp_path):
    code, out, err = run("index", "v.npy", *FLAGS)
    assert code == 0
    assert "Index(20 images, 60 regions of 8 dimensions" in out
    assert "diffjax search out QUERIES.npy" in out
    # The plan, before anything was done.
    assert err.startswith("prepare: ")
    assert "neighbours: " in err
    flags = "--query-ids", "qi.npy", "--top", "3"
    code, out, err = run("search", "out", "q.npy", *flags, "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    expected = Index.open(tmp_path / "out").search(queries, np.array([0, 1, 1]), top=3)
    assert [line["query"] for line in lines] == [0, 1]
    images = [[answer["image"] for answer in line["answers"]] for line in lines]
    np.testing.assert_array_equal(images, expected.images)
    code, out, err = run("search", "out", "q.npy", *flags)
    assert out.splitlines()[0].split() == ["query", "rank", "id", "score", "region"]
    assert len(out.splitlines()) == 2 + 6
    code, out, err = run("info", "out", "--verify")
    assert code == 0
    assert "every byte" in out
    assert "local_nodes 60" in out


def test_the_name_of_the_vectors_is_that_of_their_index(run, queries, tmp_path):
    assert run("index", "v.npy", "--k", "5", "--query-k", "5")[0] == 0
    assert Index.open(tmp_path / "v.diffjax").num_images == 60


FILES = {
    "v.npz": lambda path, v, ids: np.savez(path, vectors=v, ids=ids, other=ids),
    "v.parquet": lambda path, v, ids: to_table(v, ids).to_parquet(path),
    "v.feather": lambda path, v, ids: to_table(v, ids).to_feather(path),
    "v.arrow": lambda path, v, ids: to_table(v, ids).to_feather(path),
    "wide.parquet": lambda path, v, ids: to_wide_table(v, ids).to_parquet(path),
}


def to_table(vectors, ids):
    return pd.DataFrame({"ids": ids, "vector": list(vectors), "place": ids})[
        ["ids", "vector"]
    ]


def to_wide_table(vectors, ids):
    table = pd.DataFrame(vectors, columns=[f"d{i}" for i in range(8)])
    return table.assign(ids=ids)


@pytest.mark.parametrize("name", FILES)
def test_vectors_and_ids_of_every_kind_of_file_are_indexed(
    run, queries, tmp_path, name
):
    vectors = np.load(tmp_path / "v.npy").astype(np.float64)
    ids = np.array([f"album/{i}.jpg" for i in np.load(tmp_path / "ids.npy")])
    FILES[name](tmp_path / name, vectors, ids)
    settings = "--k", "10", "--query-k", "10", "--out", "out"
    code, _, err = run("index", name, "--ids", "ids", *settings)
    assert code == 0, err
    config = IndexConfig.of(k=10, query_k=10)
    expected = Index.build(vectors, ids, config=config).search(queries, top=3).ids
    words = "search", "out", "q.npy", "--top", "3"
    lines = [
        json.loads(line)["answers"] for line in run(*words, "--json")[1].splitlines()
    ]
    assert [[answer["id"] for answer in line] for line in lines] == expected
    assert run(*words)[1].splitlines()[2].split()[2] == expected[0][0]


@pytest.mark.parametrize("name", ["v.parquet", "wide.parquet"])
def test_doubles_of_a_table_beyond_single_precision_keep_their_direction(
    run, queries, tmp_path, name
):
    vectors = np.load(tmp_path / "v.npy").astype(np.float64)
    FILES[name](tmp_path / name, 1e-60 * vectors, np.arange(60))
    settings = "--k", "10", "--query-k", "10", "--out", "out"
    code, _, err = run("index", name, "--ids", "ids", *settings)
    assert code == 0, err
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    got = Index.open(tmp_path / "out").vectors
    np.testing.assert_allclose(got, units, atol=1e-6)


def test_ids_are_lines_of_a_text(run, queries, tmp_path):
    lines = "".join(f"r{i // 3}\n" for i in range(60))
    (tmp_path / "ids.txt").write_text(lines, encoding="utf-8")
    settings = "--k", "10", "--query-k", "10", "--out", "out", "--ids", "ids.txt"
    assert run("index", "v.npy", *settings)[0] == 0
    assert Index.open(tmp_path / "out").unique_ids.tolist() == [
        f"r{i}" for i in range(20)
    ]


BAD_FILES = {
    "two.npz": lambda path: np.savez(path, a=np.eye(3), b=np.eye(3)),
    "empty.npz": np.savez,
    "text.npz": lambda path: path.write_text("no archive"),
    "text.parquet": lambda path: path.write_text("no table"),
    "text.arrow": lambda path: path.write_text("no table"),
    "gap.parquet": lambda path: pd.DataFrame(
        {"v": [[1.0, 2.0], [1.0], None]}
    ).to_parquet(path),
    "two.parquet": lambda path: pd.DataFrame(
        {"v": [[1.0, 2.0]], "w": [[1.0, 2.0]]}
    ).to_parquet(path),
    "words.parquet": lambda path: pd.DataFrame({"v": ["a", "b"]}).to_parquet(path),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_without_vectors_are_refused_in_a_line(run, tmp_path, name):
    BAD_FILES[name](tmp_path / name)
    code, out, err = run("index", name, "--out", "out")
    assert (code, out) == (1, "")
    assert name in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_the_table_has_whole_numbers_of_images_and_regions(run, tmp_path):
    vectors = np.random.default_rng(3).normal(size=(10_100, 4)).astype(np.float32)
    vectors[10_050:] += 20  # Far from all others, so that its own are the answers.
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "q.npy", vectors[[10_077]])
    flags = "--k", "4", "--query-k", "4", "--method", "clusters", "--alpha", "0.5"
    flags += "--local-nodes", "50", "--out", "out"
    assert run("index", "v.npy", *flags)[0] == 0
    words = "search", "out", "q.npy", "--top", "1"
    (expected,) = json.loads(run(*words, "--json")[1])["answers"]
    assert expected["image"] >= 10_050
    row = run(*words)[1].splitlines()[2].split()
    assert row == [
        *("0", "1", str(expected["image"]), f"{expected['score']:.4g}"),
        str(expected["region"]),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("probes", 2), ("local_nodes", 20), ("alpha", 0.25), ("max_steps", 1)],
)
def test_a_search_takes_settings_of_its_own(run, queries, tmp_path, name, value):
    build = "--k", "5", "--query-k", "5", "--local-nodes", "60", "--alpha", "0.5"
    build += "--clusters", "12", "--method", "clusters", "--out", "out"
    assert run("index", "v.npy", *build)[0] == 0
    index = Index.open(tmp_path / "out")
    config = index.config.replace(**{name: value}).search

    def scores(*flags):
        code, out, err = run("search", "out", "q.npy", "--top", "9", "--json", *flags)
        assert (code, err) == (0, "")
        return [
            [answer["score"] for answer in json.loads(line)["answers"]]
            for line in out.splitlines()
        ]

    result = index.search(queries, top=9, config=config)
    printed = scores(f"--{name.replace('_', '-')}", str(value))
    images, expected = np.asarray(result.images), np.asarray(result.scores)
    for line, row, reached in zip(printed, expected, images >= 0, strict=True):
        np.testing.assert_allclose(line, row[reached], rtol=1e-6)
    assert printed != scores()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("search", "out", "q.npy", "--local-nodes", "3"), "at least query_k, 10"),
        (("search", "out", "q.npy", "--box", "1,2,3,4"), "--box is for a picture"),
        (("search", "out", "a.png", "--query-ids", "qi.npy"), "is for vectors"),
        (("index", "v.npy", "--side", "64"), "--side is for pictures"),
        (("index", "v.npy", "--strict"), "--strict is for pictures"),
        (("index", ".", "--ids", "ids.npy"), "--ids is for vectors"),
    ],
    ids=lambda value: value[-2] if isinstance(value, tuple) else "",
)
def test_an_option_that_does_not_fit_is_wrong_usage(run, queries, words, complaint):
    assert run("index", "v.npy", *FLAGS)[0] == 0
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


def test_storage_is_a_setting(run, queries, tmp_path):
    flags = *FLAGS, "--storage", "pq", "--code-bytes", "4"
    assert run("index", "v.npy", *flags)[0] == 0
    stored = Index.open(tmp_path / "out").store.arrays["vectors"]
    assert (stored.shape, stored.dtype) == ((60, 4), np.uint8)


def test_a_file_that_is_no_array_is_refused_in_a_line(run, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"hello")
    code, out, err = run("index", "bad.npy", "--out", "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: bad.npy must be an array in NumPy's format")
    code, _, err = run("index", "none.npy", "--out", "out")
    assert (code, err.count("\n")) == (1, 1)
    assert "none.npy" in err


def test_an_index_of_vectors_is_not_searched_by_a_picture(run, queries):
    assert run("index", "v.npy", *FLAGS)[0] == 0
    code, _, err = run("search", "out", "picture.png")
    assert code == 1
    assert "got one of vectors" in err
