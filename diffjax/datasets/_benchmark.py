"""What a retrieval benchmark is: pictures, queries, and what is right."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from diffjax.images import Box, find_pictures

from ._scenes import SceneCollection


class Benchmark(NamedTuple):
    """A collection of pictures with queries and their right answers.

    Attributes:
        name: What it is called in records and tables.
        folder: Folder of the pictures to be searched.
        database: Those pictures; answers are positions in this tuple. They may be a
            selection of what is in the folder, or lie in several, in any order.
        queries: Query pictures.
        boxes: Per query the region (x0, y0, x1, y1) in pixels that is asked for, or
            None for the whole picture.
        positives: Per query the right answers.
        junk: Per query the answers that count neither as right nor as wrong.
        objects: Per query what it shows; queries of one object are not independent.
    """

    name: str
    folder: pathlib.Path
    database: tuple[pathlib.Path, ...]
    queries: tuple[pathlib.Path, ...]
    boxes: tuple[Box | None, ...]
    positives: tuple[Int[np.ndarray, " _"], ...]
    junk: tuple[Int[np.ndarray, " _"], ...]
    objects: tuple[str, ...]


def classes_benchmark(
    name: str, database: pathlib.Path, queries: pathlib.Path
) -> Benchmark:
    """Makes a benchmark of two folders in which a picture's folder names its class.

    Args:
        name: Name of the benchmark.
        database: Folder of folders of database pictures.
        queries: Folder of folders of query pictures, whole pictures being the queries.

    Returns:
        Positives are the database pictures in a folder of the same relative name; there
        is no junk.

    Raises:
        ValueError: If a folder is missing or empty, or a query's class is not in the
            database.
    """
    pictures, questions = find_pictures(database), find_pictures(queries)
    classes = np.array([str(p.parent.relative_to(database)) for p in pictures])
    asked = [str(p.parent.relative_to(queries)) for p in questions]
    unknown = sorted(set(asked) - set(classes))
    if unknown:
        raise ValueError(f"queries must show known classes, got {unknown[0]!r}.")
    where = {label: np.flatnonzero(classes == label) for label in set(asked)}
    nothing = np.zeros(0, np.int64)
    return Benchmark(
        name=name,
        folder=database,
        database=pictures,
        queries=questions,
        boxes=(None,) * len(questions),
        positives=tuple(where[label] for label in asked),
        junk=(nothing,) * len(questions),
        objects=tuple(asked),
    )


def folder_benchmark(name: str, folder: pathlib.Path) -> Benchmark:
    """Makes a benchmark of one folder of classes, whose pictures ask for each other.

    Args:
        name: Name of the benchmark.
        folder: Folder of folders of pictures; a picture's folder names its class.

    Returns:
        Every picture is a query, and its own junk; positives are the others of its
        class. The picture of a class of one is kept, without a right answer.

    Raises:
        ValueError: If the folder is missing or empty, or pictures lie in it and not in
            a folder of their class.
    """
    pictures = find_pictures(folder)
    labels = np.array([p.parent.relative_to(folder).as_posix() for p in pictures])
    loose = np.flatnonzero(labels == ".")
    if loose.size:
        raise ValueError(
            f"folder must hold folders of pictures, got {loose.size} outside of any, "
            f"first {pictures[loose[0]].name!r}."
        )
    members = {label: np.flatnonzero(labels == label) for label in set(labels.tolist())}
    classes = tuple(labels.tolist())
    return Benchmark(
        name=name,
        folder=folder,
        database=pictures,
        queries=pictures,
        boxes=(None,) * len(pictures),
        positives=tuple(
            members[label][members[label] != place]
            for place, label in enumerate(classes)
        ),
        junk=tuple(np.array([place]) for place in range(len(pictures))),
        objects=classes,
    )


def scenes_benchmark(scenes: SceneCollection, *, name: str = "scenes") -> Benchmark:
    """Makes a benchmark of composed scenes.

    Args:
        scenes: From `compose_scenes`.
        name: Name of the benchmark.

    Returns:
        Queries are boxes in pictures, positives the scenes that show the same object;
        there is no junk.
    """
    nothing = np.zeros(0, np.int64)
    return Benchmark(
        name=name,
        folder=scenes.folder / "database",
        database=tuple(scenes.folder / "database" / s.name for s in scenes.database),
        queries=tuple(scenes.folder / "queries" / s.name for s in scenes.queries),
        boxes=tuple(scene.box for scene in scenes.queries),
        positives=scenes.positives,
        junk=(nothing,) * len(scenes.queries),
        objects=tuple(scenes.objects[scene.object] for scene in scenes.queries),
    )
