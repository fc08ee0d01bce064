"""Retrieval benchmarks: pictures, queries, positives and junk."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from diffjax.images import Box, find_pictures

from ._scenes import SceneCollection


class Benchmark(NamedTuple):
    """Collection of pictures with queries and their relevant pictures.

    Attributes:
        name: Name in records and tables.
        folder: Folder of the database pictures.
        database: Database pictures; answers are positions in this tuple. They may be a
            selection of the folder, or come from several folders, in any order.
        queries: Query pictures.
        boxes: Region (x0, y0, x1, y1) of each query in pixels, None for the whole
            picture.
        positives: Positions of the relevant pictures, per query.
        junk: Positions that count neither as right nor as wrong, per query.
        objects: Object that each query shows; queries of one object are not
            independent.
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
    """Benchmark of a database and a query folder, whose subfolders are classes.

    Args:
        name: Name of the benchmark.
        database: Folder of folders of database pictures.
        queries: Folder of folders of query pictures, whole pictures being the queries.

    Returns:
        The benchmark. Positives are the database pictures in the subfolder of the same
        name; there is no junk.

    Raises:
        ValueError: If a folder is missing or empty, or a query's class is not in the
            database.
    """
    pictures, query_pictures = find_pictures(database), find_pictures(queries)
    classes = np.array([str(p.parent.relative_to(database)) for p in pictures])
    labels = [str(p.parent.relative_to(queries)) for p in query_pictures]
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ValueError(f"queries must show known classes, got {unknown[0]!r}.")
    members = {label: np.flatnonzero(classes == label) for label in set(labels)}
    no_junk = np.zeros(0, np.int64)
    return Benchmark(
        name=name,
        folder=database,
        database=pictures,
        queries=query_pictures,
        boxes=(None,) * len(query_pictures),
        positives=tuple(members[label] for label in labels),
        junk=(no_junk,) * len(query_pictures),
        objects=tuple(labels),
    )


def folder_benchmark(name: str, folder: pathlib.Path) -> Benchmark:
    """Benchmark of one folder of classes, in which every picture is a query.

    Args:
        name: Name of the benchmark.
        folder: Folder of folders of pictures; a picture's folder names its class.

    Returns:
        The benchmark. Positives are the other pictures of the class, and the query
        picture is its own junk. The only picture of a class is a query without
        positives.

    Raises:
        ValueError: If the folder is missing or empty, or has pictures outside of any
            subfolder.
    """
    pictures = find_pictures(folder)
    labels = np.array([p.parent.relative_to(folder).as_posix() for p in pictures])
    outside = np.flatnonzero(labels == ".")
    if outside.size:
        raise ValueError(
            f"folder must hold folders of pictures, got {outside.size} outside of any, "
            f"first {pictures[outside[0]].name!r}."
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
            members[label][members[label] != position]
            for position, label in enumerate(classes)
        ),
        junk=tuple(np.array([position]) for position in range(len(pictures))),
        objects=classes,
    )


def scenes_benchmark(scenes: SceneCollection, *, name: str = "scenes") -> Benchmark:
    """Benchmark of composed scenes.

    Args:
        scenes: From `compose_scenes`.
        name: Name of the benchmark.

    Returns:
        The benchmark. Queries are boxes in pictures, positives the scenes of the same
        object; there is no junk.
    """
    no_junk = np.zeros(0, np.int64)
    return Benchmark(
        name=name,
        folder=scenes.folder / "database",
        database=tuple(scenes.folder / "database" / s.name for s in scenes.database),
        queries=tuple(scenes.folder / "queries" / s.name for s in scenes.queries),
        boxes=tuple(scene.box for scene in scenes.queries),
        positives=scenes.positives,
        junk=(no_junk,) * len(scenes.queries),
        objects=tuple(scenes.objects[scene.object] for scene in scenes.queries),
    )
