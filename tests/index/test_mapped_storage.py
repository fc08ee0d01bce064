import dataclasses
import hashlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from diffjax.index import (
    IndexConfig,
    IndexFileError,
    MappedConfig,
    MappedIndex,
    _mapped_build,
    describe_file,
    verify,
)
from diffjax.index import _mapped_storage as storage
from diffjax.index._header import write_header

CONFIG = MappedConfig(
    index=IndexConfig(k=10, query_k=10, neighbors="clusters", reach=100, dim=8),
    clusters=20,
    probes=6,
)


def draw():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(30, 12))[rng.integers(30, size=900)]
    vectors = vectors + 0.5 * rng.normal(size=vectors.shape)
    return vectors.astype(np.float32), np.repeat(np.arange(300), 3)


def contents(folder):
    """Hash of every file of a folder, by name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped") / "index"
    MappedIndex.build(folder, *draw(), config=CONFIG)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "index")


def test_the_same_vectors_and_settings_give_the_same_bytes(built, tmp_path):
    MappedIndex.build(tmp_path / "again", *draw(), config=CONFIG)
    assert contents(tmp_path / "again") == contents(built)


LOCKED = sys.platform != "win32"

_KILLED = """
    import os, signal, sys, numpy as np
    sys.path.insert(0, {tests!r})
    from diffjax.index import MappedIndex, _mapped_build
    from mapped_kill import CONFIG, draw

    _mapped_build._KEPT_ROWS = 100

    def progress(task, done, of):
        if task == {task!r} and done >= {after} * of:
            os.kill(os.getpid(), signal.SIGKILL)

    MappedIndex.build({folder!r}, *draw(), config=CONFIG, progress=progress)
"""


@pytest.mark.parametrize(
    ("task", "after"),
    [
        ("reading vectors", 1),
        ("finding clusters", 1),
        ("writing vectors", 1),
        ("finding neighbours", 0.6),
        ("finding neighbours", 1),
        ("refining neighbours", 0.6),
        ("refining neighbours", 1),
        ("mutual edges", 1),
    ],
)
def test_a_build_that_is_killed_goes_on_and_gives_the_same_bytes(
    built, tmp_path, monkeypatch, task, after
):
    (tmp_path / "mapped_kill.py").write_text(
        f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
        "from test_mapped_storage import CONFIG, draw\n"
    )
    folder = tmp_path / "index"
    code = textwrap.dedent(_KILLED).format(
        tests=str(tmp_path), task=task, after=after, folder=str(folder)
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (folder / "mapped.json").exists()
    assert (folder / "mapped.lock").exists() is LOCKED
    begun = {"search_clusters": [], "refine_neighbors": []}
    for name, firsts in begun.items():
        search = getattr(_mapped_build, name)

        def note(*args, first, search=search, firsts=firsts, **settings):
            firsts.append(first)
            return search(*args, first=first, **settings)

        monkeypatch.setattr(_mapped_build, name, note)
    monkeypatch.setattr(_mapped_build, "_KEPT_ROWS", 100)
    MappedIndex.build(folder, *draw(), config=CONFIG)
    assert contents(folder) == contents(built)
    # It went on in the middle of the lists, or did not search at all.
    drafted, refined = begun.values()
    if task == "finding neighbours":
        assert drafted[0] > 5
    elif task == "refining neighbours":
        assert drafted == []
        assert refined[0] > 5
    elif task == "mutual edges":
        assert drafted == refined == []
    assert not list(folder.glob("*drafts*"))


@pytest.mark.parametrize("storage", ["float32", "pq"])
def test_a_finished_build_is_not_built_again(tmp_path, monkeypatch, storage):
    config = dataclasses.replace(CONFIG, storage=storage, code_bytes=4)
    MappedIndex.build(tmp_path / "index", *draw(), config=config)
    before = contents(tmp_path / "index")
    for name in "_prepare", "_search", "_graph", "_store", "commit":
        monkeypatch.setattr(_mapped_build, name, None)
    MappedIndex.build(tmp_path / "index", *draw(), config=config)
    assert contents(tmp_path / "index") == before


def test_a_stopped_build_after_an_index_leaves_the_index(copy):
    before = contents(copy)

    def stop(task, done, of):
        if task == "finding neighbours" and done == of:
            raise KeyboardInterrupt

    other = dataclasses.replace(CONFIG, probes=3)
    with pytest.raises(KeyboardInterrupt):
        MappedIndex.build(copy, *draw(), config=other, progress=stop)
    left = contents(copy)
    assert {name: left[name] for name in before} == before
    assert MappedIndex.open(copy).config == CONFIG


def test_other_vectors_are_never_taken_for_these(copy):
    vectors, ids = draw()
    vectors[17, 3] += 0.5
    MappedIndex.build(copy, vectors, ids, config=CONFIG)
    fresh = contents(copy)
    shutil.rmtree(copy)
    MappedIndex.build(copy, vectors, ids, config=CONFIG)
    assert contents(copy) == fresh


def test_info_describes_it_and_verify_reads_every_byte(copy):
    lines = describe_file(copy)
    assert lines["regions"] == "900, 3.0 an image"
    assert lines["dimensions"] == "8"
    assert "of the true ones" in lines["neighbours"]
    assert "(float32)" in lines["size"]
    assert "query_probes 64" in lines["settings"]
    verify(copy)
    path = next(copy.glob("similarities-*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    MappedIndex.open(copy)  # Opening reads no array.
    with pytest.raises(IndexFileError, match=r"similarities-.* was changed"):
        verify(copy)


@pytest.mark.parametrize("how", ["cut", "missing", "edited", "version", "text"])
def test_what_is_damaged_is_refused(copy, how):
    header = copy / "mapped.json"
    edges = next(copy.glob("edges-*"))
    if how == "cut":
        edges.write_bytes(edges.read_bytes()[:-4])
    elif how == "missing":
        edges.unlink()
    elif how == "text":
        header.write_text("{")
    else:
        stored = json.loads(header.read_text())
        stored["version" if how == "version" else "recall"] = 0
        header.write_text(json.dumps(stored))
    with pytest.raises(IndexFileError, match="build the index again"):
        MappedIndex.open(copy)


@pytest.mark.skipif(not LOCKED, reason="asks for a lock of Unix")
@pytest.mark.parametrize("again", [CONFIG, dataclasses.replace(CONFIG, probes=3)])
def test_two_builds_in_one_folder_are_one_too_many(built, tmp_path, again):
    folder, refused = tmp_path / "index", []

    def build_again(task, done, of):
        if task in {"writing vectors", "finding neighbours"} and done == of:
            with pytest.raises(ValueError, match=r"build is running in .*index"):
                MappedIndex.build(folder, *draw(), config=again)
            refused.append(task)

    MappedIndex.build(folder, *draw(), config=CONFIG, progress=build_again)
    assert refused == ["writing vectors", "finding neighbours"]
    assert contents(folder) == contents(built)


@pytest.mark.parametrize(
    "damage", ["part is short", "journal is empty", "journal is text", "journal is []"]
)
def test_lists_that_are_not_all_there_are_searched_again(
    built, tmp_path, monkeypatch, damage
):
    folder = tmp_path / "index"
    monkeypatch.setattr(_mapped_build, "_KEPT_ROWS", 1)

    def stop(task, done, of):
        if task == "refining neighbours" and done >= 0.6 * of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MappedIndex.build(folder, *draw(), config=CONFIG, progress=stop)
    (journal,) = (p for p in folder.glob("lists-*.json") if "drafts" not in p.name)
    if damage == "part is short":
        (part,) = folder.glob("indices-*.part")
        rows = json.loads(journal.read_text())["rows"]
        with part.open("rb+") as file:
            file.truncate(rows * 10 * 4 + 64)  # By less than the header has.
    else:
        text = {"empty": "", "text": "{", "[]": "[]"}[damage.split()[-1]]
        journal.write_text(text)
    MappedIndex.build(folder, *draw(), config=CONFIG)
    assert contents(folder) == contents(built)


HASH = "0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    [
        f"indices-{HASH}.npy",
        f"indices-{HASH}.npy.part",
        f"edges-{HASH}.npy.affinity",
        f"edges-{HASH}.npy.affinity.part",
        f"lists-{HASH}.json",
        f"lists-drafts-{HASH}.json.4711.part",
        "mapped.json.4711.part",
    ],
)
def test_what_killed_builds_left_is_taken_away(copy, name):
    before = contents(copy)
    (copy / name).write_bytes(b"half")
    MappedIndex.build(copy, *draw(), config=CONFIG)
    assert contents(copy) == before


@pytest.mark.parametrize(
    "name",
    [
        "vectors-train.npy",
        "order-2024.csv",
        "lists-of-mine.json",
        "mapped.json.orig",
        f"vectors-{HASH}.npy.orig",
        f"my-vectors-{HASH}.npy",
        f"vectors-{HASH}0.npy",
        f"vectors-{HASH.upper()}.npy",
    ],
)
def test_files_of_the_user_are_refused_and_stay(tmp_path, name):
    vectors, ids = draw()
    with (tmp_path / name).open("wb") as file:
        np.save(file, vectors)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"got '{name}' in it: name another place"):
        MappedIndex.build(tmp_path, vectors, ids, config=CONFIG)
    assert contents(tmp_path) == before


def test_files_that_came_into_an_index_later_are_not_removed(copy):
    (copy / "vectors-train.npy").write_bytes(b"mine")
    header = storage.read_mapped_header(copy)
    storage.remove_others(copy, header)
    assert (copy / "vectors-train.npy").read_bytes() == b"mine"


def test_settings_that_this_version_refuses_are_said_with_the_place(copy):
    header = storage.read_mapped_header(copy)
    facts = {k: v for k, v in header.items() if k != "fingerprint"}
    facts["config"]["index"] |= {"solver": "chebyshev", "keep_best": True}
    write_header(copy / "mapped.json", storage._FORMAT, facts)
    with pytest.raises(IndexFileError, match=r"index has settings .*keep_best.* again"):
        MappedIndex.open(copy)
