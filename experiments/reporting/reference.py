"""Reference pages: one for each stage, with an entry for every public name.

`python -m experiments reference` writes docs/reference from the stubs of the package; a
test compares the pages with what it would write.
"""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "diffjax"
# Stages whose names may change without notice.
_INTERNAL_STAGES = {"cli", "matlab", "native"}
_MODULES = ("types", "pooling", "progress", "caches", "timing", "downloads")


def reference_pages() -> dict[str, str]:
    """Text of every page, by file name."""
    pages = {
        # The stage called index is not the overview.
        f"diffjax-{stub.parent.name}.md": _stage_page(stub)
        for stub in sorted(PACKAGE.glob("*/__init__.pyi"))
        if stub.parent.name not in _INTERNAL_STAGES
    }
    pages["modules.md"] = _modules_page()
    rows = []
    for name, text in pages.items():
        title, _, rest = text.partition("\n")
        summary = rest.strip().splitlines()[0]
        rows.append(f"| [{title.removeprefix('# ')}]({name}) | {summary} |")
    pages["index.md"] = "\n".join(
        ["# Reference", "", "| stage | contents |", "| ----- | -------- |", *rows, ""]
    )
    return pages


def _stage_page(stub: pathlib.Path) -> str:
    stage = stub.parent.name
    init = ast.parse((stub.parent / "__init__.py").read_text())
    lines = [f"# diffjax.{stage}", "", ast.get_docstring(init) or "", ""]
    names = [
        (alias.name, f"diffjax.{stage}.{node.module}.{alias.name}")
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if not alias.name.isupper()  # Constants that stages share have no entry.
    ]
    for _, path in sorted(names, key=lambda pair: pair[0].lower()):
        lines += [f"::: {path}", ""]
    return "\n".join(lines)


def _modules_page() -> str:
    lines = ["# Single modules", ""]
    lines += ["Types, pooling, and modules around the stages.", ""]
    for name in _MODULES:
        lines += [f"::: diffjax.{name}", ""]
    return "\n".join(lines)


def main() -> None:
    """Writes the pages; with --check only compares them."""
    folder = ROOT / "docs" / "reference"
    pages = reference_pages()
    if "--check" in sys.argv:
        stale = [n for n, text in pages.items() if (folder / n).read_text() != text]
        sys.exit(f"stale pages, write them again: {stale}" if stale else 0)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        path.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text)
    print(f"{folder}: {len(pages)} pages")
