"""What a retrieval benchmark is: pictures, queries, and what is right."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ._pictures import Box, find_pictures
from ._scenes import SceneCollection


class Benchmark(NamedTuple):
    """A collection of pictures with queries and their right answers.

    Attributes:
        name: What it is called in records and tables.
        folder: Folder of all pictures to be searched, and of nothing else.
        database: Those pictures, sorted by their path in it; answers are positions in
            this tuple.
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


def scenes_benchmark(scenes: SceneCollection) -> Benchmark:
    """Makes a benchmark of composed scenes.

    Args:
        scenes: From `compose_scenes`.

    Returns:
        Queries are boxes in pictures, positives the scenes that show the same object;
        there is no junk.
    """
    nothing = np.zeros(0, np.int64)
    return Benchmark(
        name="scenes",
        folder=scenes.folder / "database",
        database=tuple(scenes.folder / "database" / s.name for s in scenes.database),
        queries=tuple(scenes.folder / "queries" / s.name for s in scenes.queries),
        boxes=tuple(scene.box for scene in scenes.queries),
        positives=scenes.positives,
        junk=(nothing,) * len(scenes.queries),
        objects=tuple(scenes.objects[scene.object] for scene in scenes.queries),
    )
