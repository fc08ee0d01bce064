"""Mutants of the package: small errors that are planted, and located again.

A mutant is stored as the text of its statement and the name of its function, so that it
can be planted again after the code has moved to other files.
"""

import ast
import copy
import difflib
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

TOP = "(top)"  # Name for the modules that are in no folder.

_SWAPS: dict[type, tuple[str, type]] = {
    one: (kind, other)
    for kind, *pair in [
        ("boundary", ast.Lt, ast.LtE),
        ("boundary", ast.Gt, ast.GtE),
        ("equality", ast.Eq, ast.NotEq),
        ("plus", ast.Add, ast.Sub),
        ("times", ast.Mult, ast.Div),
        ("logic", ast.And, ast.Or),
        ("logic", ast.BitAnd, ast.BitOr),
    ]
    for one, other in [pair, pair[::-1]]
}
_EXTREMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "any": "all"}
_EXTREMES |= {"floor": "ceil", "nanmin": "nanmax"}
_EXTREMES |= {new: old for old, new in _EXTREMES.items()}
# Calls that print, check a type, draw or clean up: they do not compute results.
_QUIET = re.compile(
    r"\b(print|say|log|logging|warn|warnings|tell|told|progress|isinstance|issubclass|"
    r"cast|default_rng|key|PRNGKey|close|flush|fsync|mkdir|block_until_ready|cache_clear|"
    r"astype)$"
)
_FLAGS_WITHOUT_EFFECT = {"strict", "exist_ok", "missing_ok", "parents", "copy"}
_FLAGS_WITHOUT_EFFECT |= {"indices_are_sorted", "unique_indices", "daemon", "text"}
_PATHS = re.compile(r"path|folder|file|name|director|cache|root|home", re.IGNORECASE)
_HEADERS = "if", "while", "in", "with"


class Statement(NamedTuple):
    """The smallest piece of code that a mutant rewrites.

    Attributes:
        function: Qualified name of the enclosing function.
        header: Keyword of the block that the expression heads; empty for a statement.
        node: Syntax tree.
    """

    function: str
    header: str
    node: ast.expr | ast.stmt

    @property
    def text(self) -> str:
        """Code on one line, as `ast.unparse` formats it."""
        return f"{self.header} {ast.unparse(self.node)}".strip()

    @property
    def start(self) -> tuple[int, int]:
        """Line and column."""
        return self.node.lineno, self.node.col_offset


class Place(NamedTuple):
    """Position and text of a mutant.

    Attributes:
        path: The file, relative to the root.
        statement: Statement to rewrite.
        after: Text of the mutant.
    """

    path: str
    statement: Statement
    after: str


def statements(tree: ast.AST) -> Iterator[Statement]:
    """Lists statements in functions, and heads of blocks, which can be mutated."""

    def visit(node: ast.AST, scope: str, *, inside: bool) -> Iterator[Statement]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    name = f"{scope}.{child.name}".strip(".")
                    within = inside or not isinstance(child, ast.ClassDef)
                    yield from visit(child, name, inside=within)
                    continue
                case ast.If() | ast.While() if inside:
                    yield Statement(scope, type(child).__name__.lower(), child.test)
                case ast.For() if inside:
                    yield Statement(scope, "in", child.iter)
                case ast.withitem() if inside:
                    yield Statement(scope, "with", child.context_expr)
                case (
                    ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Return()
                ) if inside:
                    yield Statement(scope, "", child)
                case ast.Expr() if inside and not isinstance(child.value, ast.Constant):
                    yield Statement(scope, "", child)
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield from visit(child, scope, inside=inside)

    yield from visit(tree, "", inside=False)


def mutations(statement: Statement) -> Iterator[tuple[str, str]]:
    """Lists kind and text of every mutant of a statement."""
    if any(map(_is_type_check, ast.walk(statement.node))):
        return
    order = {id(node): i for i, node in enumerate(ast.walk(statement.node))}
    for node in _changeable(statement.node):
        for kind, new in _replacements(node):
            twin = copy.deepcopy(statement.node)
            old = list(ast.walk(twin))[order[id(node)]]
            after = statement._replace(node=_Replace(old, new).visit(twin)).text
            if after != statement.text:
                yield kind, after


class _Replace(ast.NodeTransformer):
    """Replaces one node by another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _is_type_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {
        "isinstance",
        "issubclass",
        "hasattr",
        "callable",
    }


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    """Walks nodes that affect results: no texts, annotations or quiet calls."""
    if isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Call) and _is_quiet(node.func)
    ):
        return
    yield node
    if isinstance(node, ast.keyword) and node.arg == "axis":
        return
    for name, value in ast.iter_fields(node):
        if name != "annotation":
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _changeable(child)


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Lists replacements of a node, each with its kind."""
    yield from _other_operators(node)
    yield from _other_values(node)
    if isinstance(node, ast.stmt):
        yield from _other_statements(node)


def _other_operators(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _SWAPS:
            kind, new = _SWAPS[type(op)]
            yield kind, ast.Compare(node.left, [new()], node.comparators)
        case ast.BinOp(op=op) if type(op) in _SWAPS and not _is_text(node):
            kind, new = _SWAPS[type(op)]
            yield kind, ast.BinOp(node.left, new(), node.right)
        case ast.AugAssign(op=op) if type(op) in _SWAPS and not _has_text(node):
            kind, new = _SWAPS[type(op)]
            yield kind, ast.AugAssign(node.target, new(), node.value)
        case ast.BoolOp(op=op):
            yield "logic", ast.BoolOp(_SWAPS[type(op)][1](), node.values)
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield "not", node.operand


def _other_values(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Constant(value=number) if isinstance(number, int | float):
            # Large and tiny numbers are sizes of blocks and tolerances.
            if type(number) is int and (number <= 16 or number == 255):
                yield "number", ast.Constant(number + 1)
            if type(number) is float and (number == 0 or number > 1e-3):
                yield "number", ast.Constant(number * 0.5 or 1.0)
        case ast.keyword(arg="axis", value=value):
            other = int(ast.unparse(value) != "1")
            yield "axis", ast.keyword("axis", ast.Constant(other))
        case ast.keyword(arg=name, value=ast.Constant(value=bool(flag))):
            if name not in _FLAGS_WITHOUT_EFFECT:
                yield "flag", ast.keyword(name, ast.Constant(not flag))
        case ast.Call(func=ast.Name(id=name)) if name in _EXTREMES:
            func = ast.Name(_EXTREMES[name])
            yield "extreme", ast.Call(func, node.args, node.keywords)
        case ast.Call(func=ast.Attribute(attr=name) as func) if name in _EXTREMES:
            func = ast.Attribute(func.value, _EXTREMES[name])
            yield "extreme", ast.Call(func, node.args, node.keywords)


def _other_statements(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Return(value=ast.Call(func=func, args=[ast.Name() as first, *_])):
            # A class with other arguments would not be what the annotation says.
            if not ast.unparse(func).split(".")[-1][0].isupper():
                yield "early", ast.Return(first)
        case ast.AugAssign():
            yield "dropped", ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(value)):
                yield "dropped", ast.Pass()
        case ast.Expr(value=ast.Call(func=func)) if not _is_quiet(func):
            yield "dropped", ast.Pass()


def _is_quiet(func: ast.expr) -> bool:
    return bool(_QUIET.search(ast.unparse(func)))


def _has_text(node: ast.AST) -> bool:
    return any(
        isinstance(n, ast.JoinedStr)
        or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in ast.walk(node)
    )


def _is_text(node: ast.BinOp) -> bool:
    """Checks whether an operator joins texts, lists or paths."""
    operands = [node.left, node.right]
    literal = ast.List | ast.Tuple | ast.ListComp
    return (
        any(isinstance(operand, literal) for operand in operands)
        or any(map(_has_text, operands))
        or (isinstance(node.op, ast.Div) and bool(_PATHS.search(ast.unparse(node))))
    )


def read_tree(root: pathlib.Path) -> dict[str, list[Statement]]:
    """Parses the package and lists the statements of each module."""
    paths = sorted((root / "diffjax").rglob("*.py"))
    return {
        path.relative_to(root).as_posix(): list(
            statements(ast.parse(path.read_bytes()))
        )
        for path in paths
        if path.name != "__init__.py"
    }


def folder_of(path: str) -> str:
    """Names the folder of a module; the modules on top are one folder."""
    _, *folders, _ = path.split("/")
    return folders[0] if folders else TOP


def plant(source: bytes, statement: Statement, after: str) -> bytes:
    """Rewrites a statement in the source of its module."""
    lines, node = source.splitlines(keepends=True), statement.node
    starts = np.cumsum([0, *map(len, lines)])
    start = starts[node.lineno - 1] + node.col_offset
    end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
    new = after.removeprefix(f"{statement.header} " if statement.header else "")
    return source[:start] + new.encode() + source[end:]


def locate(modules: dict[str, list[Statement]], mutant: dict[str, Any]) -> Place | str:
    """Locates a mutant's statement: at `moved_to`, in its old place, or anywhere.

    `moved_to` may hold any of `file`, `function`, `before` and `after` (as in the
    source), or `gone`: the reason why the code does not exist any more.

    Returns:
        The place, or the reason why there is none, with the most similar statements.
    """
    moved = mutant["moved_to"] or {}
    if "gone" in moved:
        return f"gone: {moved['gone']}"
    wanted = {
        key: mutant[key] for key in ("file", "function", "before", "after")
    } | moved
    before, after = _canonical(wanted["before"]), _canonical(wanted["after"])
    everywhere = [(path, s) for path, members in modules.items() for s in members]
    same = [(path, s) for path, s in everywhere if s.text == before]
    at = [
        (p, s)
        for p, s in same
        if (p, s.function) == (wanted["file"], wanted["function"])
    ]
    hinted = [
        (path, s)
        for path, s in same
        if path == moved.get("file", path)
        and s.function == moved.get("function", s.function)
    ]
    for choice in (at, hinted, [] if moved else same):
        if len(choice) == 1:
            return Place(*choice[0], after)
    texts = {s.text: f"{path}, {s.function}: {s.text}" for path, s in everywhere}
    alike = difflib.get_close_matches(before, texts, n=3)
    return "\n    ".join(
        [f"stands in {len(same)} places; alike:", *(texts[text] for text in alike)]
    )


def _canonical(text: str) -> str:
    header, _, rest = text.partition(" ")
    if header in _HEADERS:
        return f"{header} {ast.unparse(ast.parse(rest, mode='eval'))}"
    return ast.unparse(ast.parse(text))
