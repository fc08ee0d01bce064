"""A searchable collection made of nothing but installed packages.

Like INSTRE, every query is a picture with a box around an object, and the answers are
the pictures that show the object somewhere among other things.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ._compose import ScenesConfig, compose_picture
from ._objects import cut_objects

# Raise it when the same settings begin to give other pictures.
_FORMAT = 1
_TRUTH = "scenes.json"
_SCENE, _QUERY, _EMPTY, _ORDER = range(4)


class Scene(NamedTuple):
    """One picture of a collection.

    Attributes:
        name: File name within its folder.
        object: Number of the object that it shows, -1 for clutter alone.
        box: x0, y0, x1, y1 in pixels, end excluded, around what can be seen of the
            object; None for clutter alone.
    """

    name: str
    object: int
    box: tuple[int, int, int, int] | None


class SceneCollection(NamedTuple):
    """A composed collection on disk.

    Attributes:
        folder: Holds the pictures, in `database` and `queries`.
        objects: What each object is called.
        database: Scenes to search in, sorted by name.
        queries: Scenes to search with, sorted by name; each has a box.
    """

    folder: pathlib.Path
    objects: tuple[str, ...]
    database: tuple[Scene, ...]
    queries: tuple[Scene, ...]

    @property
    def positives(self) -> tuple[Int[np.ndarray, " p"], ...]:
        """For each query the positions in `database` that show its object."""
        shown = np.array([scene.object for scene in self.database])
        return tuple(np.flatnonzero(shown == query.object) for query in self.queries)


class _Task(NamedTuple):
    """A picture to compose: where it goes, what seeds it, what it shows."""

    path: pathlib.Path
    key: tuple[int, ...]
    object: int


def compose_scenes(
    folder: str | os.PathLike[str],
    *,
    config: ScenesConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SceneCollection:
    """Composes a collection, or reads back the one that a folder already holds.

    The same settings give the same pictures, each a function of the settings and its
    number alone. The file that lists them is written last: a folder whose composition
    was interrupted is composed again.

    Args:
        folder: Where the collection is or goes; made if absent.
        config: What to compose; the defaults of `ScenesConfig` if None.
        progress: Called after each picture with how many are done, of how many.

    Returns:
        The collection.

    Raises:
        ValueError: If the folder holds scenes of other settings, a damaged list or
            pictures that are not its own.
        OSError: If the folder cannot be written, or the disk is full.
    """
    config = config or ScenesConfig()
    folder = pathlib.Path(folder)
    tasks = _plan(folder, config)
    known = _read(folder, config)
    present = _present(folder, tasks)
    if known is not None and len(present) == len(tasks):
        return known
    return _compose_all(folder, tasks, config, progress=progress)


def _plan(folder, config):
    """Lists every picture; numbers are shuffled, so that names say nothing."""
    keys = [
        (number, (config.seed, _SCENE, number, copy))
        for number in range(config.objects)
        for copy in range(config.scenes_per_object)
    ]
    keys += [(-1, (config.seed, _EMPTY, copy)) for copy in range(config.empty_scenes)]
    order = np.random.default_rng((config.seed, _ORDER)).permutation(len(keys))
    database = [
        _Task(folder / "database" / f"scene_{place:05d}.jpg", key, number)
        for place, (number, key) in zip(order.tolist(), keys, strict=True)
    ]
    asked = [
        (number, (config.seed, _QUERY, number, copy))
        for number in range(config.objects)
        for copy in range(config.queries_per_object)
    ]
    queries = [
        _Task(folder / "queries" / f"query_{place:05d}.jpg", key, number)
        for place, (number, key) in enumerate(asked)
    ]
    return sorted(database) + queries


def _present(folder, tasks):
    """The planned pictures that exist; others would be searched as if planned."""
    planned = {task.path for task in tasks}
    found = {
        path
        for path in folder.glob("*/*")
        if path.suffix != ".part" and not path.name.startswith(".")
    }
    if strangers := found - planned:
        raise ValueError(
            f"folder {folder} holds files that are none of its scenes, such as "
            f"{min(strangers)}; name another folder or empty this one."
        )
    return found


def _compose_all(folder, tasks, config, *, progress):
    things = cut_objects(config.objects)
    for task in tasks:
        task.path.parent.mkdir(parents=True, exist_ok=True)

    scenes = []
    for done, task in enumerate(tasks, start=1):
        thing = None if task.object < 0 else things[task.object]
        composed = compose_picture(task.key, thing, config=config)
        part = task.path.with_name(task.path.name + ".part")
        composed.picture.save(part, format="JPEG", quality=config.quality)
        part.replace(task.path)
        scenes.append(Scene(task.path.name, object=task.object, box=composed.box))
        if progress is not None:
            progress(done, len(tasks))
    split = len(tasks) - config.objects * config.queries_per_object
    truth = {
        **_header(config),
        "objects": [thing.name for thing in things],
        "database": [scene._asdict() for scene in scenes[:split]],
        "queries": [scene._asdict() for scene in scenes[split:]],
    }
    part = folder / f"{_TRUTH}.part"
    part.write_text(json.dumps(truth, indent=1), encoding="utf-8")
    part.replace(folder / _TRUTH)
    return _collection(folder, truth)


def _header(config):
    """What must agree for pictures to be the same, as JSON gives it back."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    return {"format": _FORMAT, "config": settings}


def _read(folder, config):
    """The collection in the folder; None if it has no list of scenes."""
    path = folder / _TRUTH
    if not path.exists():
        return None
    remedy = f"name another folder or delete {folder} to compose it again"
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        same = {key: truth[key] for key in ("format", "config")} == _header(config)
        collection = _collection(folder, truth)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {remedy}.") from error
    if not same:
        raise ValueError(f"{path} lists scenes of other settings; {remedy}.")
    return collection


def _collection(folder, truth):
    def scene(entry):
        box = None if entry["box"] is None else tuple(entry["box"])
        return Scene(name=entry["name"], object=entry["object"], box=box)

    return SceneCollection(
        folder=folder,
        objects=tuple(truth["objects"]),
        database=tuple(scene(entry) for entry in truth["database"]),
        queries=tuple(scene(entry) for entry in truth["queries"]),
    )
