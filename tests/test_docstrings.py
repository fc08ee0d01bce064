"""Docstrings of public functions and classes: present, with Args and Returns."""

import ast
import re
from collections.abc import Iterator

import pytest
from sources import Module, read_modules, taken_from

import diffjax

MODULES = read_modules("diffjax")
STAGES = [m for m in MODULES if m.is_package and m.home]
ARRAYS = re.compile(r"\b(Array|ndarray|Graph|Neighbors|Solution)\b")

UNDOCUMENTED = """
def f(x: Float[Array, "n"], *, k: int):
    '''Does.

    Args:
        x: It.
    '''
"""


def definitions(module: Module) -> dict[str, ast.AST]:
    kinds = ast.FunctionDef, ast.ClassDef
    return {n.name: n for n in module.tree.body if isinstance(n, kinds)}


def public_definitions() -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes by their public names."""
    by_name = {module.name: module for module in MODULES}
    for module in MODULES:
        if module in STAGES:
            for imports in module.stub.body:
                if isinstance(imports, ast.ImportFrom):
                    for alias in imports.names:
                        (source,) = set(taken_from(module, imports))
                        node = definitions(by_name[source]).get(alias.name)
                        # A type alias is documented where it is used.
                        if node is not None:
                            yield f"{module.name}.{alias.name}", node
        elif module.name.count(".") == 1 and not module.home.startswith("_"):
            for name, node in definitions(module).items():
                if not name.startswith("_"):
                    yield f"{module.name}.{name}", node


def missing_entries(name: str, node: ast.AST) -> list[str]:
    """Entries that the docstring of a public function or class lacks."""
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    text = ast.get_docstring(node) or ""
    if not text:
        return [f"{name} has no docstring"]
    if isinstance(node, ast.ClassDef) or not _takes_arrays(node):
        return []
    arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
    required = ["Args:", *(f"    {argument}: " for argument in arguments)]
    if node.returns is None or ast.unparse(node.returns) != "None":
        required.append("Returns:")
    lines = text.splitlines()
    return [
        f"{name} does not document {entry.strip()}"
        for entry in required
        if not any(line.startswith(entry) for line in lines)
    ]


def _takes_arrays(node):
    arguments = [*node.args.args, *node.args.kwonlyargs]
    hints = [ast.unparse(a.annotation) for a in arguments if a.annotation]
    return any(ARRAYS.search(hint) for hint in hints)


def test_everything_public_is_documented():
    missing = [
        entry
        for name, node in public_definitions()
        for entry in missing_entries(name, node)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("def f(): ...", ["f has no docstring"]),
        ("class C: ...", ["C has no docstring"]),
        ("def f(x: int):\n    'Does.'", []),
        (UNDOCUMENTED, ["f does not document k:", "f does not document Returns:"]),
        (
            UNDOCUMENTED.replace("k: int)", "k: int) -> None"),
            ["f does not document k:"],
        ),
    ],
)
def test_missing_entries_are_found(source, missing):
    ((name, node),) = definitions(Module("diffjax.made_up", source)).items()
    assert missing_entries(name, node) == missing


def test_every_name_of_the_package_is_public_in_a_stage():
    assert dir(diffjax)
    public = {name.rpartition(".")[2] for name, _ in public_definitions()}
    homes = {stage.home for stage in STAGES}
    for name in dir(diffjax):
        assert getattr(diffjax, name).__doc__, name
        assert name in public | homes, name
    with pytest.raises(AttributeError, match="No diffjax attribute nothing"):
        getattr(diffjax, "nothing")  # noqa: B009  # Type checkers know it is not there.
