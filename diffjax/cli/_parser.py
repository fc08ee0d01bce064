"""Parser of the command line: commands, their arguments, and help in groups.

Nothing slow is imported here: help and mistakes are answered without JAX.
"""

import argparse
import dataclasses
import difflib
import inspect
import pathlib
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

from diffjax.images import DescriptorConfig
from diffjax.index import PRESETS, GraphConfig
from diffjax.retrieve import SearchConfig

from ._console import UsageError

# Commands and options of earlier versions, by what they are called now.
_RENAMED_COMMANDS = {"index-vectors": "index", "search-vectors": "search"}
_RENAMED_OPTIONS = {
    "--neighbors": "--method",
    "--offline": "--offline-neighbors",
    "--reach": "--local-nodes",
    "--query-probes": "--probes",
    "--cut": "--no-renormalize-shortlist",
    "--tail": "--outside-shortlist",
    "--image-ids": "--ids",
}
_LEARNED_PARTS = (
    *("alpha", "gamma", "lam", "query_gamma", "bias"),
    *("projection", "shrinkage", "emphasis"),
)
_TYPE_NAMES = {int: "INT", float: "NUMBER", str: "NAME"}
_BOX_NUMBERS = 4


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, with the most similar name."""

    def __init__(self, **settings: Any) -> None:
        """Creates a parser without abbreviations."""
        settings.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises a usage error of one line."""
        raise UsageError(f"{message.rstrip('.')}. See {self.prog} --help")

    def options(self) -> list[str]:
        """Names of all options."""
        return [n for action in self._actions for n in action.option_strings]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter with the option names in one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=96)


@dataclasses.dataclass(frozen=True)
class Command:
    """Command of the program: help texts and arguments.

    Attributes:
        operands: Positional arguments, as the usage line shows them.
        summary: One line for the list of commands.
        description: Description for the help of the command.
        add_arguments: Function that adds the arguments to a parser.
    """

    operands: str
    summary: str
    description: str
    add_arguments: Callable[[Parser], None]


def parse_command_line(
    arguments: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    """Reads a command line.

    Args:
        arguments: Words after the program's name.

    Returns:
        Name of the command, and its arguments by name.

    Raises:
        UsageError: If the command line is invalid, with the most similar name.
        SystemExit: After --help or --version.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())  # noqa: T201  # The program's answer.
        sys.exit(0)
    if arguments[0] == "--version":
        from importlib.metadata import version  # noqa: PLC0415

        print(f"diffjax {version('diffjax')}")  # noqa: T201  # The program's answer.
        sys.exit(0)
    name, *command_arguments = arguments
    if name not in COMMANDS:
        raise UsageError(_unknown_command(name))
    command = COMMANDS[name]
    parser = Parser(
        prog=f"diffjax {name}",
        usage=f"diffjax {name} {command.operands}[options]",
        description=inspect.cleandoc(command.description),
    )
    command.add_arguments(parser)
    for option in command_arguments:
        if option.split("=")[0] in _RENAMED_OPTIONS:
            old_option = option.split("=")[0]
            raise UsageError(
                f"{old_option} is called {_RENAMED_OPTIONS[old_option]} now."
            )
    values, unknown = parser.parse_known_args(_join_boxes(command_arguments))
    if unknown:
        raise UsageError(_unknown_option(unknown[0], parser))
    return name, vars(values)


def overview() -> str:
    """Text of `diffjax --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diffjax COMMAND ...",
            "",
            "Searches pictures for small objects, by diffusion on the graph of picture",
            "regions. Start with: diffjax demo",
            "",
            "commands:",
            *lines,
            "",
            "`diffjax COMMAND --help` says more; `diffjax --version` is the version.",
        ]
    )


def _unknown_command(name: str) -> str:
    if name in _RENAMED_COMMANDS:
        return f"{name} is called `diffjax {_RENAMED_COMMANDS[name]}` now."
    suggestions = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f": did you mean {suggestions[0]}?" if suggestions else "."
    return f"COMMAND must be one of {', '.join(COMMANDS)}, got {name!r}{hint}"


def _unknown_option(option: str, parser: Parser) -> str:
    if not option.startswith("-"):
        return f"{option!r} is one argument too many. See {parser.prog} --help"
    suggestions = difflib.get_close_matches(
        option.split("=", maxsplit=1)[0], parser.options(), n=1
    )
    hint = (
        f": did you mean {suggestions[0]}?"
        if suggestions
        else f". See {parser.prog} --help"
    )
    return f"{parser.prog} has no option {option!r}{hint}"


def _join_boxes(arguments: Sequence[str]) -> list[str]:
    """Joins the numbers after --box, separated by commas or spaces."""
    joined, position = [], 0
    while position < len(arguments):
        joined.append(arguments[position])
        position += 1
        if joined[-1] != "--box":
            continue
        numbers: list[str] = []
        while position < len(arguments) and len(numbers) < _BOX_NUMBERS:
            pieces = re.split(r"[,\s]+", arguments[position].strip(" ,"))
            if not all(re.fullmatch(r"-?\d+(\.\d+)?", piece) for piece in pieces):
                break
            numbers += pieces
            position += 1
        if numbers:
            # With its option, or a negative number would be taken for an option.
            joined[-1] = f"--box={','.join(numbers)}"
    return joined


def add_settings(
    parser: Parser,
    title: str,
    config: Any,
    *,
    show_defaults: bool = True,
    texts: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Adds a group of options, one for each field of a dataclass of settings.

    Settings that are not on a command line are left out of what is read from it.

    Args:
        parser: Parser of a command.
        title: Title of the group.
        config: Settings whose values are the defaults.
        show_defaults: Whether the help shows these defaults.
        texts: Texts of fields that differ from those of the dataclass.
    """
    group = parser.add_argument_group(title)
    help_texts = {**field_texts(type(config)), **texts}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        option = "--" + field.name.replace("_", "-")
        text = help_texts[field.name].rstrip(".").replace("%", "%%")
        text = text.replace("None ", "unset ")  # What a command line can say.
        text = text[0].lower() + text[1:]
        default_text = _default_text(getattr(config, field.name))
        if show_defaults and default_text is not None and field.name not in texts:
            text += f" [{default_text}]"
        group.add_argument(
            option,
            default=argparse.SUPPRESS,
            help=text,
            **_option_arguments(hints[field.name]),
        )


def _default_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _option_arguments(hint: Any) -> dict[str, Any]:
    """Arguments of `add_argument` for the type of a setting."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (h for h in typing.get_args(hint) if h is not type(None))
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return {"choices": choices, "metavar": "{" + ",".join(choices) + "}"}
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return {"nargs": "+", "type": kind, "metavar": _TYPE_NAMES[kind]}
    return {"type": hint, "metavar": _TYPE_NAMES[hint]}


def field_texts(config: type) -> dict[str, str]:
    """Help texts of the fields of a dataclass, from the Attributes of its docstring."""
    _, _, section = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in section.split("\n\n")[0].splitlines():
        head = re.match(r"    (\w+): (.*)", line)
        if head:
            name, text = head.groups()
            texts[name] = text
        elif name:
            texts[name] += " " + line.strip()
    return texts


def settings_from(values: Mapping[str, Any], config: type) -> dict[str, Any]:
    """Selects the fields of a settings dataclass among the arguments of a command."""
    names = {field.name for field in dataclasses.fields(config)}
    selected = {name: value for name, value in values.items() if name in names}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in selected.items()}


def _add_index_arguments(parser: Parser) -> None:
    parser.add_argument(
        "source",
        metavar="FOLDER|VECTORS",
        type=pathlib.Path,
        help="folder of pictures, also in folders in it; or region vectors [n, d] of "
        "any real type in a file of .npy, .npz, .parquet or .arrow",
    )
    common = parser.add_argument_group("common options")
    common.add_argument(
        "--out",
        metavar="PATH",
        type=pathlib.Path,
        help="folder of the index; default: the source's name with .diffjax added",
    )
    common.add_argument(
        "--ids",
        metavar="FILE|COLUMN",
        help="of vectors: id of the image of each, in a file of .npy or with an id a "
        "line, or in a column of VECTORS; default: each is an image",
    )
    _add_folder_options(common)
    common.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        metavar="{" + ",".join(PRESETS) + "}",
        help="settings of a published program, instead of graph and search options",
    )
    dim = (
        "dimensions after whitening; 0 leaves vectors as they are [256 for pictures, 0]"
    )
    add_settings(parser, "graph options", GraphConfig(), texts={"dim": dim})
    add_settings(parser, "search options (kept in the index)", SearchConfig())
    _add_descriptor_options(parser)


def _add_folder_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--regions",
        metavar="CSV",
        type=pathlib.Path,
        help="of pictures: boxes instead of the grid, picture,x0,y0,x1,y1 per line",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="of pictures: refuse the folder if one can't be read",
    )
    group.add_argument(
        "--workers",
        metavar="INT",
        type=int,
        default=2,
        help="of pictures: processes that read them [2]",
    )


def _add_descriptor_options(parser: Parser) -> None:
    title = "descriptor options (of pictures)"
    add_settings(parser, title, DescriptorConfig())


def _add_extract_arguments(parser: Parser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=pathlib.Path,
        help="pictures, also in folders in it",
    )
    common = parser.add_argument_group("common options")
    common.add_argument(
        "--out",
        metavar="PATH",
        type=pathlib.Path,
        help="folder of the vectors; default: the name of FOLDER with .diffjax added",
    )
    _add_folder_options(common)
    _add_descriptor_options(parser)


def _add_search_arguments(parser: Parser) -> None:
    parser.add_argument(
        "index",
        metavar="INDEX",
        type=pathlib.Path,
        help="folder that `diffjax index` made",
    )
    parser.add_argument(
        "query",
        metavar="PICTURE|QUERIES",
        type=pathlib.Path,
        help="query picture; or a file of region vectors of queries [r, d], as for "
        "`diffjax index`",
    )
    common = parser.add_argument_group("common options")
    common.add_argument(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="of a picture: box in pixels, right and bottom not included",
    )
    common.add_argument(
        "--query-ids",
        metavar="IDS.npy",
        type=pathlib.Path,
        help="of vectors: query of each, 0, 1, 2, ...; default: each is a query",
    )
    common.add_argument(
        "--top", metavar="INT", type=int, default=10, help="answers wanted [10]"
    )
    common.add_argument(
        "--html",
        metavar="FILE",
        type=pathlib.Path,
        help="of a picture: also write the answers as a page with pictures",
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument(
        "--timing",
        action="store_true",
        help="also print the seconds of each step, and the programs that it compiled",
    )
    common.add_argument(
        "--weights",
        metavar="FILE",
        type=pathlib.Path,
        help="of a picture: where the network's weights lie now, if they were moved",
    )
    common.add_argument(
        "--params",
        metavar="FILE",
        type=pathlib.Path,
        help="search with parameters that `diffjax learn` wrote for this index",
    )
    title = "search options (default: those of the index)"
    add_settings(parser, title, SearchConfig(), show_defaults=False)


def _add_info_arguments(parser: Parser) -> None:
    parser.add_argument(
        "index",
        metavar="INDEX",
        type=pathlib.Path,
        nargs="?",
        help="folder that `diffjax index` made; without it only what computes here",
    )
    parser.add_argument(
        "--verify", action="store_true", help="also compare every byte with its hash"
    )


def _add_learn_arguments(parser: Parser) -> None:
    parser.add_argument(
        "index",
        metavar="INDEX",
        type=pathlib.Path,
        help="folder that `diffjax index` made",
    )
    parser.add_argument(
        "--queries",
        metavar="CSV",
        type=pathlib.Path,
        required=True,
        help="labels: picture,x0,y0,x1,y1,label per line",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=pathlib.Path,
        required=True,
        help="file of the parameters",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=_LEARNED_PARTS,
        metavar="NAME",
        default=("alpha", "gamma", "lam"),
        help=f"what is learned, of {', '.join(_LEARNED_PARTS)}; shrinkage and emphasis "
        "whiten vectors by the labels [alpha gamma lam]",
    )
    parser.add_argument(
        "--steps",
        metavar="INT",
        type=int,
        default=200,
        help="most steps, a multiple of 20 [200]",
    )
    parser.add_argument(
        "--seed",
        metavar="INT",
        type=int,
        default=0,
        help="seed of the batches and of what is held out [0]",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=pathlib.Path,
        help="where the network's weights lie now, if they were moved",
    )


def _add_fetch_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the data set")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        default=pathlib.Path("datasets"),
        help="folder of the data sets, each in a folder of its name [datasets]",
    )


def _add_demo_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=pathlib.Path,
        default=pathlib.Path("diffjax-demo.html"),
        help="page to write [diffjax-demo.html]",
    )


COMMANDS: Mapping[str, Command] = types.MappingProxyType(
    {
        "demo": Command(
            "",
            "Show what diffusion finds, on scenes composed here and now.",
            """
            Compose 680 cluttered scenes with small objects and 80 queries, index them,
            answer every query by five methods, print a table and write a page of
            answers. Takes a minute or three the first time, seconds later: scenes and
            index are kept in the cache folder ($DIFFJAX_CACHE).
            """,
            _add_demo_arguments,
        ),
        "index": Command(
            "FOLDER|VECTORS ",
            "Make the index of a folder of pictures, or of vectors.",
            """
            Make the index of a folder of pictures, or of region vectors of any real
            type in a file of NumPy (.npy, .npz), Parquet or Arrow.

            Pictures that can't be read are listed and left out, and pictures that are
            already in the index are not described again. Vectors of a file are read
            block by block: what that takes is printed first, and refused where it can't
            fit. A build that was stopped continues where it was.
            """,
            _add_index_arguments,
        ),
        "search": Command(
            "INDEX PICTURE|QUERIES ",
            "Find the pictures of an index that show what a picture shows.",
            """
            Find the pictures of an index that show what a picture, or a box in it,
            shows; or, of an index of vectors, the images that are best for queries.
            """,
            _add_search_arguments,
        ),
        "info": Command(
            "[INDEX] ",
            "Say what is in an index, and what computes here.",
            "Say what is in an index, and what computes here: native kernels or JAX's.",
            _add_info_arguments,
        ),
        "extract": Command(
            "FOLDER ",
            "Describe the pictures of a folder, without an index of them.",
            """
            Describe the pictures of a folder, without making an index of them.

            Writes the region vectors as files of the safetensors format, which Python
            reads with diffjax.index.read_folder_regions; `diffjax index` with the same
            --out and the same network makes the index of them. A run that was stopped
            continues where it was.
            """,
            _add_extract_arguments,
        ),
        "learn": Command(
            "INDEX --queries CSV --out FILE ",
            "Learn the settings of a search from labelled boxes.",
            """
            Learn the settings of a search from boxes and labels in pictures of its
            index. Each row of the file is a query; right are the pictures of its label.
            A quarter of the labels is held out and tells when to stop. `diffjax search
            --params` uses what was learned. Learning that was stopped continues where
            it was.
            """,
            _add_learn_arguments,
        ),
        "fetch": Command(
            "NAME ",
            "Fetch a public data set of the evaluation, checked and unpacked.",
            """
            Fetch a public data set of the evaluation, checked and unpacked.

            Names: oxford5k, paris6k, roxford5k, rparis6k, flickr100k, revisitop1m,
            instre and the released descriptors, such as oxford5k-siamac; an unknown one
            lists them all. A fetch that was stopped continues where it was. What can't
            be fetched any more is named with where to put it.
            """,
            _add_fetch_arguments,
        ),
    }
)
