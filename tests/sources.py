"""The sources of the project, read without running them."""

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Module(NamedTuple):
    """A module by its dotted name, and its source."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def stub(self) -> ast.Module:
        """What a package makes public; imported when it is first asked for."""
        path = ROOT.joinpath(*self.name.split("."), "__init__.pyi")
        return ast.parse(path.read_text(encoding="utf-8"))

    @property
    def home(self) -> str:
        """The stage or module right below the package; "" for the package itself."""
        return (*self.name.split("."), "")[1]


def read_modules(*folders: str) -> list[Module]:
    found = []
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        *parents, name = path.relative_to(ROOT).with_suffix("").parts
        is_package = name == "__init__"
        dotted = ".".join(parents if is_package else [*parents, name])
        found.append(Module(dotted, path.read_text(encoding="utf-8"), is_package))
    return found


def imported(module: Module) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in it and however."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from taken_from(module, node)
        elif isinstance(node, ast.Call) and _is_import(node.func) and node.args:
            name = node.args[0]
            yield str(name.value) if isinstance(name, ast.Constant) else "diffjax"


def taken_from(module: Module, node: ast.ImportFrom) -> Iterator[str]:
    """Dotted names of what one `from ... import ...` takes."""
    package = module.name.split(".")
    up = node.level - module.is_package
    start = package[: len(package) - up] if node.level else []
    base = ".".join([*start, *([node.module] if node.module else [])])
    for alias in node.names:
        # Of a package names are taken; below `diffjax` itself, and where they have an
        # underscore, these are modules.
        deeper = base == "diffjax" or alias.name.startswith("_")
        yield f"{base}.{alias.name}" if deeper else base


def _is_import(function):
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name in {"import_module", "__import__"}
