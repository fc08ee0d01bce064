"""The shape of the code, read from its sources without running them."""

import ast

import pytest
from sources import Module, imported, read_modules

# Every module and stage of the package; each may import what stands before it.
ORDER = (
    *("_arguments", "_io", "_array_cache", "_sharding", "downloads", "caches"),
    *("matlab", "progress", "timing", "native", "types", "networks", "weights"),
    *("regions", "images", "datasets", "graph", "diffusion", "pooling", "ranking"),
    *("distributed", "evaluation", "learning", "report", "index", "cli", "__main__"),
)
OUTSIDE = {"configs", "experiments", "tests"}

MODULES = read_modules("diffjax")
EVERYTHING = read_modules("diffjax", "experiments", "configs", "tests")
# How a stage imports what its stub lists.
ON_FIRST_USE = [
    "import lazy_loader",
    "__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)",
]
STAGES = [m for m in MODULES if m.is_package and m.home]


def offences(module: Module) -> list[str]:
    """Imports of a module that the flow of the package does not allow."""
    found = []
    for target in imported(module):
        root, *rest = target.split(".")
        home = rest[0] if rest else ""
        if root in OUTSIDE:
            why = "leaves the package"
        elif root != "diffjax" or (home and home == module.home):
            continue
        elif home not in ORDER:
            why = "takes from the package as a whole, not from a stage"
        elif ORDER.index(home) > ORDER.index(module.home):
            why = "points back"
        elif any(part.startswith("_") for part in rest[1:]):
            why = "reaches past what the stage makes public"
        else:
            continue
        found.append(f"{module.name} -> {target} {why}")
    return found


def test_imports_point_one_way():
    found = [o for m in MODULES if m.home for o in offences(m)]
    assert not found, "\n".join(["arrows against the flow:", *found])


def test_every_module_has_its_place_in_the_flow():
    assert {m.home for m in MODULES} - {""} == set(ORDER)


@pytest.mark.parametrize(
    ("source", "why"),
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
def test_an_arrow_against_the_flow_is_found(source, why):
    (found,) = offences(Module("diffjax.graph._made_up", source))
    assert found.startswith(f"diffjax.graph._made_up -> {why}")


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
def test_arrows_along_the_flow_are_none_of_its_business(source):
    assert offences(Module("diffjax.graph._made_up", source)) == []


def test_relative_imports_of_a_package_start_at_the_package():
    package = Module("diffjax.graph", "from ._x import a\nfrom ..cli import b", True)
    assert offences(package) == ["diffjax.graph -> diffjax.cli points back"]


def test_what_a_stage_makes_public_is_a_list_of_names_and_nothing_else():
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


def test_no_module_is_a_home_for_anything():
    vague = {"util", "utils", "helper", "helpers", "common", "misc"}
    for module in EVERYTHING:
        assert not vague & set(module.name.replace("_", ".").split(".")), module.name


def test_annotations_are_what_they_say_at_run_time():
    for module in EVERYTHING:
        names = [
            alias.name
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for alias in node.names
        ]
        assert "annotations" not in names, module.name
