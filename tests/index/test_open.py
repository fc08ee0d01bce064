"""The same index in memory, loaded from disk and mapped from disk."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from small_index import CONFIG, assert_same_answers

from diffjax.index import Index, IndexConfig
from diffjax.index import _store as store_module
from diffjax.types import SearchResult

ALL = 24

VECTORS = {
    "whole": {},
    "whitened": {"dim": 7},
    "pca": {"dim": 9, "whitening": "pca"},
}
SOLVE = {
    "all": {},
    "local": {"local_nodes": 30},
    "local all": {"local_nodes": 999},
    "shortlist": {"shortlist": 10},
    "late": {
        "shortlist": 10,
        "renormalize_shortlist": False,
        "outside_shortlist": "zero",
    },
    "offline": {"offline_neighbors": 20},
    "best": {"keep_best": True},
    "direct": {"solver": "direct"},
}
# Every pair of values of two settings stands in one of the rows.
DEFAULT_ROWS = [
    ("exact", "float32", "whole", "gmp", "all", "paper", 0.0, None),
    ("clusters", "float32", "whitened", "sum", "local", "official", -0.2, 3),
    ("clusters", "pq", "whole", "gmp", "shortlist", "paper", 0.0, 3),
]
FULL_ROWS = [
    ("clusters", "pq", "pca", "gmp", "shortlist", "paper", 0.1, 3),
    ("exact", "float16", "pca", "sum", "local all", "official", 0.1, None),
    ("exact", "float16", "whitened", "gmp", "late", "paper", -0.2, None),
    ("clusters", "float16", "whole", "sum", "offline", "official", 0.0, 3),
    ("exact", "pq", "whole", "gmp", "best", "official", -0.2, None),
    ("clusters", "pq", "whitened", "sum", "direct", "paper", 0.0, None),
    ("exact", "float32", "whitened", "gmp", "offline", "paper", 0.1, None),
    ("clusters", "float32", "pca", "sum", "late", "official", 0.0, 3),
    ("exact", "float16", "whole", "gmp", "local", "paper", 0.1, None),
    ("clusters", "float16", "pca", "sum", "all", "official", -0.2, 3),
    ("exact", "float32", "whole", "sum", "shortlist", "official", 0.0, None),
    ("clusters", "float32", "whole", "gmp", "local all", "paper", 0.0, 3),
    ("clusters", "float32", "whitened", "sum", "best", "paper", 0.0, 3),
    ("exact", "float32", "whole", "gmp", "direct", "official", -0.2, None),
    ("clusters", "float16", "pca", "gmp", "direct", "paper", 0.1, 3),
    ("exact", "float16", "whitened", "gmp", "shortlist", "paper", -0.2, None),
    ("exact", "float16", "pca", "gmp", "best", "paper", 0.1, None),
    ("exact", "pq", "whole", "gmp", "late", "paper", 0.1, None),
    ("exact", "pq", "whitened", "gmp", "all", "paper", 0.1, None),
    ("exact", "pq", "whitened", "gmp", "local all", "paper", -0.2, None),
    ("exact", "pq", "pca", "gmp", "local", "paper", 0.0, None),
    ("exact", "pq", "pca", "gmp", "offline", "paper", -0.2, None),
]


def settings_of(row) -> IndexConfig:
    method, storage, vectors, pooling, solve, rule, bias, probes = row
    code_bytes = VECTORS[vectors].get("dim", 12)  # A byte for each dimension.
    return CONFIG.replace(
        method=method,
        clusters=7 if method == "clusters" else None,
        storage=storage,
        code_bytes=code_bytes if storage == "pq" else 32,
        pooling=pooling,
        rule=rule,
        bias=bias,
        probes=probes,
        **VECTORS[vectors],
        **SOLVE[solve],
    )


@pytest.mark.filterwarnings("ignore:.*far from solved")
@pytest.mark.parametrize(
    "row",
    [*DEFAULT_ROWS, *(pytest.param(r, marks=pytest.mark.full) for r in FULL_ROWS)],
    ids=lambda row: "-".join(str(value) for value in row),
)
def test_the_same_settings_give_the_same_answers_from_everywhere(given, tmp_path, row):
    config, asked = settings_of(row), (given.queries, given.query_ids)
    memory = Index.build(given.vectors, given.image_ids, config=config)
    loaded = Index.build(
        given.vectors, given.image_ids, config=config, path=tmp_path / "index"
    )
    mapped = Index.open(tmp_path / "index", mmap=True)
    assert (loaded.store.is_mapped, mapped.store.is_mapped) == (False, True)
    assert memory.config == loaded.config == mapped.config == config
    expected = memory.search(*asked, top=ALL)
    for index in loaded, mapped:
        result = index.search(*asked, top=ALL)
        np.testing.assert_array_equal(result.images, expected.images)
        np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(result.regions, expected.regions)
        np.testing.assert_allclose(
            result.solution.residual,
            expected.solution.residual,
            rtol=1e-2,
            atol=2e-6,
        )
        assert type(result.solution) is type(expected.solution)
    for query in (1, 4):  # Alone as in the batch.
        regions = given.queries[given.query_ids == query]
        alone = memory.search(regions, np.zeros(len(regions), np.int32), top=ALL)
        rows = slice(query, query + 1)
        assert_same_answers(
            alone,
            SearchResult(
                expected.images[rows],
                expected.scores[rows],
                expected.solution,
                expected.regions[rows],
            ),
        )


@pytest.fixture(scope="module")
def on_disk(given, tmp_path_factory) -> pathlib.Path:
    """Index with clusters on disk."""
    path = tmp_path_factory.mktemp("disk") / "index"
    config = CONFIG.replace(method="clusters", clusters=7, neighbor_probes=99)
    Index.build(given.vectors, given.image_ids, config=config, path=path)
    return path


@pytest.fixture(scope="module")
def mapped(on_disk) -> Index:
    return Index.open(on_disk, mmap=True)


def test_attributes_are_those_of_the_index_in_memory(index, mapped):
    assert (mapped.num_images, mapped.num_regions) == (ALL, index.num_regions)
    for name in "vectors", "image_ids", "weights":
        np.testing.assert_allclose(
            getattr(mapped, name), getattr(index, name), rtol=1e-5, atol=1e-6
        )
    ours, theirs = (i.graph.to_scipy().toarray() for i in (mapped, index))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_array_equal(ours, ours.T)
    np.testing.assert_allclose(mapped.graph.degrees, index.graph.degrees, rtol=1e-5)
    np.testing.assert_array_equal(
        np.sort(mapped.neighbors.indices), np.sort(index.neighbors.indices)
    )
    assert mapped.recall == 1


def test_description_says_that_an_index_is_mapped(given, mapped):
    edges = mapped.graph.weights.size
    assert repr(mapped) == (
        f"Index(24 images, {len(given.vectors)} regions of 12 dimensions, {edges} "
        "stored edges, mapped from disk)"
    )


def test_a_large_index_is_mapped_and_a_small_one_loaded(on_disk, monkeypatch):
    size = sum(path.stat().st_size for path in on_disk.glob("*.npy"))
    for memory, is_mapped in ((None, False), (4.1 * size, False), (3.9 * size, True)):
        monkeypatch.setattr(store_module, "available_memory", lambda m=memory: m)
        assert Index.open(on_disk).store.is_mapped == is_mapped
        assert not Index.open(on_disk, mmap=False).store.is_mapped


def test_mapped_arrays_are_taken_without_a_copy(mapped, given):
    mapped.search(given.queries, top=ALL)
    for leaf in jax.tree.leaves(mapped._graph):
        # Pages of the file, which start at a multiple of a page and a header.
        assert leaf.unsafe_buffer_pointer() % 4096 == 128
    for array in mapped.store.arrays.values():
        assert isinstance(array, np.ndarray)
        assert not array.flags.writeable


def test_edges_that_jax_would_miscount_are_refused(given, mapped):
    starts = np.array(mapped.store.arrays["graph_starts"], np.int64)
    starts[-1] = 2**31 + 5
    store = dataclasses.replace(
        mapped.store, arrays={**mapped.store.arrays, "graph_starts": starts}
    )
    with pytest.raises(ValueError, match=r"fewer than 2\^31 stored edges .*x64"):
        Index(store, mapped.config).search(given.queries)


def test_a_query_reads_only_the_clusters_that_it_probes(given, mapped, monkeypatch):
    reads = []
    read = store_module.Store.read_vectors

    def note(self, start, stop):
        reads.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(store_module.Store, "read_vectors", note)
    few = dataclasses.replace(CONFIG.search, probes=2)
    mapped.search(given.queries[:1], top=ALL, config=few)
    sizes = np.diff(mapped.store.arrays["cluster_starts"])
    assert len(reads) == 2
    assert sum(reads) <= 2 * sizes.max()
    reads.clear()
    mapped.search(given.queries[:1], top=ALL)
    assert sum(reads) == mapped.num_regions


def test_few_probes_find_what_is_near(given, mapped):
    asked = given.queries, given.query_ids
    few = dataclasses.replace(CONFIG.search, probes=3)
    result = mapped.search(*asked, top=ALL, config=few)
    expected = mapped.search(*asked, top=ALL)
    assert (result.images[:, 0] == expected.images[:, 0]).mean() >= 0.6
    # 0 compares with all vectors, and needs no clusters.
    none = dataclasses.replace(CONFIG.search, probes=0)
    assert_same_answers(mapped.search(*asked, top=ALL, config=none), expected)


@pytest.mark.parametrize("storage", ["float16", "pq"])
def test_smaller_vectors_are_smaller_and_answer_alike(given, mapped, tmp_path, storage):
    config = mapped.config.replace(storage=storage, code_bytes=6)
    path = tmp_path / "index"
    index = Index.build(given.vectors, given.image_ids, config=config, path=path)
    n, dim = given.vectors.shape
    stored = index.store.arrays["vectors"]
    assert stored.nbytes == {"float16": n * dim * 2, "pq": n * 6}[storage]
    assert len(list(path.glob("vectors-*"))) == 1
    vectors, whole = np.asarray(index.vectors), np.asarray(mapped.vectors)
    cosine = np.einsum("nd,nd->n", vectors, whole) / np.linalg.norm(vectors, axis=1)
    assert cosine.min() > {"float16": 1 - 1e-6, "pq": 0.97}[storage]
    # The graph is that of whole vectors.
    stored = mapped.store.arrays["graph_weights"]
    np.testing.assert_array_equal(index.store.arrays["graph_weights"], stored)
    asked = given.queries, given.query_ids
    result, expected = (i.search(*asked, top=ALL) for i in (index, mapped))
    if storage == "float16":
        np.testing.assert_allclose(result.scores, expected.scores, rtol=0.02)
    common = [
        len(set(a) & set(b))
        for a, b in zip(
            np.asarray(result.images[:, :5]).tolist(),
            np.asarray(expected.images[:, :5]).tolist(),
            strict=True,
        )
    ]
    assert np.mean(common) >= 4


def test_vectors_in_half_precision_are_taken(given, tmp_path):
    half = given.vectors.astype(np.float16)
    index = Index.build(half, given.image_ids, config=CONFIG, path=tmp_path / "index")
    expected = Index.build(half.astype(np.float32), given.image_ids, config=CONFIG)
    asked = given.queries, given.query_ids
    assert_same_answers(index.search(*asked, top=ALL), expected.search(*asked, top=ALL))


def test_without_ids_each_row_is_an_image(given, tmp_path):
    path = tmp_path / "index"
    index = Index.build(given.vectors, config=CONFIG.replace(lam=1.0), path=path)
    assert index.num_images == len(given.vectors)
    assert index.weights is not None
    np.testing.assert_allclose(index.weights, 0.5, rtol=1e-5)  # 1 / (1 + lambda).
    result = index.search(given.queries[:2], top=ALL)
    regions = np.asarray(result.regions)
    reached = regions >= 0
    np.testing.assert_array_equal(regions[reached], np.asarray(result.images)[reached])


def test_vectors_without_any_edge_are_found_by_themselves(tmp_path):
    vectors = np.eye(12, dtype=np.float32)[:4]
    config = IndexConfig.of(
        k=1, query_k=1, method="clusters", clusters=2, local_nodes=4
    )
    index = Index.build(vectors, config=config, path=tmp_path / "index")
    assert index.graph.weights.size == 0
    result = index.search(vectors[[2]], top=4)
    np.testing.assert_array_equal(result.images, [[2, -1, -1, -1]])
    np.testing.assert_allclose(result.scores, [[0.5, 0, 0, 0]])
    np.testing.assert_array_equal(result.regions, [[2, -1, -1, -1]])
    np.testing.assert_array_equal((result.solution.nodes >= 0).sum(1), [1])


def test_one_vector_is_a_collection(tmp_path):
    one = np.ones((1, 12), np.float32)
    with pytest.warns(UserWarning, match="more than the 1 regions") as caught:
        index = Index.build(one, path=tmp_path / "index")
    assert len(caught) == 2
    np.testing.assert_array_equal(index.search(one).images, [[0]])


_FORKS = """
    import json, os, signal, sys, time
    import jax, numpy as np
    from diffjax.index import Index

    path, queries = sys.argv[1], np.load(sys.argv[2])
    opened = [Index.open(path, mmap=mmap) for mmap in (False, True)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        images = [index.search(queries, top=24).images.tolist() for index in opened]
        os.write(writer, json.dumps(images).encode())
        os._exit(0)
    os.close(writer)
    for _ in range(1200):
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        sys.exit("the child hangs")
    with os.fdopen(reader) as pipe:
        answers = json.loads(pipe.read())
    # Now as where there is an accelerator, where all else goes.
    with jax.default_device(jax.devices()[1]):
        images = opened[1].search(queries, top=24).images.tolist()
    leaves = jax.tree.leaves(opened[1]._graph)
    print(json.dumps({
        "children": answers,
        "images": images,
        "devices": sorted({device.id for leaf in leaves for device in leaf.devices()}),
        "mapped": all(leaf.unsafe_buffer_pointer() % 4096 == 128 for leaf in leaves),
    }))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks a process")
def test_a_process_that_opened_an_index_forks_and_keeps_mapped_arrays_on_the_processor(
    given, mapped, on_disk, tmp_path
):
    np.save(tmp_path / "queries.npy", given.queries)
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(
            jax.config.values["jax_compilation_cache_dir"]
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    code = textwrap.dedent(_FORKS)
    files = str(on_disk), str(tmp_path / "queries.npy")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *files],
        env=os.environ | programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = mapped.search(given.queries, top=ALL).images.tolist()
    assert json.loads(done.stdout) == {
        "children": [expected, expected],
        "images": expected,
        "devices": [0],
        "mapped": True,
    }
