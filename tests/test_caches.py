import os
import pathlib
import subprocess
import sys

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
    """Updates of JAX's configuration, recorded instead of made."""
    recorded = {}
    monkeypatch.setattr(jax.config, "update", recorded.__setitem__)
    return recorded


def test_the_most_specific_variable_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DIFFJAX_CACHE", "/own")
    assert cache_folder() == pathlib.Path("/own")
    monkeypatch.setenv("DIFFJAX_CACHE", "")
    assert cache_folder() == pathlib.Path("/xdg/diffjax")
    monkeypatch.delenv("DIFFJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "diffjax"


def test_compiled_programs_are_in_the_cache_folder(monkeypatch, tmp_path, updates):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    enable_compilation_cache()
    folder = pathlib.Path(updates["jax_compilation_cache_dir"])
    assert folder.parent == tmp_path / "compiled"
    assert folder.is_dir()


def test_programs_from_the_cache_give_no_compiler_messages(tmp_path):
    code = (
        "import jax; from diffjax.caches import enable_compilation_cache;"
        "enable_compilation_cache(); add = jax.jit(lambda x: x + 1); add(2.0);"
        "jax.clear_caches(); add(2.0)"
    )
    environment = os.environ | {"DIFFJAX_CACHE": str(tmp_path)}
    # Set for the tests, not for users.
    environment.pop("TF_CPP_MIN_LOG_LEVEL")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    assert any((tmp_path / "compiled").rglob("jit__lambda*"))


def test_networks_are_beside_programs_if_those_are_in_our_cache(monkeypatch, tmp_path):
    programs = pathlib.Path(jax.config.values["jax_compilation_cache_dir"])
    monkeypatch.setenv("DIFFJAX_CACHE", str(programs.parents[1]))
    assert exported_networks_folder() == programs / "networks"
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    assert exported_networks_folder() is None


def test_processors_with_other_features_have_separate_programs(
    monkeypatch, tmp_path, updates
):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(caches, "_CPU_INFO", tmp_path / "cpuinfo")
    folders = []
    for flags in (None, "sse", "sse avx512", "sse"):
        if flags:  # Clock speeds vary and must not matter.
            speed = f"cpu MHz : {1000 + len(folders)}"
            (tmp_path / "cpuinfo").write_text(f"{speed}\nflags : {flags}\n")
        enable_compilation_cache()
        folders.append(updates["jax_compilation_cache_dir"])
    assert folders[1] == folders[3]
    assert len(set(folders)) == 3


def test_an_unwritable_cache_is_not_used_with_a_warning_in_a_line(
    monkeypatch, tmp_path, updates
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(
        UserWarning, match="Not a directory.*set DIFFJAX_CACHE"
    ) as caught:
        enable_compilation_cache()
    assert "\n" not in str(caught[0].message)
    assert updates == {}
