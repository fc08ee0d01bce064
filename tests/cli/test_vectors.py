import dataclasses
import json

import numpy as np
import pytest

from diffjax.index import MappedIndex


@pytest.fixture
def data(tmp_path):
    """Vectors and ids as files, and queries that are near them."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    ids = np.repeat(np.arange(20), 3)
    queries = vectors[[4, 31, 32]] + 0.1 * rng.normal(size=(3, 8)).astype(np.float32)
    queries = queries.astype(np.float32)
    for name, array in {"v": vectors, "ids": ids, "q": queries}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "qi.npy", np.array([0, 1, 1]))
    return queries


FLAGS = "--image-ids", "ids.npy", "--k", "10", "--query-k", "10", "--reach", "60"


def test_vectors_are_indexed_searched_and_described(run, data, tmp_path):
    code, out, err = run("index-vectors", "v.npy", "out", *FLAGS)
    assert code == 0
    assert "MappedIndex(20 images, 60 regions of 8 dimensions as float32" in out
    assert "diffjax search-vectors out QUERIES.npy" in out
    # The plan, before anything was done.
    assert err.startswith("prepare: ")
    assert "neighbours: " in err
    flags = "--query-ids", "qi.npy", "--top", "3"
    code, out, err = run("search-vectors", "out", "q.npy", *flags, "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    expected = MappedIndex.open(tmp_path / "out").search(
        data, np.array([0, 1, 1]), top=3
    )
    assert [line["query"] for line in lines] == [0, 1]
    got = [[answer["image"] for answer in line["answers"]] for line in lines]
    np.testing.assert_array_equal(got, expected.images)
    code, out, err = run("search-vectors", "out", "q.npy", *flags)
    assert out.splitlines()[0].split() == ["query", "rank", "image", "score", "region"]
    assert len(out.splitlines()) == 2 + 6
    code, out, err = run("info", "out", "--verify")
    assert code == 0
    assert "mapped from the disk" in out
    assert "every byte" in out


def test_the_table_has_whole_numbers_of_images_and_regions(run, tmp_path):
    vectors = np.random.default_rng(3).normal(size=(10_100, 4)).astype(np.float32)
    vectors[10_050:] += 20  # Far from all others, so that its own are the answers.
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "q.npy", vectors[[10_077]])
    flags = "--k", "4", "--query-k", "4", "--reach", "50", "--alpha", "0.5"
    assert run("index-vectors", "v.npy", "out", *flags)[0] == 0
    searched = "search-vectors", "out", "q.npy", "--top", "1"
    (expected,) = json.loads(run(*searched, "--json")[1])["answers"]
    assert expected["image"] >= 10_050
    row = run(*searched)[1].splitlines()[2].split()
    assert row == [
        *("0", "1", str(expected["image"]), f"{expected['score']:.4g}"),
        str(expected["region"]),
    ]


@pytest.mark.parametrize(
    ("flag", "value", "where"),
    [
        ("query-probes", 2, "outer"),
        ("reach", 20, "inner"),
        ("alpha", 0.25, "inner"),
        ("max-steps", 1, "inner"),
    ],
)
def test_a_search_takes_settings_of_its_own(run, data, tmp_path, flag, value, where):
    build = "--k", "5", "--query-k", "5", "--reach", "60", "--alpha", "0.5"
    assert run("index-vectors", "v.npy", "out", *build, "--clusters", "12")[0] == 0
    searched = "search-vectors", "out", "q.npy", "--top", "9", "--json"
    index = MappedIndex.open(tmp_path / "out")
    change = {flag.replace("-", "_"): value}
    config = index.config
    if where == "inner":
        change = {"index": dataclasses.replace(config.index, **change)}
    config = dataclasses.replace(config, **change)

    def scores(*flags):
        code, out, err = run(*searched, *flags)
        assert (code, err) == (0, "")
        return [
            [answer["score"] for answer in json.loads(line)["answers"]]
            for line in out.splitlines()
        ]

    expected = dataclasses.replace(index, config=config).search(data, top=9)
    got = scores(f"--{flag}", str(value))
    for ours, theirs in zip(got, expected.scores.tolist(), strict=True):
        np.testing.assert_allclose(ours, [score for score in theirs if score > 0])
    assert got != scores()


def test_a_setting_that_can_not_be_is_refused_in_a_line(run, data):
    assert run("index-vectors", "v.npy", "out", *FLAGS)[0] == 0
    code, out, err = run("search-vectors", "out", "q.npy", "--reach", "3")
    assert (code, out) == (1, "")
    assert err == "error: reach must be at least query_k, 10, got 3.\n"


def test_storage_is_a_setting(run, data, tmp_path):
    flags = *FLAGS, "--storage", "pq", "--code-bytes", "4"
    assert run("index-vectors", "v.npy", "out", *flags)[0] == 0
    assert MappedIndex.open(tmp_path / "out").vectors.rows.shape == (60, 4)


def test_what_is_no_array_is_refused_in_a_line(run, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"hello")
    code, out, err = run("index-vectors", "bad.npy", "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: bad.npy must be an array in NumPy's format")
    code, _, err = run("index-vectors", "none.npy", "out")
    assert (code, err) == (1, "error: none.npy: No such file or directory.\n")


def test_a_search_by_picture_says_what_kind_of_index_it_is(run, data):
    assert run("index-vectors", "v.npy", "out", *FLAGS)[0] == 0
    code, _, err = run("search", "out", "picture.png")
    assert code == 1
    assert "diffjax search-vectors" in err
