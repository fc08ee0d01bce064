import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import numpy as np
import pytest
from sources import read_modules

import diffjax
from diffjax.native import find_library

ROOT = pathlib.Path(diffjax.__file__).parents[1]
COMPILER = os.environ.get("CXX") or sysconfig.get_config_var("CXX")
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "_kernels.*")
STAGES = [m.name for m in read_modules("diffjax") if m.is_package and m.home]
# Modules that take long to import, beside JAX.
HEAVY = {
    *("faiss", "flax", "h5py", "jax.experimental.sparse", "loky", "matplotlib"),
    *("optax", "rax", "rich", "scipy.sparse.linalg", "skimage", "tyro"),
}


def imported_by(code: str) -> set[str]:
    """Modules that a new Python process has imported after running some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_or_a_stage_imports_nothing_heavy():
    stages = "diffjax.index, diffjax.report, diffjax.weights, diffjax.learning"
    modules = imported_by(f"import diffjax, {stages}")
    assert not modules & (HEAVY | {"jax", "numpy", "scipy"})


def test_settings_and_downloads_import_no_jax():
    modules = imported_by(
        "import diffjax.downloads, diffjax.datasets\n"
        "from diffjax.images import DescriptorConfig\n"
        "DescriptorConfig(aggregate='gem', gem_power=2.0)\n"
        "diffjax.datasets.DATASETS, diffjax.datasets.ScenesConfig()"
    )
    assert {"diffjax.images._config", "diffjax.datasets._fetch"} <= modules
    assert not modules & (HEAVY | {"jax", "scipy"})


def test_a_search_by_vectors_imports_nothing_needless(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((30, 8), dtype=np.float32)
    config = diffjax.IndexConfig.of(k=5, query_k=5)
    diffjax.Index.build(vectors, config=config).save(tmp_path / "index")
    modules = imported_by(
        "import diffjax, numpy\n"
        f"index = diffjax.Index.open({str(tmp_path / 'index')!r})\n"
        "index.search(numpy.asarray(index.vectors[:3]))"
    )
    assert "diffjax.index" in modules
    needless = HEAVY if find_library().usable else HEAVY - {"jax.experimental.sparse"}
    assert not modules & needless
    others = {"weights._load", "graph._insert", "index._folder", "report._page"}
    assert not modules & {f"diffjax.{name}" for name in others}


def test_every_public_name_resolves():
    for package in map(importlib.import_module, ["diffjax", *STAGES]):
        for name in dir(package):
            assert getattr(package, name) is getattr(package, name), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No diffjax attribute psychic"):
        diffjax.psychic  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


# Compiles without optimisation, which takes a third of the time.
UNOPTIMIZED = """#!/bin/sh
for word do
    shift
    case $word in -O?) ;; *) set -- "$@" "$word" ;; esac
done
exec {compiler} -O0 "$@"
"""
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"


def build_wheel(folder, compiler) -> pathlib.Path:
    """Builds the wheel of a copy of this tree."""
    source = folder / "source"
    shutil.copytree(ROOT / "diffjax", source / "diffjax", ignore=NOT_SOURCES)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # In this environment, which has the build requirements: setuptools and jaxlib.
    subprocess.run(
        [sys.executable, "-c", BUILD],
        env=os.environ | {"CC": compiler, "CXX": compiler},
        check=True,
        cwd=source,
    )
    (wheel,) = (source / "dist").glob("diffjax-*.whl")
    return wheel


@pytest.mark.parametrize("has_compiler", [True, False], ids=["compiler", "none"])
def test_the_wheel_runs_from_an_empty_folder(tmp_path, has_compiler):
    wrapper = tmp_path / "compiler"
    if has_compiler:
        if not (COMPILER and shutil.which(COMPILER.split()[0])):
            pytest.skip(f"needs a C++ compiler to build kernels, got {COMPILER}")
        wrapper.write_text(UNOPTIMIZED.format(compiler=COMPILER))
        wrapper.chmod(0o755)
    wheel = build_wheel(tmp_path, str(wrapper))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"diffjax/py.typed", "diffjax/report/page.css"} <= set(names)
    kernels = [n for n in names if n.startswith("diffjax/native/_kernels.")]
    assert len(kernels) == has_compiler
    assert not [n for n in names if n.startswith(("tests", "experiments", "configs"))]
    (tmp_path / "empty").mkdir()
    # As `python -m diffjax info` does.
    code = (
        "import runpy, sys, diffjax; assert 'site' in diffjax.__file__; "
        "from diffjax.native import find_library; print(find_library().usable); "
        "print(find_library().description); sys.argv = ['diffjax', 'info']; "
        "runpy.run_module('diffjax', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    usable, description, info = done.stdout.splitlines()
    assert usable == str(has_compiler)
    assert info == f"products here  {description}"
