"""Scene collections: published sets with checksums, composition, and reading."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from diffjax._io import remove_partial_files, write_atomically

from ._scene_pictures import ScenesConfig, compose_picture, cut_objects


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """Published set of composed scenes, whose settings and pixels are fixed.

    Attributes:
        name: Name of the set in results.
        version: Version of the name, to be quoted with it; incremented if other
            pictures get the name.
        config: Settings of the composition.
        pixels_sha256: Checksum of the pixels, see `compose_scenes`.
    """

    name: str
    version: int
    config: ScenesConfig
    pixels_sha256: str


SCENE_SETS: Mapping[str, SceneSet] = MappingProxyType(
    {
        scenes.name: scenes
        for scenes in (
            SceneSet(
                name="scenes",
                version=1,
                config=ScenesConfig(),
                pixels_sha256=(
                    "79297c6d73a49fe2b9073974c5a988303269119685d7519cf153ae7998e5e569"
                ),
            ),
            SceneSet(
                name="scenes-small",
                version=1,
                config=ScenesConfig(object_area=(0.015, 0.12)),
                pixels_sha256=(
                    "1ee5acbee1544496efd875ba0b579a70f6fe4667163ae5ac7fad472d0517494e"
                ),
            ),
            SceneSet(
                name="scenes-large",
                version=1,
                config=ScenesConfig(object_area=(0.1, 0.5)),
                pixels_sha256=(
                    "0cbfe29d7f0aa00ef8de371acfd494bf25267d5a0a62ee5b093daf8cbf94da8b"
                ),
            ),
        )
    }
)

# Versions that the checksums were computed with.
PUBLISHED_VERSIONS: Mapping[str, str] = MappingProxyType(
    {"numpy": "2.4.6", "pillow": "13.0.0", "scikit-image": "0.26.0"}
)


def installed_versions() -> dict[str, str]:
    """Installed versions of the packages that the pixels depend on."""
    return {name: version(name) for name in PUBLISHED_VERSIONS}


def warn_if_pixels_differ(
    folder: pathlib.Path,
    config: ScenesConfig,
    *,
    sha256: str,
    versions: Mapping[str, str],
) -> None:
    """Warns if scenes have the settings of a published set but other pixels.

    Args:
        folder: Folder of the scenes.
        config: Their settings.
        sha256: Their checksum.
        versions: Versions of the packages that composed them.
    """
    for scenes in SCENE_SETS.values():
        if scenes.config == config and scenes.pixels_sha256 != sha256:
            warnings.warn(
                f"{folder} holds {scenes.name} version {scenes.version} with other "
                f"pixels than the published ones: sha256 {sha256[:12]}, not "
                f"{scenes.pixels_sha256[:12]}. They were composed with "
                f"{_format_versions(versions)}, the published ones with "
                f"{_format_versions(PUBLISHED_VERSIONS)}; "
                "another kind of processor can matter, too. Compare methods on these "
                "pictures freely, but not with figures on the published ones.",
                stacklevel=3,
            )


def _format_versions(versions):
    return ", ".join(f"{name} {number}" for name, number in versions.items())


# To be incremented when the same settings give other pictures.
_FORMAT = 1
_LIST_FILE = "scenes.json"
# Settings that lists of former versions lack, with their values then.
_FIELDS_ADDED_LATER: dict[str, object] = {"object_area": None}
_SCENE_SEED, _QUERY_SEED, _EMPTY_SEED, _ORDER_SEED = range(4)


class Scene(NamedTuple):
    """Picture of a scene collection.

    Attributes:
        name: File name within its folder.
        object: Number of its object, -1 for clutter alone.
        box: x0, y0, x1, y1 in pixels, end excluded, around the visible part of the
            object; None for clutter alone.
        area: Area of the box as a fraction of the picture's; None without a box or if
            unknown.
    """

    name: str
    object: int
    box: tuple[int, int, int, int] | None
    area: float | None = None


class SceneCollection(NamedTuple):
    """Composed collection on disk.

    Attributes:
        folder: Folder of the pictures, in `database` and `queries`.
        objects: Names of the objects.
        database: Database scenes, sorted by name.
        queries: Query scenes, sorted by name; each has a box.
        pixels_sha256: Checksum of all pixels in hexadecimal digits, see
            `compose_scenes`; None for a collection of another origin.
    """

    folder: pathlib.Path
    objects: tuple[str, ...]
    database: tuple[Scene, ...]
    queries: tuple[Scene, ...]
    pixels_sha256: str | None = None

    @property
    def positives(self) -> tuple[Int[np.ndarray, " p"], ...]:
        """Positions in `database` that show the object of each query."""
        object_names = np.array([scene.object for scene in self.database])
        return tuple(
            np.flatnonzero(object_names == query.object) for query in self.queries
        )

    @property
    def areas(self) -> Float[np.ndarray, " m"]:
        """Relative area of the object in each database scene; NaN for clutter alone."""
        return np.array([scene.area for scene in self.database], np.float64)


class _PictureTask(NamedTuple):
    """Picture to compose: its path, seed and object."""

    path: pathlib.Path
    key: tuple[int, ...]
    object: int


def compose_scenes(
    folder: str | os.PathLike[str],
    *,
    config: ScenesConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SceneCollection:
    """Composes a collection of scenes, or reads the one that a folder already holds.

    The same settings give the same pictures, each a function of the settings and its
    number alone. The list of scenes is written last: an interrupted composition is
    started again, and so is one of a former version, whose list has no checksum.

    The list includes a checksum: SHA-256 over database, then queries, by name, of the
    line "WIDTH x HEIGHT" and of the RGB pixels, row by row, as decoded from the JPEG
    file. These pixels are the ones that are searched, and libjpeg-turbo 2.1 to 3.2
    write and read the same ones. Pixels before JPEG compression would be no more
    reproducible: they depend on photographs that are JPEG files themselves, and differ
    between processors by amounts that JPEG rounds away. Another version of Pillow may
    draw other pixels either way.

    If the settings are those of one of `SCENE_SETS`, the checksum is compared with the
    published one, for a new and for an existing collection. Other pixels give a warning
    only.

    Args:
        folder: Folder of the collection; made if missing.
        config: Settings; the defaults of `ScenesConfig` if None.
        progress: Called after each picture with the numbers done and in total.

    Returns:
        The collection.

    Raises:
        ValueError: If the folder holds scenes of other settings, a damaged list or
            other pictures.
        OSError: If the folder can't be written, or the disk is full.
    """
    config = config or ScenesConfig()
    folder = pathlib.Path(folder)
    tasks = _plan_pictures(folder, config)
    truth = _read_scene_list(folder, config)
    present = _find_composed(folder, tasks)
    if truth is None or len(present) < len(tasks):
        truth = _compose_scenes(folder, tasks, config, progress=progress)
    warn_if_pixels_differ(
        folder, config, sha256=truth["pixels_sha256"], versions=truth["versions"]
    )
    return _make_collection(folder, truth)


def _plan_pictures(folder, config):
    """Tasks of all pictures, in an order of names that is independent of objects."""
    keys = [
        (number, (config.seed, _SCENE_SEED, number, copy))
        for number in range(config.objects)
        for copy in range(config.scenes_per_object)
    ]
    keys += [
        (-1, (config.seed, _EMPTY_SEED, copy)) for copy in range(config.empty_scenes)
    ]
    order = np.random.default_rng((config.seed, _ORDER_SEED)).permutation(len(keys))
    database = [
        _PictureTask(folder / "database" / f"scene_{position:05d}.jpg", key, number)
        for position, (number, key) in zip(order.tolist(), keys, strict=True)
    ]
    query_keys = [
        (number, (config.seed, _QUERY_SEED, number, copy))
        for number in range(config.objects)
        for copy in range(config.queries_per_object)
    ]
    queries = [
        _PictureTask(folder / "queries" / f"query_{position:05d}.jpg", key, number)
        for position, (number, key) in enumerate(query_keys)
    ]
    return sorted(database) + queries


def _find_composed(folder, tasks):
    """Existing pictures of the tasks; refuses others, which would be searched, too."""
    planned = {task.path for task in tasks}
    existing = {
        path
        for path in folder.glob("*/*")
        if path.suffix != ".part" and not path.name.startswith(".")
    }
    if foreign_files := existing - planned:
        raise ValueError(
            f"folder {folder} holds files that are none of its scenes, such as "
            f"{min(foreign_files)}; name another folder or empty this one."
        )
    return existing


def _compose_scenes(folder, tasks, config, *, progress):
    cutouts = cut_objects(config.objects)
    for home in {task.path.parent for task in tasks}:
        home.mkdir(parents=True, exist_ok=True)
        remove_partial_files(home, "")
    # It would be wrong after an interruption.
    (folder / _LIST_FILE).unlink(missing_ok=True)

    scenes, pixels = [], hashlib.sha256()
    for done, task in enumerate(tasks, start=1):
        cutout = None if task.object < 0 else cutouts[task.object]
        composed = compose_picture(task.key, cutout, config=config)
        encoded = io.BytesIO()
        composed.picture.save(encoded, format="JPEG", quality=config.quality)
        write_atomically(task.path, encoded.getvalue(), sync=False)
        with Image.open(encoded) as written:
            pixels.update(f"{written.width} x {written.height}\n".encode())
            pixels.update(written.tobytes())
        area = _box_area(composed.box, composed.picture.size)
        scenes.append(Scene(task.path.name, task.object, composed.box, area))
        if progress is not None:
            progress(done, len(tasks))
    split = len(tasks) - config.objects * config.queries_per_object
    truth = {
        **_list_header(config),
        "versions": installed_versions(),
        "pixels_sha256": pixels.hexdigest(),
        "objects": [cutout.name for cutout in cutouts],
        "database": [scene._asdict() for scene in scenes[:split]],
        "queries": [scene._asdict() for scene in scenes[split:]],
    }
    write_atomically(folder / _LIST_FILE, json.dumps(truth, indent=1).encode())
    return truth


def _box_area(box, size):
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0) / (size[0] * size[1])


def _list_header(config):
    """Entries of the list that must agree for pictures to be the same, as from JSON."""
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    return {"format": _FORMAT, "config": settings}


def _read_scene_list(folder, config):
    """List of scenes of a folder; None if there is none with a checksum."""
    path = folder / _LIST_FILE
    if not path.exists():
        return None
    remedy = f"name another folder or delete {folder} to compose it again"
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        header = {
            "format": truth["format"],
            "config": {**_FIELDS_ADDED_LATER, **truth["config"]},
        }
        has_checksum = {"pixels_sha256", "versions"} <= truth.keys()
        if has_checksum:
            _make_collection(folder, truth)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {remedy}.") from error
    if header != _list_header(config):
        raise ValueError(f"{path} lists scenes of other settings; {remedy}.")
    return truth if has_checksum else None


def _make_collection(folder, truth):
    def make_scene(entry):
        box = None if entry["box"] is None else tuple(entry["box"])
        return Scene(**{**entry, "box": box})

    return SceneCollection(
        folder=folder,
        objects=tuple(truth["objects"]),
        database=tuple(make_scene(entry) for entry in truth["database"]),
        queries=tuple(make_scene(entry) for entry in truth["queries"]),
        pixels_sha256=truth["pixels_sha256"],
    )
