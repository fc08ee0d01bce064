"""Ground truths of Oxford and Paris: revisited pickles, original text files."""

import io
import os
import pathlib
import pickle
import pickletools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int

from diffjax.images import Box

from ._ground_truth import (
    GroundTruth,
    check_consistent,
    check_unique_names,
    format_first_names,
    read_box,
    read_lines,
    read_positions,
)

_PICKLE_LAYOUT = {"imlist": str, "qimlist": str, "gnd": dict}
_LIST_NAMES = ("easy", "hard", "junk")
# What names of pictures begin with that were found by no landmark's name.
_CITY_NAMES = ("oxford", "paris_general")

# What a damaged or hostile pickle makes the unpickler raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class RevisitedProtocols(NamedTuple):
    """The three protocols of a revisited benchmark, on the same queries.

    Attributes:
        easy: Right are the easy pictures; the hard ones do not count.
        medium: Right are the easy and the hard pictures.
        hard: Right are the hard pictures; the easy ones do not count.
    """

    easy: GroundTruth
    medium: GroundTruth
    hard: GroundTruth


class _QueryLists(NamedTuple):
    """What is known of one query."""

    box: Box
    easy: Int[np.ndarray, " _"]
    hard: Int[np.ndarray, " _"]
    junk: Int[np.ndarray, " _"]


def read_revisited(
    path: str | os.PathLike[str], *, name: str | None = None
) -> RevisitedProtocols:
    """Reads the ground truth of revisited Oxford or Paris.

    | protocol | right | junk |
    |---|---|---|
    | easy | easy | hard, junk |
    | medium | easy, hard | junk |
    | hard | hard | easy, junk |

    The query pictures are not in the database. The file does not tell what a query
    shows: its object is the landmark by which most of its easy and hard pictures, and
    it, are named.

    Args:
        path: `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`: a dict of names `imlist` and
            `qimlist` and, per query, `gnd` with `bbx` and the numbers of its `easy`,
            `hard` and `junk` pictures. The pickle names no class, and is refused if it
            does.
        name: What the benchmark is called; None is the name of the file without `gnd_`.
            The protocol is added: "roxford5k-hard".

    Returns:
        The three protocols. Queries without a right answer are kept.

    Raises:
        ValueError: If the file is no such pickle, or names a picture that is not there.
        OSError: If the file can't be read.

    References:
        Radenovic et al., CVPR 2018, https://arxiv.org/abs/1803.11285.
    """
    content = _read_pickle(path)
    database, queries = content["imlist"], content["qimlist"]
    entries = [
        _parse_query(
            record, size=len(database), place=f"{path}, query {number} ({query})"
        )
        for number, (record, query) in enumerate(
            zip(content["gnd"], queries, strict=True)
        )
    ]
    stem = name or pathlib.Path(path).stem.removeprefix("gnd_")
    objects = tuple(
        most_common_landmark(
            [query, *(database[i] for i in np.concatenate([entry.easy, entry.hard]))]
        )
        for query, entry in zip(queries, entries, strict=True)
    )

    def protocol(kind: str, right: tuple[str, ...]) -> GroundTruth:
        wrong = tuple(one for one in _LIST_NAMES if one not in right)
        truth = GroundTruth(
            name=f"{stem}-{kind}",
            database=tuple(database),
            queries=tuple(queries),
            boxes=tuple(entry.box for entry in entries),
            positives=tuple(_merge_lists(entry, right) for entry in entries),
            junk=tuple(_merge_lists(entry, wrong) for entry in entries),
            objects=objects,
        )
        return check_consistent(truth, source=path)

    return RevisitedProtocols(
        easy=protocol("easy", ("easy",)),
        medium=protocol("medium", ("easy", "hard")),
        hard=protocol("hard", ("hard",)),
    )


def read_revisited_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the names of all pictures of the original Oxford5k or Paris6k.

    The revisited database is the original one without the query pictures.

    Args:
        path: As for `read_revisited`.

    Returns:
        The names of database and query pictures, sorted; for `read_oxford`.

    Raises:
        ValueError: As `read_revisited`.
        OSError: If the file can't be read.
    """
    content = _read_pickle(path)
    names = sorted(content["imlist"] + content["qimlist"])
    check_unique_names(str(path), names)
    return tuple(names)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers, and nothing that has a name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"it asks for {module}.{name}, which no ground truth needs")


def _read_pickle(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Reads the pickle and checks its layout, but for the records of the queries."""
    data = pathlib.Path(path).read_bytes()
    try:
        content = _PlainUnpickler(io.BytesIO(_check_pickle(data))).load()
    except _PICKLE_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: no readable pickle: {reason}.") from error
    wanted = f"{path} must hold a dict of lists imlist, qimlist and gnd"
    if not isinstance(content, dict):
        raise ValueError(f"{wanted}, got {type(content).__name__}.")
    for key, kind in _PICKLE_LAYOUT.items():
        if key not in content:
            raise ValueError(f"{wanted}, got {list(content)}.")
        value = content[key]
        if not isinstance(value, list):
            raise ValueError(f"{wanted}, got {type(value).__name__} as {key}.")
        odd = [one for one in value if not isinstance(one, kind)]
        if odd:
            raise ValueError(
                f"{path}: {key} must hold {kind.__name__}, got {type(odd[0]).__name__}."
            )
    if len(content["gnd"]) != len(content["qimlist"]):
        raise ValueError(
            f"{path}: gnd must have one record for each of {len(content['qimlist'])} "
            f"queries, got {len(content['gnd'])}."
        )
    return content


def _check_pickle(data: bytes) -> bytes:
    """Refuses what would take memory, or an object, before any of it is there."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        # The unpickler makes room for as many objects as the highest number says.
        puts = opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"}
        if puts and isinstance(argument, int) and argument > count:
            raise ValueError(f"it numbers an object {argument}, of at most {count}")
        # An object that another library has registered would come by no name.
        if opcode.name.startswith("EXT"):
            raise ValueError("it asks for an object by its number in a registry")
    return data


def _parse_query(record: dict[str, Any], *, size: int, place: str) -> _QueryLists:
    absent = [
        key for key in ("bbx", *_LIST_NAMES) if not isinstance(record.get(key), list)
    ]
    if absent:
        raise ValueError(
            f"{place}: must have lists bbx, easy, hard and junk, got no {absent[0]} "
            f"among {list(record)}."
        )
    numbers = {}
    for key in _LIST_NAMES:
        odd = [one for one in record[key] if type(one) is not int]
        if odd:
            raise ValueError(
                f"{place}, {key}: must be numbers of pictures, got {odd[0]!r}."
            )
        numbers[key] = read_positions(record[key], size=size, place=f"{place}, {key}")
    return _QueryLists(box=read_box(record["bbx"], place=place), **numbers)


def _merge_lists(entry: _QueryLists, lists: tuple[str, ...]) -> Int[np.ndarray, " _"]:
    return np.unique(np.concatenate([getattr(entry, one) for one in lists]))


def most_common_landmark(names: list[str]) -> str:
    """What most pictures are named by: the part before the last underscore."""
    counts = Counter(name.rpartition("_")[0] or name for name in names)
    for general in _CITY_NAMES:
        if len(counts) > 1:
            counts.pop(general, None)
    most = max(counts.values())
    return min(landmark for landmark, times in counts.items() if times == most)


_LIST_FILES = ("query", "good", "ok", "junk")
_NAME_PREFIX = "oxc1_"  # Of names in the query files of Oxford5k, and nowhere else.


def read_oxford(
    folder: str | os.PathLike[str],
    database: Sequence[str],
    *,
    name: str | None = None,
) -> GroundTruth:
    """Reads the text files of Oxford5k or Paris6k.

    Right are the good and the ok pictures, each once, whatever the files say; the query
    picture is in the database like any other.

    Args:
        folder: Where the files lie, `all_souls_1_query.txt` and so on: four for each
            query, of which those of good, ok and junk hold a name in each line, and
            that of the query `NAME x0 y0 x1 y1`.
        database: Names of all pictures, which the files do not tell:
            `read_revisited_names` knows them, or those of a folder's pictures without
            their suffix. Answers are positions in it.
        name: What the benchmark is called; None is the name of the folder.

    Returns:
        The queries sorted by the names of their files; their objects are the
        landmarks: "all_souls" for `all_souls_1`.

    Raises:
        ValueError: If a file is missing, a query line has another form, or a picture is
            not in `database` (it counts them all and names the first ten).
        OSError: If a file can't be read.

    References:
        Philbin et al., CVPR 2007 (Oxford Buildings) and CVPR 2008 (Paris); the format
        is read off their files.
    """
    root = pathlib.Path(folder)
    labels = _list_query_names(root)
    check_unique_names("database", database)
    where = {picture: place for place, picture in enumerate(database)}
    queries, boxes, lists = [], [], []
    for label in labels:
        query, box = _read_query(root / f"{label}_query.txt", where)
        queries.append(query)
        boxes.append(box)
        lists.append(
            [read_lines(root / f"{label}_{kind}.txt") for kind in _LIST_FILES[1:]]
        )
    named = [*queries, *(n for parts in lists for part in parts for n in part)]
    absent = list(dict.fromkeys(one for one in named if one not in where))
    if absent:
        raise ValueError(
            f"database must hold all pictures that {root} names, got "
            f"{len(database)} without {len(absent)} of them: {', '.join(absent)}."
        )

    def positions(names: list[str]) -> Int[np.ndarray, " _"]:
        return np.unique(np.array([where[one] for one in names], np.int64))

    truth = GroundTruth(
        name=name or root.resolve().name,
        database=tuple(database),
        queries=tuple(queries),
        boxes=tuple(boxes),
        positives=tuple(positions(good + ok) for good, ok, _ in lists),
        junk=tuple(positions(bad) for _, _, bad in lists),
        objects=tuple(label.rpartition("_")[0] or label for label in labels),
    )
    return check_consistent(truth, source=root)


def _list_query_names(folder: pathlib.Path) -> list[str]:
    """The names of the queries; each must have all of its files."""
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(folder)!r}.")
    there = {path.name for path in folder.glob("*.txt")}
    endings = tuple(f"_{kind}.txt" for kind in _LIST_FILES)
    labels = sorted({n.rpartition("_")[0] for n in there if n.endswith(endings)})
    if not labels:
        raise ValueError(f"folder must hold *_query.txt files, got none in {folder}.")
    wanted = [f"{label}{ending}" for label in labels for ending in endings]
    absent = [one for one in wanted if one not in there]
    if absent:
        raise ValueError(
            f"folder must hold four files for each query, got {len(absent)} of "
            f"{len(wanted)} missing in {folder}: {format_first_names(absent)}."
        )
    return labels


def _read_query(path: pathlib.Path, where: dict[str, int]) -> tuple[str, Box]:
    """The picture that is asked for, and the box in it."""
    lines = read_lines(path)
    parts = lines[0].split() if len(lines) == 1 else []
    if len(parts) != 5:
        raise ValueError(
            f"{path} must be one line NAME x0 y0 x1 y1, got {' / '.join(lines)!r}."
        )
    name, *corners = parts
    if name not in where:
        name = name.removeprefix(_NAME_PREFIX)
    return name, read_box(corners, place=str(path))
