import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from diffjax.index import Index, IndexConfig, IndexFileError, MappedConfig, MappedIndex
from diffjax.index import _mapped as mapped
from diffjax.index import _mapped_rows as mapped_rows
from diffjax.index import _mapped_search as mapped_search

EVERY = 10_000  # Probes that are all clusters.


def draw(images=60, *, seed=5, dim=16):
    """Images of 1 to 6 regions in clusters, 5 queries of 1 to 3, float32."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))

    def regions(ids):
        seen = centres[rng.integers(20, size=len(ids))]
        return (seen + 0.6 * rng.normal(size=seen.shape)).astype(np.float32)

    ids = np.repeat(np.arange(images), rng.integers(1, 7, size=images))
    query_ids = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    return regions(ids), ids, regions(query_ids), query_ids


def settings(**changes):
    base = IndexConfig(k=12, query_k=9, neighbors="clusters", reach=EVERY)
    return MappedConfig(
        index=dataclasses.replace(base, **changes),
        clusters=9,
        probes=EVERY,
        query_probes=EVERY,
    )


def in_memory(config, vectors, ids):
    plain = dataclasses.replace(config.index, neighbors="exact")
    return Index.build(vectors, ids, config=plain)


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(scope="module")
def built(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped") / "index"
    return folder, MappedIndex.build(folder, *data[:2], config=settings())


@pytest.mark.filterwarnings("ignore:.*far from solved")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reach": 40},
        {"reach": None},
        {"rule": "official", "reach": None},
        {"rule": "official", "query_gamma": 2.0},
        {"pooling": "sum", "bias": 0.1},
        {"lam": 0.1, "gamma": 2.0, "alpha": 0.9},
        {"dim": 7, "shrinkage": 0.1},
        {"dim": 9, "whitening": "pca", "reach": 30, "max_steps": 3},
    ],
    ids=str,
)
def test_answers_are_those_of_the_index_in_memory(data, tmp_path, changes):
    vectors, ids, queries, query_ids = data
    config = settings(**changes)
    index = MappedIndex.build(tmp_path / "index", vectors, ids, config=config)
    assert index.recall == 1
    got = index.search(queries, query_ids, top=8)
    expected = in_memory(config, vectors, ids).search(queries, query_ids, top=8)
    np.testing.assert_allclose(got.scores, expected.scores, rtol=2e-5)
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.regions, expected.regions)
    np.testing.assert_allclose(
        got.residual, expected.solution.residual, rtol=1e-2, atol=1e-6
    )


def test_its_graph_is_that_of_the_index_in_memory(data, built):
    _, index = built
    order = np.asarray(index.clusters.order)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
    expected = in_memory(index.config, *data[:2])
    ours = index.graph.to_scipy().toarray()
    theirs = expected.graph.to_scipy().toarray()[np.ix_(order, order)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_array_equal(ours, ours.T)
    degrees = np.asarray(expected.graph.degrees)[order]
    np.testing.assert_allclose(index.graph.degrees, degrees, rtol=1e-5)
    np.testing.assert_allclose(
        index.weights, np.asarray(expected.weights)[order], rtol=1e-5
    )


def test_a_query_may_be_batched_or_alone(data, built):
    _, _, queries, query_ids = data
    _, index = built
    together = index.search(queries, query_ids, top=5)
    for query in range(5):
        alone = index.search(queries[query_ids == query], None, top=5)
        if (query_ids == query).sum() == 1:
            np.testing.assert_array_equal(alone.images[0], together.images[query])
            np.testing.assert_allclose(
                alone.scores[0], together.scores[query], rtol=1e-5
            )


def test_opening_copies_nothing(built):
    folder, _ = built
    index = MappedIndex.open(folder)
    assert isinstance(index.vectors.rows, np.ndarray)
    mapped = {
        array.ctypes.data: array
        for array in (
            np.asarray(leaf) for leaf in jax.tree.leaves((index.graph, index.neighbors))
        )
    }
    for leaf in jax.tree.leaves((index.graph, index.neighbors)):
        # Pages of the file, which start at a multiple of a page and a header.
        assert leaf.unsafe_buffer_pointer() % 4096 == 128
        assert leaf.unsafe_buffer_pointer() in mapped


_ELSEWHERE = """
    import json, sys
    import jax, numpy as np
    from diffjax.index import MappedIndex

    # Stands for an accelerator, where all else goes.
    with jax.default_device(jax.devices()[1]):
        index = MappedIndex.open(sys.argv[1])
        found = index.search(np.load(sys.argv[2]), top=5)
    leaves = jax.tree.leaves((index.graph, index.neighbors))
    print(json.dumps({
        "devices": sorted({device.id for leaf in leaves for device in leaf.devices()}),
        "mapped": all(leaf.unsafe_buffer_pointer() % 4096 == 128 for leaf in leaves),
        "images": found.images.tolist(),
    }))
"""


def test_arrays_stay_with_the_processor_and_mapped(data, built, tmp_path):
    _, _, queries, _ = data
    folder, index = built
    np.save(tmp_path / "q.npy", queries)
    code = textwrap.dedent(_ELSEWHERE)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "q.npy")],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = index.search(queries, top=5).images.tolist()
    assert json.loads(done.stdout) == {
        "devices": [0],
        "mapped": True,
        "images": expected,
    }


def test_edges_that_jax_would_miscount_are_refused(built, monkeypatch):
    folder, _ = built
    real = mapped.map_arrays

    def many(folder, header):
        return real(folder, header) | {"bounds": np.array([0, 2**31 + 5])}

    monkeypatch.setattr(mapped, "map_arrays", many)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 stored edges .*x64"):
        MappedIndex.open(folder)


def test_a_query_reads_only_the_clusters_that_it_probes(data, built, monkeypatch):
    _, _, queries, _ = data
    _, index = built
    read = []
    whole = mapped_search.StoredVectors.read

    def note(self, start, stop):
        read.append(stop - start)
        return whole(self, start, stop)

    monkeypatch.setattr(mapped_search.StoredVectors, "read", note)
    few = dataclasses.replace(index.config, query_probes=2)
    dataclasses.replace(index, config=few).search(queries[:1])
    assert len(read) == 2
    assert sum(read) <= 2 * index.clusters.largest
    read.clear()
    index.search(queries[:1])
    assert sum(read) == len(index.images.ids)


def test_few_probes_find_what_is_near(data, built):
    _, _, queries, query_ids = data
    _, index = built
    few = dataclasses.replace(index.config, query_probes=4)
    got = dataclasses.replace(index, config=few).search(queries, query_ids, top=3)
    expected = index.search(queries, query_ids, top=3)
    assert (got.images[:, 0] == expected.images[:, 0]).mean() >= 0.6


@pytest.mark.parametrize("storage", ["float16", "pq"])
def test_smaller_vectors_are_smaller_and_answer_alike(data, built, tmp_path, storage):
    vectors, ids, queries, query_ids = data
    _, whole = built
    config = dataclasses.replace(settings(), storage=storage, code_bytes=8)
    path = tmp_path / "index"
    index = MappedIndex.build(path, vectors, ids, config=config)
    n, dim = vectors.shape
    assert index.vectors.rows.nbytes == {"float16": n * dim * 2, "pq": n * 8}[storage]
    assert not list(path.glob("vectors-*"))
    read = index.vectors.read(0, n)
    near = whole.vectors.read(0, n)
    cosine = np.einsum("nd,nd->n", read, near) / np.linalg.norm(read, axis=1)
    assert cosine.min() > {"float16": 1 - 1e-6, "pq": 0.97}[storage]
    # The graph is that of whole vectors.
    np.testing.assert_array_equal(index.graph.weights, whole.graph.weights)
    got = index.search(queries, query_ids, top=5)
    expected = whole.search(queries, query_ids, top=5)
    if storage == "float16":
        np.testing.assert_allclose(got.scores, expected.scores, rtol=0.02)
    same = [
        len(set(a) & set(b)) for a, b in zip(got.images, expected.images, strict=True)
    ]
    assert np.mean(same) >= 4


def test_half_precision_that_is_handed_over_is_taken(data, tmp_path):
    vectors, ids, queries, query_ids = data
    half = vectors.astype(np.float16)
    index = MappedIndex.build(tmp_path / "index", half, ids, config=settings())
    expected = in_memory(settings(), half.astype(np.float32), ids)
    np.testing.assert_array_equal(
        index.search(queries, query_ids, top=5).images,
        expected.search(queries, query_ids, top=5).images,
    )


def test_without_ids_each_row_is_an_image(data, tmp_path):
    vectors, _, queries, _ = data
    index = MappedIndex.build(tmp_path / "index", vectors, config=settings())
    assert index.num_images == len(vectors)
    assert index.weights is not None
    np.testing.assert_allclose(index.weights, 0.5, rtol=1e-5)  # 1 / (1 + lambda).
    got = index.search(queries[:2], top=4)
    np.testing.assert_array_equal(got.images, got.regions)


def test_vectors_without_any_edge_are_found_by_themselves(tmp_path):
    vectors = np.eye(6, dtype=np.float32)
    config = dataclasses.replace(settings(k=1, query_k=1), clusters=2)
    index = MappedIndex.build(tmp_path / "index", vectors, config=config)
    assert index.graph.weights.size == 0
    got = index.search(vectors[[4]], top=3)
    np.testing.assert_array_equal(got.images, [[4, -1, -1]])
    np.testing.assert_allclose(got.scores, [[0.5, 0, 0]])
    np.testing.assert_array_equal(got.regions, [[4, -1, -1]])
    np.testing.assert_array_equal(got.reached, [1])


def test_one_vector_is_a_collection(tmp_path):
    one = np.ones((1, 4), np.float32)
    index = MappedIndex.build(tmp_path / "index", one)
    np.testing.assert_array_equal(index.search(one).images, [[0]])


def test_no_queries_have_no_answers(built):
    _, index = built
    got = index.search(np.zeros((0, 16), np.float32), np.zeros(0, int), top=3)
    assert got.images.shape == (0, 3)
    assert got.residual.shape == (0,)


def test_blocks_of_any_size_give_the_same(data, built, tmp_path, monkeypatch):
    from diffjax.index import _mapped_build, _mapped_graph

    monkeypatch.setattr(mapped_rows, "CLUSTER_BLOCK_ROWS", 20)
    monkeypatch.setattr(_mapped_build, "CLUSTER_BLOCK_ROWS", 20)
    monkeypatch.setattr(_mapped_graph, "EDGE_ROWS", 7)
    monkeypatch.setattr(_mapped_graph, "_EDGES", 10)
    _, whole = built
    index = MappedIndex.build(tmp_path / "index", *data[:2], config=settings())
    for got, expected in zip(
        jax.tree.leaves((index.graph, index.components, index.weights)),
        jax.tree.leaves((whole.graph, whole.components, whole.weights)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_says_how_large_it_is(built):
    _, index = built
    edges = index.graph.weights.size
    assert repr(index) == (
        f"MappedIndex(60 images, {len(index.images.ids)} regions of 16 dimensions as "
        f"float32, {edges} stored edges)"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.ones((3, 2)), "float32 or float16 of shape"),
        (np.ones((0, 2), np.float32), "float32 or float16 of shape"),
        (np.array([[1, 0], [0, 0]], np.float32), "got zero in row 1"),
        (np.array([[1, 0], [0, np.nan]], np.float32), "got NaN or infinity in row 1"),
    ],
)
def test_rejects_bad_vectors(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        MappedIndex.build(tmp_path / "index", bad)


def test_rejects_bad_queries(data, built):
    _, _, queries, _ = data
    _, index = built
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        index.search(queries, top=0)
    with pytest.raises(
        ValueError, match=r"be of the 16 dimensions .* got float32 \[8, 5\]"
    ):
        index.search(queries[:, :5])
    for kind in np.float16, np.float64:
        with pytest.raises(ValueError, match=rf"float32.*{kind.__name__}.*astype\(num"):
            index.search(queries.astype(kind))


def test_rejects_codes_that_do_not_divide_the_dimensions(data, tmp_path):
    config = MappedConfig(storage="pq", code_bytes=5)
    with pytest.raises(ValueError, match="must divide the 16 dimensions, got 5"):
        MappedIndex.build(tmp_path / "index", data[0], config=config)


def test_rejects_codes_that_do_not_divide_what_whitening_keeps(data, tmp_path):
    index = IndexConfig(k=4, query_k=4, neighbors="clusters", dim=8)
    config = MappedConfig(index=index, storage="pq", code_bytes=8)
    told = []
    with (
        pytest.warns(UserWarning, match="12 vectors can tell apart: using 6"),
        pytest.raises(ValueError, match=r"6 dimensions that the whitening .* got 8"),
    ):
        MappedIndex.build(
            tmp_path / "index",
            data[0][:12],
            config=config,
            progress=lambda task, *_: told.append(task),
        )
    assert set(told) == {"reading vectors"}


def test_leaves_a_folder_that_holds_something_else(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"got 'thesis.tex' in it"):
        MappedIndex.build(tmp_path, data[0])
    with pytest.raises(IndexFileError, match="holds no mapped index"):
        MappedIndex.open(tmp_path)


def test_another_build_takes_the_place_of_the_first(data, built, tmp_path):
    folder, first = built
    path = tmp_path / "index"
    shutil.copytree(folder, path)
    index = MappedIndex.build(path, *data[:2], config=settings(gamma=1.0))
    assert (np.asarray(index.graph.weights) != np.asarray(first.graph.weights)).any()
    # Lists do not depend on gamma, and were not searched for again.
    name = next(folder.glob("indices-*")).name
    assert [file.name for file in path.glob("indices-*")] == [name]
    assert len(list(path.glob("edges-*"))) == 1
