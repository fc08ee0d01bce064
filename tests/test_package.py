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
# What takes long to import, beside JAX.
HEAVY = {
    *("faiss", "flax", "h5py", "jax.experimental.sparse", "loky", "matplotlib"),
    *("optax", "rax", "rich", "scipy.sparse.linalg", "skimage", "tyro"),
}


def imported_by(code: str) -> set[str]:
    """Modules that a fresh Python has imported after it ran some code."""
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
    found = imported_by(f"import diffjax, {stages}")
    assert not found & (HEAVY | {"jax", "numpy", "scipy"})


def test_a_search_by_vectors_imports_nothing_that_it_does_not_need(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((30, 8), dtype=np.float32)
    config = diffjax.IndexConfig(k=5, query_k=5)
    diffjax.Index.build(vectors, config=config).save(tmp_path / "index")
    found = imported_by(
        "import diffjax, numpy\n"
        f"index = diffjax.Index.load({str(tmp_path / 'index')!r})\n"
        "index.search(numpy.asarray(index.vectors[:3]))"
    )
    assert "diffjax.index" in found
    needless = HEAVY if find_library().usable else HEAVY - {"jax.experimental.sparse"}
    assert not found & needless
    others = {"weights._load", "graph._insert", "index._folder", "report._page"}
    assert not found & {f"diffjax.{name}" for name in others}


@pytest.mark.parametrize("name", dir(diffjax))
def test_every_public_name_resolves(name):
    assert getattr(diffjax, name) is getattr(diffjax, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No diffjax attribute psychic"):
        diffjax.psychic  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


@pytest.mark.parametrize("stage", STAGES)
def test_every_name_of_a_stage_resolves(stage):
    package = importlib.import_module(stage)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def build_wheel(folder, **variables) -> pathlib.Path:
    """The wheel of this tree, from a copy, as a build leaves things behind."""
    source = folder / "source"
    shutil.copytree(ROOT / "diffjax", source / "diffjax", ignore=NOT_SOURCES)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # In this environment, which has what the build wants: setuptools and jaxlib.
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "-w", folder, source],
        env=os.environ | variables,
        check=True,
        cwd=folder,
    )
    (wheel,) = folder.glob("diffjax-*.whl")
    return wheel


@pytest.mark.parametrize("compiler", [True, False], ids=["compiler", "no compiler"])
def test_the_wheel_runs_from_an_empty_folder(tmp_path, compiler):
    if compiler and not (COMPILER and shutil.which(COMPILER.split()[0])):
        pytest.skip(f"there is no C++ compiler here ({COMPILER}) to build kernels with")
    nothing = str(tmp_path / "no-compiler")
    variables = {} if compiler else {"CC": nothing, "CXX": nothing}
    wheel = build_wheel(tmp_path, **variables)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"diffjax/py.typed", "diffjax/report/page.css"} <= set(names)
    kernels = [n for n in names if n.startswith("diffjax/native/_kernels.")]
    assert len(kernels) == compiler
    assert not [n for n in names if n.startswith(("tests", "experiments", "configs"))]
    (tmp_path / "empty").mkdir()
    code = (
        "import diffjax, sys; assert 'site' in diffjax.__file__; "
        "from diffjax.native import find_library; print(find_library()); "
        "sys.argv = ['diffjax', 'info', '--help']; "
        "from diffjax.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: diffjax info" in done.stdout
    assert f"KernelLibrary(usable={compiler}, description=" in done.stdout


def test_the_package_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "diffjax", "info"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == f"products here  {find_library().description}\n"
