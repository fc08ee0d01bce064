"""Strict settings of JAX for all tests, and shared fixtures."""

import os
import pathlib
import sys

# Before jax is imported: its C++ side reads this once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jaxtyping
import pytest
from small_collection import Collection, draw_collection

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Workers share compiled programs, and a second run compiles almost nothing: also the
# thousands of programs that take milliseconds.
_PROGRAMS = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "programs"
jax.config.update("jax_compilation_cache_dir", str(_PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def x64():
    """Double precision for one test; the others find faults of single precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of public benchmark data beside the repository."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("DIFFJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the benchmark data; no folder {folder} (set DIFFJAX_DATA)")
    return folder


@pytest.fixture
def collection() -> Collection:
    """24 images of 1 to 6 regions, 5 queries of 1 to 4; 8 clusters, float64, unit."""
    return draw_collection()


@pytest.fixture
def unchecked():
    """Switches the type checker off, so that errors are those that users get."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def compiled():
    """List of the compilations during a test."""
    events = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> pathlib.Path:
    """Folder of twelve pictures, three crops of each of four photographs."""
    from photographs import write_photographs

    folder = tmp_path_factory.mktemp("pictures") / "photographs"
    write_photographs(folder)
    return folder


@pytest.fixture(scope="session")
def photograph_index(photographs, tmp_path_factory) -> pathlib.Path:
    """Their index on disk; a test that changes it copies it first."""
    from photographs import DESCRIPTOR, SMALL

    from diffjax.index import index_folder

    path = tmp_path_factory.mktemp("index") / "photographs.diffjax"
    index_folder(photographs, path, config=SMALL, descriptor=DESCRIPTOR)
    return path


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Runs `diffjax` as a process, with a cache of compiled programs between runs."""
    from photographs import Program

    return Program(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the program in this process; returns exit code, output and error."""
    from diffjax.cli._main import main

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
