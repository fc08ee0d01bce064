"""Source files of the project, parsed without running them."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Module(NamedTuple):
    """Module with its dotted name and source."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return _parse(self.source)

    @property
    def stub(self) -> ast.Module:
        """Stub of a package: its public names, which are imported on first use."""
        path = ROOT.joinpath(*self.name.split("."), "__init__.pyi")
        return _parse(path.read_text(encoding="utf-8"))

    @property
    def home(self) -> str:
        """Stage or module directly below the package; "" for the package itself."""
        return (*self.name.split("."), "")[1]


@functools.cache
def _parse(source: str) -> ast.Module:
    return ast.parse(source)


@functools.cache
def read_modules(*folders: str) -> tuple[Module, ...]:
    """Modules of the project in these folders, sorted by path."""
    modules = []
    for path in sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        *parents, name = path.relative_to(ROOT).with_suffix("").parts
        is_package = name == "__init__"
        dotted = ".".join(parents if is_package else [*parents, name])
        modules.append(Module(dotted, path.read_text(encoding="utf-8"), is_package))
    return tuple(modules)


def imported(module: Module) -> Iterator[str]:
    """Dotted names of all imports of a module, also inside functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from taken_from(module, node)
        elif isinstance(node, ast.Call) and _is_import(node.func) and node.args:
            name = node.args[0]
            yield str(name.value) if isinstance(name, ast.Constant) else "diffjax"


def taken_from(module: Module, node: ast.ImportFrom) -> Iterator[str]:
    """Dotted names of the imports of one `from ... import ...`."""
    package = module.name.split(".")
    up = node.level - module.is_package
    start = package[: len(package) - up] if node.level else []
    base = ".".join([*start, *([node.module] if node.module else [])])
    for alias in node.names:
        # An imported name is a module below `diffjax` itself, or with an underscore.
        is_module = base == "diffjax" or alias.name.startswith("_")
        yield f"{base}.{alias.name}" if is_module else base


def _is_import(function):
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name in {"import_module", "__import__"}
