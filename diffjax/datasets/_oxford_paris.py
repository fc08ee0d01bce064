"""Ground truths of Oxford and Paris: revisited pickles and original text files."""

import io
import itertools
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
_LIST_FILES = ("query", "good", "ok", "junk")
_NAME_PREFIX = "oxc1_"  # In the query files of Oxford5k only.
# Prefixes of pictures that belong to no landmark.
_CITY_NAMES = ("oxford", "paris_general")

# Exceptions of the unpickler for a damaged or hostile pickle.
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
    """Three protocols of a revisited benchmark, with the same queries.

    Attributes:
        easy: Positives are the easy pictures; the hard ones are junk.
        medium: Positives are the easy and the hard pictures.
        hard: Positives are the hard pictures; the easy ones are junk.
    """

    easy: GroundTruth
    medium: GroundTruth
    hard: GroundTruth


class _QueryLists(NamedTuple):
    """Box and answers of one query."""

    box: Box
    easy: Int[np.ndarray, " _"]
    hard: Int[np.ndarray, " _"]
    junk: Int[np.ndarray, " _"]


def read_revisited(
    path: str | os.PathLike[str], *, name: str | None = None
) -> RevisitedProtocols:
    """Reads the ground truth of revisited Oxford or Paris.

    | protocol | positives | junk |
    |---|---|---|
    | easy | easy | hard, junk |
    | medium | easy, hard | junk |
    | hard | hard | easy, junk |

    The query pictures are not in the database. The file does not name the objects: that
    of a query is the most frequent landmark in the names of its easy and hard pictures
    and its own.

    Args:
        path: `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl`: a dict of names `imlist` and
            `qimlist`, and `gnd`, one dict per query, with `bbx` and the numbers of its
            `easy`, `hard` and `junk` pictures. A pickle that refers to a class is
            refused.
        name: Name of the benchmark; None is that of the file without `gnd_`. The
            protocol is appended: "roxford5k-hard".

    Returns:
        The three protocols. Queries without positives are kept.

    Raises:
        ValueError: If the file is another kind of pickle, or has an unknown picture.
        OSError: If the file can't be read.

    References:
        Radenovic et al., CVPR 2018, https://arxiv.org/abs/1803.11285.
    """
    content = _read_pickle(path)
    database, queries = content["imlist"], content["qimlist"]
    entries = [
        _parse_query(
            record, size=len(database), source=f"{path}, query {number} ({query})"
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

    def make_protocol(kind: str, positives: tuple[str, ...]) -> GroundTruth:
        junk = tuple(name for name in _LIST_NAMES if name not in positives)
        truth = GroundTruth(
            name=f"{stem}-{kind}",
            database=tuple(database),
            queries=tuple(queries),
            boxes=tuple(entry.box for entry in entries),
            positives=tuple(_merge_lists(entry, positives) for entry in entries),
            junk=tuple(_merge_lists(entry, junk) for entry in entries),
            objects=objects,
        )
        return check_consistent(truth, source=path)

    return RevisitedProtocols(
        easy=make_protocol("easy", ("easy",)),
        medium=make_protocol("medium", ("easy", "hard")),
        hard=make_protocol("hard", ("hard",)),
    )


def read_revisited_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads names of all pictures of the original Oxford5k or Paris6k.

    The revisited database is the original one without the query pictures.

    Args:
        path: As for `read_revisited`.

    Returns:
        Names of database and query pictures, sorted, for `read_oxford`.

    Raises:
        ValueError: As `read_revisited`.
        OSError: If the file can't be read.
    """
    content = _read_pickle(path)
    names = sorted(content["imlist"] + content["qimlist"])
    check_unique_names(str(path), names)
    return tuple(names)


def read_oxford(
    folder: str | os.PathLike[str],
    database: Sequence[str],
    *,
    name: str | None = None,
) -> GroundTruth:
    """Reads the ground truth of Oxford5k or Paris6k from its text files.

    Positives are the good and the ok pictures, without duplicates; the query picture is
    in the database.

    Args:
        folder: Folder of the files, `all_souls_1_query.txt` and so on, four for each
            query: good, ok and junk with one name per line, and query with
            `NAME x0 y0 x1 y1`.
        database: Names of all pictures, which are not in the files: those of
            `read_revisited_names`, or of the files in a folder without their suffix.
            Answers are positions in it.
        name: Name of the benchmark; None is that of the folder.

    Returns:
        The ground truth. Queries are sorted by the names of their files; their objects
        are the landmarks: "all_souls" for `all_souls_1`.

    Raises:
        ValueError: If a file is missing, a query line has another form, or a picture is
            not in `database` (it counts and names them all).
        OSError: If a file can't be read.

    References:
        Philbin et al., CVPR 2007 (Oxford Buildings) and CVPR 2008 (Paris); the format
        is read off their files.
    """
    root = pathlib.Path(folder)
    labels = _list_query_names(root)
    check_unique_names("database", database)
    positions = {picture: position for position, picture in enumerate(database)}
    queries, boxes, lists = [], [], []
    for label in labels:
        query, box = _read_query(root / f"{label}_query.txt", positions)
        queries.append(query)
        boxes.append(box)
        lists.append(
            [read_lines(root / f"{label}_{kind}.txt") for kind in _LIST_FILES[1:]]
        )
    answers = itertools.chain.from_iterable(itertools.chain.from_iterable(lists))
    names = dict.fromkeys([*queries, *answers])
    missing = [picture for picture in names if picture not in positions]
    if missing:
        raise ValueError(
            f"database must hold all pictures that {root} names, got "
            f"{len(database)} without {len(missing)} of them: {', '.join(missing)}."
        )

    def find_positions(names: list[str]) -> Int[np.ndarray, " _"]:
        return np.unique(np.array([positions[name] for name in names], np.int64))

    truth = GroundTruth(
        name=name or root.resolve().name,
        database=tuple(database),
        queries=tuple(queries),
        boxes=tuple(boxes),
        positives=tuple(find_positions(good + ok) for good, ok, _ in lists),
        junk=tuple(find_positions(junk) for _, _, junk in lists),
        objects=tuple(label.rpartition("_")[0] or label for label in labels),
    )
    return check_consistent(truth, source=root)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of lists, dicts, texts and numbers, which refuses all classes."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"it asks for {module}.{name}, which no ground truth needs")


def _read_pickle(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Reads a pickle and checks its layout, except for the records of the queries."""
    data = pathlib.Path(path).read_bytes()
    try:
        content = _PlainUnpickler(io.BytesIO(_check_pickle(data))).load()
    except _PICKLE_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: no readable pickle: {reason}.") from error
    rule = f"{path} must hold a dict of lists imlist, qimlist and gnd"
    if not isinstance(content, dict):
        raise ValueError(f"{rule}, got {type(content).__name__}.")
    for key, kind in _PICKLE_LAYOUT.items():
        if key not in content:
            raise ValueError(f"{rule}, got {list(content)}.")
        value = content[key]
        if not isinstance(value, list):
            raise ValueError(f"{rule}, got {type(value).__name__} as {key}.")
        invalid_entries = [entry for entry in value if not isinstance(entry, kind)]
        if invalid_entries:
            raise ValueError(
                f"{path}: {key} must hold {kind.__name__}, got "
                f"{type(invalid_entries[0]).__name__}."
            )
    if len(content["gnd"]) != len(content["qimlist"]):
        raise ValueError(
            f"{path}: gnd must have one record for each of {len(content['qimlist'])} "
            f"queries, got {len(content['gnd'])}."
        )
    return content


def _check_pickle(data: bytes) -> bytes:
    """Refuses a pickle that would allocate too much memory, or load an object."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        # The unpickler allocates as many slots as the highest number of an object.
        is_put = opcode.name in {"PUT", "BINPUT", "LONG_BINPUT"}
        if is_put and isinstance(argument, int) and argument > count:
            raise ValueError(f"it numbers an object {argument}, of at most {count}")
        # Objects in the extension registry are loaded without naming their class.
        if opcode.name.startswith("EXT"):
            raise ValueError("it asks for an object by its number in a registry")
    return data


def _parse_query(record: dict[str, Any], *, size: int, source: str) -> _QueryLists:
    missing = [
        key for key in ("bbx", *_LIST_NAMES) if not isinstance(record.get(key), list)
    ]
    if missing:
        raise ValueError(
            f"{source}: must have lists bbx, easy, hard and junk, got no {missing[0]} "
            f"among {list(record)}."
        )
    numbers = {}
    for key in _LIST_NAMES:
        invalid_entries = [entry for entry in record[key] if type(entry) is not int]
        if invalid_entries:
            raise ValueError(
                f"{source}, {key}: must be numbers of pictures, got "
                f"{invalid_entries[0]!r}."
            )
        numbers[key] = read_positions(record[key], size=size, source=f"{source}, {key}")
    return _QueryLists(box=read_box(record["bbx"], source=source), **numbers)


def _merge_lists(entry: _QueryLists, lists: tuple[str, ...]) -> Int[np.ndarray, " _"]:
    return np.unique(np.concatenate([getattr(entry, name) for name in lists]))


def most_common_landmark(names: list[str]) -> str:
    """Most frequent landmark in names of pictures: the part before the last `_`."""
    counts = Counter(name.rpartition("_")[0] or name for name in names)
    for city in _CITY_NAMES:
        if len(counts) > 1:
            counts.pop(city, None)
    highest = max(counts.values())
    return min(landmark for landmark, count in counts.items() if count == highest)


def _list_query_names(folder: pathlib.Path) -> list[str]:
    """Names of the queries in a folder; each must have all four files."""
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing folder, got {str(folder)!r}.")
    files = {path.name for path in folder.glob("*.txt")}
    endings = tuple(f"_{kind}.txt" for kind in _LIST_FILES)
    labels = sorted({n.rpartition("_")[0] for n in files if n.endswith(endings)})
    if not labels:
        raise ValueError(f"folder must hold *_query.txt files, got none in {folder}.")
    required = [f"{label}{ending}" for label in labels for ending in endings]
    missing = [file for file in required if file not in files]
    if missing:
        raise ValueError(
            f"folder must hold four files for each query, got {len(missing)} of "
            f"{len(required)} missing in {folder}: {format_first_names(missing)}."
        )
    return labels


def _read_query(path: pathlib.Path, positions: dict[str, int]) -> tuple[str, Box]:
    """Picture and box of a query."""
    lines = read_lines(path)
    words = lines[0].split() if len(lines) == 1 else []
    if len(words) != 5:
        raise ValueError(
            f"{path} must be one line NAME x0 y0 x1 y1, got {' / '.join(lines)!r}."
        )
    name, *corners = words
    if name not in positions:
        name = name.removeprefix(_NAME_PREFIX)
    return name, read_box(corners, source=str(path))
