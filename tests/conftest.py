"""Strictness for every test, and the data that several of them share."""

import os
import pathlib
import sys
from typing import NamedTuple

import jax
import jaxtyping
import numpy as np
import pytest

from diffjax.cli._main import main

# Before jax is imported: its C++ side reads this once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Workers share what they compile, and a second run compiles next to nothing: also the
# programs of milliseconds, which are thousands.
_PROGRAMS = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "programs"
jax.config.update("jax_compilation_cache_dir", str(_PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def x64():
    """Double precision for one test, so that it hides no fault of single precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of public benchmark data beside the repository."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("DIFFJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the benchmark data; no folder {folder} (set DIFFJAX_DATA)")
    return folder


class Collection(NamedTuple):
    """Region vectors in clusters, with images and queries of several regions."""

    vectors: np.ndarray
    image_ids: np.ndarray
    queries: np.ndarray
    query_ids: np.ndarray


@pytest.fixture
def collection() -> Collection:
    """24 images of 1 to 6 regions, 5 queries of 1 to 4; 8 clusters, float64, unit."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(8, 12))

    def draw(counts):
        ids = np.repeat(np.arange(len(counts)), counts)
        vectors = centres[rng.integers(8, size=len(ids))]
        vectors = vectors + 0.8 * rng.normal(size=vectors.shape)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), ids

    vectors, image_ids = draw(rng.integers(1, 7, size=24))
    queries, query_ids = draw([1, 4, 2, 3, 1])
    return Collection(vectors, image_ids, queries, query_ids)


@pytest.fixture
def unchecked():
    """Switches the type checker off: errors are then seen as users see them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def compiled():
    """Counts the programs that are compiled during a test."""
    count = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            count.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> pathlib.Path:
    """A folder of twelve pictures, three of each of four things."""
    from photographs import write_photographs

    folder = tmp_path_factory.mktemp("pictures") / "photographs"
    write_photographs(folder)
    return folder


@pytest.fixture(scope="session")
def photograph_index(photographs, tmp_path_factory) -> pathlib.Path:
    """Their index on disk; a test that changes it copies it first."""
    from photographs import SMALL

    from diffjax.index import index_folder

    path = tmp_path_factory.mktemp("index") / "photographs.diffjax"
    index_folder(photographs, path, config=SMALL)
    return path


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Starts `diffjax` as a process; compiled programs are kept between its runs."""
    from photographs import Program

    return Program(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the program in this process: gives exit code, output and error."""
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffjax.caches.enable_compilation_cache", lambda: None)
    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffjax", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run
