import pathlib

import jax
import pytest

from diffjax import caches
from diffjax.caches import (
    cache_folder,
    enable_compilation_cache,
    exported_networks_folder,
)


@pytest.fixture
def updates(monkeypatch):
    """What is set in JAX, caught before it is."""
    caught = {}
    monkeypatch.setattr(jax.config, "update", caught.__setitem__)
    return caught


def test_the_nearest_wish_decides_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DIFFJAX_CACHE", "/own")
    assert cache_folder() == pathlib.Path("/own")
    monkeypatch.setenv("DIFFJAX_CACHE", "")
    assert cache_folder() == pathlib.Path("/xdg/diffjax")
    monkeypatch.delenv("DIFFJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "diffjax"


def test_programs_are_kept_in_the_cache(monkeypatch, tmp_path, updates):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    enable_compilation_cache()
    folder = pathlib.Path(updates["jax_compilation_cache_dir"])
    assert folder.parent == tmp_path / "compiled"
    assert folder.is_dir()


def test_networks_are_kept_where_programs_are_if_that_is_in_our_cache(
    monkeypatch, tmp_path
):
    programs = pathlib.Path(jax.config.values["jax_compilation_cache_dir"])
    monkeypatch.setenv("DIFFJAX_CACHE", str(programs.parents[1]))
    assert exported_networks_folder() == programs / "networks"
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    assert exported_networks_folder() is None


def test_processors_of_other_features_keep_their_programs_apart(
    monkeypatch, tmp_path, updates
):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(caches, "_CPU_INFO", tmp_path / "cpuinfo")
    folders = []
    for flags in (None, "sse", "sse avx512", "sse"):
        if flags:  # Speeds change from one moment to the next and must not matter.
            speed = f"cpu MHz : {1000 + len(folders)}"
            (tmp_path / "cpuinfo").write_text(f"{speed}\nflags : {flags}\n")
        enable_compilation_cache()
        folders.append(updates["jax_compilation_cache_dir"])
    assert folders[1] == folders[3]
    assert len(set(folders)) == 3


def test_a_cache_that_can_not_be_written_warns_in_a_line_and_is_left_out(
    monkeypatch, tmp_path, updates
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="Not a directory.*set DIFFJAX_CACHE") as said:
        enable_compilation_cache()
    assert "\n" not in str(said[0].message)
    assert updates == {}
