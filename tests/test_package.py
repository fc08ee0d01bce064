import ast
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import diffjax

ROOT = pathlib.Path(diffjax.__file__).parents[1]


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


def test_the_wheel_runs_from_an_empty_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path]
    subprocess.run([*pip, ROOT], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("diffjax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"diffjax/py.typed", "diffjax/report/page.css"} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "experiments", "configs"))]
    (tmp_path / "empty").mkdir()
    code = (
        "import diffjax, sys; assert 'site' in diffjax.__file__; "
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
