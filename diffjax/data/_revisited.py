"""Ground truth of revisited Oxford and Paris, as its makers published it: pickles."""

import io
import os
import pathlib
import pickle
import pickletools
from collections import Counter
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int

from ._pictures import Box
from ._truth import (
    GroundTruth,
    read_box,
    read_positions,
    refuse_contradictions,
    refuse_repeated,
)

_LAYOUT = {"imlist": str, "qimlist": str, "gnd": dict}
_LISTS = ("easy", "hard", "junk")
# What names of pictures begin with that were found by no landmark's name.
_NO_LANDMARK = ("oxford", "paris_general")

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


class Revisited(NamedTuple):
    """The three protocols of a revisited benchmark, on the same queries.

    Attributes:
        easy: Right are the easy pictures; the hard ones do not count.
        medium: Right are the easy and the hard pictures.
        hard: Right are the hard pictures; the easy ones do not count.
    """

    easy: GroundTruth
    medium: GroundTruth
    hard: GroundTruth


class _Entry(NamedTuple):
    """What is known of one query."""

    box: Box
    easy: Int[np.ndarray, " _"]
    hard: Int[np.ndarray, " _"]
    junk: Int[np.ndarray, " _"]


def read_revisited(
    path: str | os.PathLike[str], *, name: str | None = None
) -> Revisited:
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
    content = _read(path)
    database, queries = content["imlist"], content["qimlist"]
    entries = [
        _entry(record, size=len(database), place=f"{path}, query {number} ({query})")
        for number, (record, query) in enumerate(
            zip(content["gnd"], queries, strict=True)
        )
    ]
    stem = name or pathlib.Path(path).stem.removeprefix("gnd_")
    objects = tuple(
        landmark_of(
            [query, *(database[i] for i in np.concatenate([entry.easy, entry.hard]))]
        )
        for query, entry in zip(queries, entries, strict=True)
    )

    def protocol(kind: str, right: tuple[str, ...]) -> GroundTruth:
        wrong = tuple(one for one in _LISTS if one not in right)
        truth = GroundTruth(
            name=f"{stem}-{kind}",
            database=tuple(database),
            queries=tuple(queries),
            boxes=tuple(entry.box for entry in entries),
            positives=tuple(_union(entry, right) for entry in entries),
            junk=tuple(_union(entry, wrong) for entry in entries),
            objects=objects,
        )
        return refuse_contradictions(truth, source=path)

    return Revisited(
        easy=protocol("easy", ("easy",)),
        medium=protocol("medium", ("easy", "hard")),
        hard=protocol("hard", ("hard",)),
    )


def revisited_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
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
    content = _read(path)
    names = sorted(content["imlist"] + content["qimlist"])
    refuse_repeated(str(path), names)
    return tuple(names)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers, and nothing that has a name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"it asks for {module}.{name}, which no ground truth needs")


def _read(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Reads the pickle and checks its layout, but for the records of the queries."""
    data = pathlib.Path(path).read_bytes()
    try:
        content = _PlainUnpickler(io.BytesIO(_checked(data))).load()
    except _PICKLE_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: no readable pickle: {reason}.") from error
    wanted = f"{path} must hold a dict of lists imlist, qimlist and gnd"
    if not isinstance(content, dict):
        raise ValueError(f"{wanted}, got {type(content).__name__}.")
    for key, kind in _LAYOUT.items():
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


def _checked(data: bytes) -> bytes:
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


def _entry(record: dict[str, Any], *, size: int, place: str) -> _Entry:
    absent = [key for key in ("bbx", *_LISTS) if not isinstance(record.get(key), list)]
    if absent:
        raise ValueError(
            f"{place}: must have lists bbx, easy, hard and junk, got no {absent[0]} "
            f"among {list(record)}."
        )
    numbers = {}
    for key in _LISTS:
        odd = [one for one in record[key] if type(one) is not int]
        if odd:
            raise ValueError(
                f"{place}, {key}: must be numbers of pictures, got {odd[0]!r}."
            )
        numbers[key] = read_positions(record[key], size=size, place=f"{place}, {key}")
    return _Entry(box=read_box(record["bbx"], place=place), **numbers)


def _union(entry: _Entry, lists: tuple[str, ...]) -> Int[np.ndarray, " _"]:
    return np.unique(np.concatenate([getattr(entry, one) for one in lists]))


def landmark_of(names: list[str]) -> str:
    """What most pictures are named by: the part before the last underscore."""
    counts = Counter(name.rpartition("_")[0] or name for name in names)
    for general in _NO_LANDMARK:
        if len(counts) > 1:
            counts.pop(general, None)
    most = max(counts.values())
    return min(landmark for landmark, times in counts.items() if times == most)
