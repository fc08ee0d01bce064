"""A searchable collection made of nothing but installed packages.

Like INSTRE, every query is a picture with a box around an object, and the answers are
the pictures that show the object somewhere among other things.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from diffjax._files import remove_unfinished, write_whole

from ._compose import ScenesConfig, compose_picture
from ._objects import cut_objects
from ._scene_sets import installed_versions, warn_of_other_pixels

# Raise it when the same settings begin to give other pictures.
_FORMAT = 1
_TRUTH = "scenes.json"
# Settings that lists of former versions lack, as what they were then.
_LATER: dict[str, object] = {"object_area": None}
_SCENE, _QUERY, _EMPTY, _ORDER = range(4)


class Scene(NamedTuple):
    """One picture of a collection.

    Attributes:
        name: File name within its folder.
        object: Number of the object that it shows, -1 for clutter alone.
        box: x0, y0, x1, y1 in pixels, end excluded, around what can be seen of the
            object; None for clutter alone.
        area: Area of the box as a fraction of the picture's; None without a box, or
            where nobody measured.
    """

    name: str
    object: int
    box: tuple[int, int, int, int] | None
    area: float | None = None


class SceneCollection(NamedTuple):
    """A composed collection on disk.

    Attributes:
        folder: Holds the pictures, in `database` and `queries`.
        objects: What each object is called.
        database: Scenes to search in, sorted by name.
        queries: Scenes to search with, sorted by name; each has a box.
        pixels_sha256: Checksum of all pixels, as hexadecimal digits, see
            `compose_scenes`; None for a collection that it did not make.
    """

    folder: pathlib.Path
    objects: tuple[str, ...]
    database: tuple[Scene, ...]
    queries: tuple[Scene, ...]
    pixels_sha256: str | None = None

    @property
    def positives(self) -> tuple[Int[np.ndarray, " p"], ...]:
        """For each query the positions in `database` that show its object."""
        shown = np.array([scene.object for scene in self.database])
        return tuple(np.flatnonzero(shown == query.object) for query in self.queries)

    @property
    def areas(self) -> Float[np.ndarray, " m"]:
        """Relative area of the object in each of `database`; NaN for clutter alone."""
        return np.array([scene.area for scene in self.database], np.float64)


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
    was interrupted is composed again, and so is one of a former version whose list says
    nothing of pixels.

    The list also keeps a checksum: SHA-256 over database, then queries, by name, of the
    line "WIDTH x HEIGHT" and of the RGB pixels, row by row, as they are read back from
    the JPEG file. These are what is searched, and libjpeg-turbo 2.1 to 3.2 write and
    read the same ones. Pixels before JPEG would be no safer: they rest on photographs
    that are JPEG files themselves, and can differ between processors, in traces that
    JPEG rounds away. Another version of Pillow may draw other pixels either way.

    Where the settings are those of one of `SCENES`, the checksum is compared with the
    published one, whether the collection was composed or read back. A collection of
    other pixels is warned of and returned all the same.

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
    truth = _read(folder, config)
    present = _present(folder, tasks)
    if truth is None or len(present) < len(tasks):
        truth = _compose_all(folder, tasks, config, progress=progress)
    warn_of_other_pixels(
        folder, config, sha256=truth["pixels_sha256"], versions=truth["versions"]
    )
    return _collection(folder, truth)


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
    for home in {task.path.parent for task in tasks}:
        home.mkdir(parents=True, exist_ok=True)
        remove_unfinished(home, "")
    # Not to be believed again should this end half-way.
    (folder / _TRUTH).unlink(missing_ok=True)

    scenes, pixels = [], hashlib.sha256()
    for done, task in enumerate(tasks, start=1):
        thing = None if task.object < 0 else things[task.object]
        composed = compose_picture(task.key, thing, config=config)
        encoded = io.BytesIO()
        composed.picture.save(encoded, format="JPEG", quality=config.quality)
        write_whole(task.path, encoded.getvalue(), sync=False)
        with Image.open(encoded) as written:
            pixels.update(f"{written.width} x {written.height}\n".encode())
            pixels.update(written.tobytes())
        area = _area(composed.box, composed.picture.size)
        scenes.append(Scene(task.path.name, task.object, composed.box, area))
        if progress is not None:
            progress(done, len(tasks))
    split = len(tasks) - config.objects * config.queries_per_object
    truth = {
        **_header(config),
        "versions": installed_versions(),
        "pixels_sha256": pixels.hexdigest(),
        "objects": [thing.name for thing in things],
        "database": [scene._asdict() for scene in scenes[:split]],
        "queries": [scene._asdict() for scene in scenes[split:]],
    }
    write_whole(folder / _TRUTH, json.dumps(truth, indent=1).encode())
    return truth


def _area(box, size):
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0) / (size[0] * size[1])


def _header(config):
    """What must agree for pictures to be the same, as JSON gives it back."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    return {"format": _FORMAT, "config": settings}


def _read(folder, config):
    """The list of scenes in the folder; None if there is none with a checksum."""
    path = folder / _TRUTH
    if not path.exists():
        return None
    remedy = f"name another folder or delete {folder} to compose it again"
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        found = {"format": truth["format"], "config": {**_LATER, **truth["config"]}}
        checked = {"pixels_sha256", "versions"} <= truth.keys()
        if checked:
            _collection(folder, truth)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {remedy}.") from error
    if found != _header(config):
        raise ValueError(f"{path} lists scenes of other settings; {remedy}.")
    return truth if checked else None


def _collection(folder, truth):
    def scene(entry):
        box = None if entry["box"] is None else tuple(entry["box"])
        return Scene(**{**entry, "box": box})

    return SceneCollection(
        folder=folder,
        objects=tuple(truth["objects"]),
        database=tuple(scene(entry) for entry in truth["database"]),
        queries=tuple(scene(entry) for entry in truth["queries"]),
        pixels_sha256=truth["pixels_sha256"],
    )
