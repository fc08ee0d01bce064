"""Architecture of the code, checked in its sources without running them."""

import ast
import re

import pytest
from sources import Module, imported, read_modules

# Every module and stage of the package; each may import those before it.
ORDER = (
    *("_choices", "_ranges", "_arguments", "_io", "_array_cache", "_sharding"),
    *("progress", "downloads", "caches", "matlab", "timing", "native", "types"),
    "networks",
    *("weights", "regions", "images", "datasets", "graph", "diffusion", "pooling"),
    *("ranking", "retrieve", "distributed", "evaluation", "learning", "report"),
    *("index", "cli", "__main__"),
)
OUTSIDE = {"configs", "experiments", "tests"}

MODULES = read_modules("diffjax")
EVERYTHING = read_modules("diffjax", "experiments", "configs", "tests")
# How a stage imports the names of its stub.
ON_FIRST_USE = [
    "import lazy_loader",
    "__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)",
]
STAGES = [m for m in MODULES if m.is_package and m.home]


def forbidden_imports(module: Module) -> list[str]:
    """Imports of a module against the order of the package."""
    forbidden = []
    for target in imported(module):
        root, *rest = target.split(".")
        home = rest[0] if rest else ""
        if root in OUTSIDE:
            reason = "leaves the package"
        elif root != "diffjax" or (home and home == module.home):
            continue
        elif home not in ORDER:
            reason = "takes from the package as a whole, not from a stage"
        elif ORDER.index(home) > ORDER.index(module.home):
            reason = "points back"
        elif any(name.startswith("_") for name in rest[1:]):
            reason = "reaches past what the stage makes public"
        else:
            continue
        forbidden.append(f"{module.name} -> {target} {reason}")
    return forbidden


def test_imports_point_one_way():
    forbidden = [i for m in MODULES if m.home for i in forbidden_imports(m)]
    assert not forbidden, "\n".join(["imports against the order:", *forbidden])


def test_every_module_is_in_the_order():
    assert {m.home for m in MODULES} - {""} == set(ORDER)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("from diffjax.diffusion import diffuse", "diffjax.diffusion points back"),
        ("import diffjax.index", "diffjax.index points back"),
        ("from diffjax import ranking", "diffjax.ranking points back"),
        ("from ..index import Index", "diffjax.index points back"),
        ("from .. import cli", "diffjax.cli points back"),
        ("def late():\n    import diffjax.cli", "diffjax.cli points back"),
        (
            "import importlib\nimportlib.import_module('diffjax.report')",
            "diffjax.report points back",
        ),
        (
            "from diffjax.images._reading import Box",
            "diffjax.images._reading reaches past what the stage makes public",
        ),
        (
            "from diffjax.images import _reading",
            "diffjax.images._reading reaches past what the stage makes public",
        ),
        (
            "from ..regions._grid import rmac_grid",
            "diffjax.regions._grid reaches past what the stage makes public",
        ),
        ("import diffjax", "diffjax takes from the package as a whole"),
        ("from diffjax import knn", "diffjax.knn takes from the package as a whole"),
        ("from .. import knn", "diffjax.knn takes from the package as a whole"),
        ("import configs.schema", "configs.schema leaves the package"),
        ("from experiments import evaluate", "experiments leaves the package"),
    ],
)
def test_an_import_against_the_order_is_found(source, reason):
    (forbidden,) = forbidden_imports(Module("diffjax.graph._made_up", source))
    assert forbidden.startswith(f"diffjax.graph._made_up -> {reason}")


@pytest.mark.parametrize(
    "source",
    [
        "from diffjax.regions import whiten",
        "from ..images import Box",
        "from diffjax.types import Graph",
        "from diffjax._arguments import check_ids",
        "from ._affinity import kernel",
        "from . import _affinity",
        "from diffjax.graph._reciprocal import kernel",
        "from diffjax.graph import _affinity",
        "import jax.numpy as jnp",
        "from concurrent.futures import _base",
    ],
)
def test_an_import_along_the_order_is_allowed(source):
    assert forbidden_imports(Module("diffjax.graph._made_up", source)) == []


def test_relative_imports_of_a_package_start_at_the_package():
    package = Module("diffjax.graph", "from ._x import a\nfrom ..cli import b", True)
    assert forbidden_imports(package) == ["diffjax.graph -> diffjax.cli points back"]


def test_a_stage_consists_of_a_list_of_public_names():
    for stage in STAGES:
        docstring, *rest = stage.tree.body
        assert isinstance(docstring, ast.Expr), stage.name
        assert [ast.unparse(node) for node in rest] == ON_FIRST_USE, stage.name
        for node in stage.stub.body:
            assert isinstance(node, ast.ImportFrom), f"{stage.name}:{node.lineno}"
            assert node.level == 1, f"{stage.name}:{node.lineno}"
            for alias in node.names:
                assert alias.asname == alias.name, f"{stage.name}: {alias.name}"
                assert not alias.name.startswith("_"), f"{stage.name}: {alias.name}"


def test_no_module_has_a_vague_name():
    vague = {"util", "utils", "helper", "helpers", "common", "misc"}
    for module in EVERYTHING:
        assert not vague & set(module.name.replace("_", ".").split(".")), module.name


def test_annotations_are_evaluated_at_run_time():
    deferred = re.compile(r"^from __future__ import .*\bannotations\b", re.MULTILINE)
    for module in EVERYTHING:
        assert not deferred.search(module.source), module.name
