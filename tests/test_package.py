import ast
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

import diffjax

ROOT = pathlib.Path(diffjax.__file__).parents[1]
COMPILER = os.environ.get("CXX") or sysconfig.get_config_var("CXX")
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "_kernels.*")


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, diffjax; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert not {"jax", "flax", "faiss", "numpy", "scipy"} & set(done.stdout.split())


@pytest.mark.parametrize("name", diffjax.__all__)
def test_every_public_name_resolves(name):
    assert getattr(diffjax, name) is getattr(diffjax, name)
    assert name in dir(diffjax)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'psychic'"):
        diffjax.psychic  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_what_type_checkers_see_is_what_resolves():
    tree = ast.parse(pathlib.Path(diffjax.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(diffjax.__all__) == set(diffjax._HOMES)


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
    assert f"Library(usable={compiler}, description=" in done.stdout
