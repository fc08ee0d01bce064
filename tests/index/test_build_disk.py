"""Build on disk: equal bytes, kills and resuming, locks, repair, graph by blocks."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import scipy.sparse
from small_index import CONFIG, file_hashes

from diffjax.graph import (
    _components,
    affinity,
    compress,
    knn,
    mutual_rows,
    normalize,
)
from diffjax.images import DescriptorConfig, IndexedPictures
from diffjax.index import GraphConfig, Index, IndexConfig, IndexFileError, verify
from diffjax.index import _build_disk as build_disk
from diffjax.index import _prepared_rows as prepared_rows
from diffjax.index import _store as store_module
from diffjax.index._array_files import write_array
from diffjax.index._validation import VectorRows
from diffjax.progress import no_progress
from diffjax.types import Neighbors

SETTINGS = IndexConfig.of(
    k=10, query_k=10, method="clusters", local_nodes=100, dim=8, clusters=20
).replace(neighbor_probes=6)
LOCKED = sys.platform != "win32"


def draw():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(30, 12))[rng.integers(30, size=900)]
    vectors = vectors + 0.5 * rng.normal(size=vectors.shape)
    return vectors.astype(np.float32), np.repeat(np.arange(300), 3)


def build(folder, config=SETTINGS, **arguments):
    vectors, ids = draw()
    return Index.build(vectors, ids, config=config, path=folder, **arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "index"
    build(folder)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return pathlib.Path(shutil.copytree(built, tmp_path / "index"))


@pytest.mark.parametrize("method", ["clusters", "exact"])
def test_the_same_vectors_and_settings_give_the_same_bytes(built, tmp_path, method):
    config = SETTINGS.replace(method=method)
    expected = file_hashes(built)
    if method == "exact":
        build(tmp_path / "first", config)
        expected = file_hashes(tmp_path / "first")
    # Also where vectors lie in a mapped file, column by column.
    vectors, ids = draw()
    np.save(tmp_path / "vectors.npy", np.asfortranarray(vectors))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    Index.build(mapped, ids.astype(np.int16), config=config, path=tmp_path / "again")
    assert file_hashes(tmp_path / "again") == expected


# Builds that are killed.

_KILLED = """
    import os, signal, sys
    sys.path[:0] = {paths!r}
    from diffjax.index import _build_disk
    from test_build_disk import build

    _build_disk._ROWS_PER_SYNC = 100

    # Each kills a build of its own.
    for folder, task, after in {kills!r}:
        if os.fork() == 0:
            def progress(name, done, of):
                if name == task and done >= after * of:
                    os.kill(os.getpid(), signal.SIGKILL)

            build(folder, progress=progress)
            os._exit(0)
        _, status = os.wait()
        assert os.WTERMSIG(status) == signal.SIGKILL, (task, status)
"""
KILLS = [("refining neighbours", 0.6), ("hashing files", 0.5)]
MORE_KILLS = [
    ("finding neighbours", 0.6),
    ("reading vectors", 1),
    ("finding clusters", 1),
    ("writing vectors", 1),
    ("weighing regions", 1),
    ("finding neighbours", 1),
    ("refining neighbours", 1),
    ("mutual edges", 1),
    ("measuring recall", 1),
]


def kill_builds(root, kills):
    """Kills a build at each of some moments; gives the folders that are left."""
    folders = {kill: root / str(number) for number, kill in enumerate(kills)}
    tests_folder = pathlib.Path(__file__).parent
    code = textwrap.dedent(_KILLED).format(
        paths=[str(tests_folder), str(tests_folder.parent)],
        kills=[(str(folder), *kill) for kill, folder in folders.items()],
    )
    programs = {
        "JAX_COMPILATION_CACHE_DIR": str(
            jax.config.values["jax_compilation_cache_dir"]
        ),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | programs,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folders


def check_resumed(folder, built, task, monkeypatch):
    """Continues a build that was stopped, and looks where it began."""
    assert not (folder / "index.json").exists()
    with pytest.raises(IndexFileError, match=r"index\.json is missing"):
        Index.open(folder)
    begun = {"search_clusters": [], "refine_neighbors": []}
    for name, firsts in begun.items():
        search = getattr(build_disk, name)

        def note(*args, first, search=search, firsts=firsts, **settings):
            firsts.append(first)
            return search(*args, first=first, **settings)

        monkeypatch.setattr(build_disk, name, note)
    monkeypatch.setattr(build_disk, "_ROWS_PER_SYNC", 100)
    build(folder)
    assert file_hashes(folder) == file_hashes(built)
    # It continued in the middle of the lists, or did not search at all.
    drafted, refined = begun.values()
    if task == "finding neighbours":
        assert drafted[0] > 5
    elif task == "refining neighbours":
        assert drafted == []
        assert refined[0] > 5
    elif task in {"mutual edges", "measuring recall", "hashing files"}:
        assert drafted == refined == []
    assert not list(folder.glob("*drafts*"))


@pytest.mark.skipif(not LOCKED, reason="forks a process")
@pytest.mark.parametrize(
    "kills", [KILLS, pytest.param(MORE_KILLS, marks=pytest.mark.full)], ids=len
)
def test_a_build_that_is_killed_continues_and_gives_the_same_bytes(
    built, tmp_path, monkeypatch, kills
):
    for (task, _), folder in kill_builds(tmp_path, kills).items():
        assert (folder / "index.lock").exists()
        with monkeypatch.context() as patch:
            check_resumed(folder, built, task, patch)


@pytest.mark.parametrize("stop", [*KILLS, *MORE_KILLS], ids=str)
def test_a_build_that_is_stopped_continues_and_gives_the_same_bytes(
    built, tmp_path, monkeypatch, stop
):
    task, after = stop
    monkeypatch.setattr(build_disk, "_ROWS_PER_SYNC", 100)

    def progress(name, done, of):
        if name == task and done >= after * of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", progress=progress)
    check_resumed(tmp_path / "index", built, task, monkeypatch)


@pytest.mark.full
@pytest.mark.skipif(not LOCKED, reason="kills a process")
@pytest.mark.parametrize("seed", range(8))
def test_a_build_that_is_killed_at_any_moment_gives_the_same_bytes(
    built, tmp_path, seed
):
    paths = [str(path) for path in pathlib.Path(__file__).parents[:2]]
    folder = tmp_path / "index"
    code = (
        f"import sys; sys.path[:0] = {paths!r}\n"
        "from test_build_disk import build, build_disk\n"
        "build_disk._ROWS_PER_SYNC = 100\n"
        "print('ready', flush=True)\n"
        f"build({str(folder)!r})"
    )
    rng = np.random.default_rng(seed)
    command = [sys.executable, "-W", "ignore", "-c", code]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 2.0))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    build(folder)
    assert file_hashes(folder) == file_hashes(built)


@pytest.mark.parametrize(
    "damage", ["part is short", "journal is empty", "journal is text", "journal is []"]
)
def test_lists_that_are_not_all_there_are_searched_again(
    built, tmp_path, monkeypatch, damage
):
    folder = tmp_path / "index"
    monkeypatch.setattr(build_disk, "_ROWS_PER_SYNC", 1)

    def stop(task, done, of):
        if task == "refining neighbours" and done >= 0.6 * of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folder, progress=stop)
    (journal,) = (p for p in folder.glob("lists-*.json") if "drafts" not in p.name)
    if damage == "part is short":
        (part,) = folder.glob("indices-*.part")
        rows = json.loads(journal.read_text())["rows"]
        with part.open("rb+") as file:
            file.truncate(rows * 10 * 4 + 64)  # By less than the header has.
    else:
        text = {"empty": "", "text": "{", "[]": "[]"}[damage.split()[-1]]
        journal.write_text(text)
    build(folder)
    assert file_hashes(folder) == file_hashes(built)


def test_exact_lists_continue_where_they_were(tmp_path, monkeypatch):
    config = SETTINGS.replace(method="exact")
    build(tmp_path / "whole", config)
    monkeypatch.setattr(build_disk, "_EXACT_BLOCK_ROWS", 128)
    monkeypatch.setattr(build_disk, "_ROWS_PER_SYNC", 1)
    firsts = []
    search = build_disk._search_exactly

    def note(vectors, starts, k):
        firsts.append(int(starts[0]))
        return search(vectors, starts, k)

    monkeypatch.setattr(build_disk, "_search_exactly", note)

    def stop(task, done, of):
        if task == "finding neighbours" and done >= 0.5 * of:
            raise KeyboardInterrupt

    folder = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build(folder, config, progress=stop)
    build(folder, config)
    assert firsts == [0, 512]
    assert file_hashes(folder) == file_hashes(tmp_path / "whole")


# Builds in a folder that holds an index.


@pytest.mark.parametrize(
    "storage", ["pq", pytest.param("float32", marks=pytest.mark.full)]
)
def test_a_finished_build_is_not_built_again(tmp_path, monkeypatch, storage):
    config = SETTINGS.replace(storage=storage, code_bytes=4)
    build(tmp_path / "index", config)
    before = file_hashes(tmp_path / "index")
    for name in (
        *("_write_vectors", "_search_neighbors", "_write_graph", "_store_vectors"),
        "commit",
    ):
        monkeypatch.setattr(build_disk, name, None)
    build(tmp_path / "index", config)
    assert file_hashes(tmp_path / "index") == before


def test_other_pictures_of_the_same_vectors_are_another_index(copy):
    pictures = IndexedPictures(
        folder="/there",
        names=tuple(f"{i}.png" for i in range(300)),
        skipped={},
        descriptor=DescriptorConfig(),
        weights="ab" * 32,
    )
    assert build(copy, pictures=pictures).pictures == pictures
    assert build(copy).pictures is None


def test_a_stopped_build_after_an_index_leaves_the_index(copy):
    before = file_hashes(copy)

    def stop(task, done, of):
        if task == "finding neighbours" and done == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(copy, SETTINGS.replace(neighbor_probes=3), progress=stop)
    after = file_hashes(copy)
    assert {name: after[name] for name in before} == before
    assert Index.open(copy).config == SETTINGS


def test_another_build_takes_the_place_of_the_first(built, copy):
    first, second = Index.open(built), build(copy, SETTINGS.replace(gamma=1.0))
    weights = [i.store.arrays["graph_weights"] for i in (first, second)]
    assert (weights[0] != weights[1]).any()
    # Lists do not depend on gamma, and were not searched for again.
    name = next(built.glob("indices-*")).name
    assert [file.name for file in copy.glob("indices-*")] == [name]
    assert len(list(copy.glob("graph_weights-*"))) == 1


def test_other_vectors_or_images_are_never_taken_for_these(copy, tmp_path):
    vectors, ids = draw()
    vectors[17, 3] += 0.5
    for number, other in enumerate(((vectors, ids), (vectors, ids // 2))):
        fresh = tmp_path / str(number)
        Index.build(*other, config=SETTINGS, path=copy)
        Index.build(*other, config=SETTINGS, path=fresh)
        assert file_hashes(copy) == file_hashes(fresh)


@pytest.mark.parametrize(
    ("storage", "at_once"),
    [
        ("pq", 4),
        pytest.param("pq", 1, marks=pytest.mark.full),
        pytest.param("float32", 1, marks=pytest.mark.full),
    ],
)
def test_a_damaged_index_is_built_again_to_the_same_bytes(tmp_path, storage, at_once):
    config = SETTINGS.replace(storage=storage, code_bytes=4)
    whole, folder = tmp_path / "whole", tmp_path / "index"
    build(whole, config)
    expected = file_hashes(whole)
    shutil.copytree(whole, folder)

    def flip(path):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    damages = [
        flip,
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
    ]
    names = sorted(name for name in expected if name.endswith(".npy"))
    for first in range(0, len(names), at_once):
        damaged = names[first : first + at_once]
        for number, name in enumerate(damaged, start=first):
            damages[number % 3](folder / name)
        with pytest.raises(IndexFileError, match="build the index again"):
            verify(folder)
        build(folder, config)
        assert file_hashes(folder) == expected, damaged
    # Nothing is trusted without a manifest that can be read.
    for name in names:
        flip(folder / name)
    (folder / "index.json").write_text("{")
    build(folder, config)
    assert file_hashes(folder) == expected


HASH = "0123456789abcdef"


def test_leftovers_of_killed_builds_are_removed(copy):
    before = file_hashes(copy)
    for name in (
        *(f"indices-{HASH}.npy", f"indices-{HASH}.npy.part"),
        *(f"affinity-{HASH}.npy", f"affinity-{HASH}.npy.part"),
        *(f"lists-{HASH}.json", f"lists-drafts-{HASH}.json.4711.part"),
        *("index.json.4711.part", "index.lock", f"edges-{HASH}.npy.affinity"),
    ):
        (copy / name).write_bytes(b"half")
    build(copy)
    assert file_hashes(copy) == before


@pytest.mark.parametrize(
    "name",
    [
        *("vectors-train.npy", "order-2024.csv", "lists-of-mine.json", "a.7.part"),
        *("index.json.orig", f"vectors-{HASH}.npy.orig", f"my-vectors-{HASH}.npy"),
        *(f"vectors-{HASH}0.npy", f"vectors-{HASH.upper()}.npy", ".tmp"),
    ],
)
def test_files_of_the_user_are_refused_and_stay(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    before = file_hashes(tmp_path)
    with pytest.raises(ValueError, match=f"got '{name}' in it: name another place"):
        build(tmp_path)
    assert file_hashes(tmp_path) == before


def test_files_that_came_into_an_index_later_are_not_removed(copy):
    (copy / "vectors-train.npy").write_bytes(b"mine")
    store_module.remove_unnamed(copy, store_module.read_manifest(copy))
    assert (copy / "vectors-train.npy").read_bytes() == b"mine"


# Two builds in one folder.


@pytest.mark.skipif(not LOCKED, reason="asks for a lock of Unix")
@pytest.mark.parametrize("again", [SETTINGS, SETTINGS.replace(neighbor_probes=3)])
def test_two_builds_in_one_folder_are_one_too_many(built, tmp_path, again):
    folder, refused = tmp_path / "index", []
    small = Index.open(built)

    def build_again(task, done, of):
        if task in {"writing vectors", "finding neighbours"} and done == of:
            with pytest.raises(ValueError, match=r"build is running in .*index"):
                build(folder, again)
            # Saving would take away what the build has not named yet.
            with pytest.raises(ValueError, match=r"build is running in .*index"):
                small.save(folder)
            refused.append(task)

    build(folder, progress=build_again)
    assert refused == ["writing vectors", "finding neighbours"]
    assert file_hashes(folder) == file_hashes(built)


# Blocks and the graph.


def test_blocks_of_any_size_give_the_same(given, tmp_path, monkeypatch):
    config = CONFIG.replace(method="clusters", clusters=7, neighbor_probes=99)
    whole = Index.build(
        given.vectors, given.image_ids, config=config, path=tmp_path / "whole"
    )
    monkeypatch.setattr(prepared_rows, "CLUSTER_BLOCK_ROWS", 20)
    monkeypatch.setattr(build_disk, "CLUSTER_BLOCK_ROWS", 20)
    monkeypatch.setattr(build_disk, "EDGE_ROWS", 7)
    monkeypatch.setattr(_components, "_EDGES_PER_BLOCK", 10)
    index = Index.build(
        given.vectors, given.image_ids, config=config, path=tmp_path / "index"
    )
    for name, expected in whole.store.arrays.items():
        np.testing.assert_allclose(
            index.store.arrays[name], expected, rtol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(
    ("gamma", "bias", "rows"), [(3.0, 0.0, 1000), (1.5, 0.4, 7), (3.0, -0.2, 7)]
)
def test_the_graph_is_that_of_the_formulas(
    given, tmp_path, monkeypatch, gamma, bias, rows
):
    monkeypatch.setattr(build_disk, "EDGE_ROWS", rows)
    monkeypatch.setattr(_components, "_EDGES_PER_BLOCK", 3 * rows)
    config = CONFIG.replace(gamma=gamma, bias=bias)
    path = tmp_path / "index"
    arrays = Index.build(given.vectors, config=config, path=path).store.arrays
    units = given.vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    products = units @ units.T
    lists = np.argsort(-products, axis=1, kind="stable")[:, :12]
    listed = np.zeros_like(products, dtype=bool)
    np.put_along_axis(listed, lists, values=True, axis=1)
    a = np.where(listed & listed.T, np.maximum(products - bias, 0), 0) ** gamma
    np.fill_diagonal(a, 0)
    n = len(units)
    matrix = scipy.sparse.csr_array(
        (arrays["graph_weights"], arrays["graph_columns"], arrays["graph_starts"]),
        shape=(n, n),
    )
    np.testing.assert_allclose(matrix.toarray(), oracle.normalized(a), atol=2e-6)
    np.testing.assert_allclose(arrays["degrees"], a.sum(1), rtol=1e-5)
    assert (matrix != matrix.T).nnz == 0
    assert matrix.has_sorted_indices
    labels = scipy.sparse.csgraph.connected_components(matrix)[1]
    pairs = np.unique(np.stack([labels, arrays["component_labels"]]), axis=1)
    assert pairs.shape[1] == len(np.unique(labels))
    sums = np.bincount(arrays["component_labels"], arrays["degrees"])
    np.testing.assert_allclose(arrays["component_degree_sums"], sums, rtol=1e-5)
    assert not list(path.glob("affinity-*"))


def test_lists_with_empty_slots_give_the_graph_of_the_library(tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(14, 6))[rng.integers(14, size=86)]
    vectors = (vectors + 0.5 * rng.normal(size=(86, 6))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = knn(jnp.asarray(vectors), 12)
    indices, similarities = np.array(lists.indices), np.array(lists.similarities)
    empty = rng.random(indices.shape) < 0.1
    indices[empty], similarities[empty] = -1, 0
    # The two directions of a pair may differ by rounding.
    noise = rng.choice([0, 1e-7], size=similarities.shape).astype(np.float32)
    similarities *= 1 + noise
    monkeypatch.setattr(build_disk, "EDGE_ROWS", 7)
    state = build_disk._Build(
        tmp_path,
        prepared_rows.PreparedRows(VectorRows("vectors", vectors), None),
        np.arange(86, dtype=np.int32),
        GraphConfig(k=12, gamma=1.5, bias=-0.2),
        no_progress,
    )
    for name, array in (("indices", indices), ("similarities", similarities)):
        state.files[name] = state.path(name, HASH)
        write_array(state.files[name], array)
    build_disk._write_graph(state, HASH)
    neighbors = Neighbors(jnp.asarray(indices), jnp.asarray(similarities))
    expected = normalize(compress(affinity(neighbors, gamma=1.5, bias=-0.2)))
    assert expected.degrees is not None
    np.testing.assert_array_equal(state.map_written("graph_columns"), expected.indices)
    np.testing.assert_array_equal(state.map_written("graph_starts"), expected.starts)
    np.testing.assert_allclose(
        state.map_written("graph_weights"), expected.weights, rtol=2e-6
    )
    np.testing.assert_allclose(
        state.map_written("degrees"), expected.degrees, rtol=2e-6
    )


def test_mutual_rows_by_hand():
    # 0 and 1 list each other; 2 lists 1, which does not list it; 3 lists nobody.
    indices = np.array([[0, 1], [1, 0], [2, 1], [3, -1]], np.int32)
    similarities = np.array([[1, 0.5], [1, 0.25], [1, 0.75], [1, 0]], np.float32)
    rows = mutual_rows(indices, similarities, 0, 4)
    np.testing.assert_array_equal(rows.counts, [1, 1, 0, 0])
    np.testing.assert_array_equal(rows.columns, [1, 0])
    np.testing.assert_array_equal(rows.similarities, [0.25, 0.25])


def test_too_many_edges_are_refused_while_they_are_found(given, tmp_path, monkeypatch):
    counted = []

    def check(edges):
        counted.append(edges)
        if edges > 50:
            raise ValueError("too many")

    monkeypatch.setattr(build_disk, "EDGE_ROWS", 16)
    monkeypatch.setattr(build_disk, "check_countable", check)
    with pytest.raises(ValueError, match="too many"):
        Index.build(given.vectors, config=CONFIG, path=tmp_path)
    assert counted == sorted(counted)
    assert len(counted) < 6  # Of as many blocks.
    assert not list(tmp_path.glob("graph_*.npy"))


def test_a_vector_that_duplicates_displace_keeps_itself(tmp_path):
    vectors = np.ones((30, 4), np.float32)
    config = IndexConfig.of(k=5, query_k=5, method="exact", pooling="sum")
    index = Index.build(vectors, config=config, path=tmp_path / "index")
    indices = index.store.arrays["indices"]
    assert (indices == np.arange(30)[:, None]).any(axis=1).all()
    assert (np.diff(np.sort(indices), axis=1) > 0).all()
