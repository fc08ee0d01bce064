"""A benchmark by its name: pictures found, truths read, everything described."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from configs.schema import Setup
from diffjax.data import (
    SCENES,
    Benchmark,
    GroundTruth,
    SceneCollection,
    attach,
    check_against,
    classes_benchmark,
    compose_scenes,
    find_pictures,
    folder_benchmark,
    read_descriptors,
    read_instre,
    read_labels,
    read_oxford,
    read_released_truth,
    read_revisited,
    revisited_names,
    scenes_benchmark,
)
from diffjax.index import Index
from experiments._collections import Collection, describe_collection


def load(setup: Setup, workdir: pathlib.Path) -> Collection:
    """Describes a benchmark, or reads descriptors of it that were released.

    Args:
        setup: Which benchmark, and where its files are.
        workdir: Keeps composed scenes, and the index of the pictures.

    Returns:
        Its vectors, queries and right answers.

    Raises:
        ValueError: If something is missing, with what to put where, or descriptors and
            ground truth are not of the same data set.
    """
    if setup.descriptors is not None:
        return _released(setup, setup.descriptors)
    if setup.benchmark not in SCENES:
        return describe_collection(find(setup, workdir), setup.folder, workdir)
    scenes = _compose(setup, workdir)
    found = scenes_benchmark(scenes, name=setup.benchmark)
    notes: dict[str, Any] = {"pixels_sha256": (scenes.pixels_sha256 or "")[:16]}
    if setup.composed is None:
        notes["scenes_version"] = SCENES[setup.benchmark].version
    collection = describe_collection(found, setup.folder, workdir)
    return dataclasses.replace(collection, notes=notes)


class Described(NamedTuple):
    """Composed scenes, described.

    Attributes:
        collection: Their vectors, queries and right answers.
        areas: What part of each database picture its object takes; NaN for none.
    """

    collection: Collection
    areas: Float[np.ndarray, " m"]


def describe_scenes(setup: Setup, workdir: pathlib.Path) -> Described:
    """Describes composed scenes, with the areas of their objects.

    Raises:
        ValueError: If the benchmark is not one of composed scenes.
    """
    if setup.benchmark not in SCENES or setup.descriptors is not None:
        raise ValueError(
            "benchmark must be one whose database pictures have boxes "
            f"({', '.join(SCENES)}), got {setup.benchmark!r}."
        )
    areas = _compose(setup, workdir).areas
    return Described(load(setup, workdir), np.asarray(areas))


def find(setup: Setup, workdir: pathlib.Path) -> Benchmark:
    """Finds the pictures of a benchmark and their right answers.

    Args:
        setup: Which benchmark, and where its files are.
        workdir: Keeps composed scenes.

    Returns:
        Pictures, queries and right answers.

    Raises:
        ValueError: If something is missing, with what to put where.
    """
    name = setup.benchmark
    if name in SCENES:
        return scenes_benchmark(_compose(setup, workdir), name=name)
    if name == "grocery":
        root = setup.pictures or setup.data / "grocery_packages"
        return classes_benchmark(name, root / "train", root / "test")
    if name in ("folder", "labels"):
        if setup.pictures is None:
            raise ValueError(
                f"pictures must name a {'folder' if name == 'folder' else 'CSV'} for "
                f"benchmark {name!r}: give --pictures."
            )
        if name == "folder":
            return folder_benchmark(setup.pictures.name, setup.pictures)
        return attach(read_labels(setup.pictures), setup.pictures.parent)
    truth = _TRUTHS[_family(name)](setup)
    folder = setup.pictures or setup.data / _family(name)
    if not folder.is_dir():
        raise ValueError(
            f"pictures of {name} must be in a folder, got none at {folder}: fetch them "
            f"(diffjax fetch {_family(name)}), or say where they are (--pictures)."
        )
    distractors = ()
    if name.endswith(("105k", "106k")):
        if setup.distractors is None:
            raise ValueError(
                f"distractors must name the folder of the 100k Flickr pictures for "
                f"benchmark {name!r}: give --distractors."
            )
        distractors = find_pictures(setup.distractors)
    return attach(truth, folder, distractors=distractors, name=name)


def _compose(setup: Setup, workdir: pathlib.Path) -> SceneCollection:
    name = setup.benchmark
    if setup.composed is not None:
        # Others than those of the name, in a folder of their own.
        digest = hashlib.sha256(repr(setup.composed).encode()).hexdigest()[:12]
        return compose_scenes(workdir / f"{name}-{digest}", config=setup.composed)
    return compose_scenes(workdir / name, config=SCENES[name].config)


def _released(setup: Setup, path: pathlib.Path) -> Collection:
    """Vectors as the paper's authors released them, whitened already."""
    name = setup.benchmark
    if _family(name) not in _TRUTHS:
        raise ValueError(
            "descriptors must be of a benchmark of the paper's, got benchmark "
            f"{name!r}: leave --descriptors out."
        )
    found = read_descriptors(path)
    if setup.truth is not None and name != "instre":
        truth = read_released_truth(setup.truth)
    elif name == "instre" or name.startswith("r"):
        truth = _TRUTHS[_family(name)](setup)
    else:
        raise ValueError(
            f"truth of {name} must be that of its descriptors (gnd_{name}.mat), whose "
            "order of pictures no other list has: give --truth."
        )
    check_against(found, num_images=len(truth.database), num_queries=len(truth.queries))
    settings = dataclasses.replace(setup.folder.index, dim=None)
    index = Index.build(found.vectors, found.image_ids, config=settings)
    return Collection(
        index=index,
        regions=index.prepare(found.query_vectors),
        query_ids=found.query_ids,
        truth=truth._replace(name=name),
    )


def _family(name: str) -> str:
    """The data set whose ground truth a benchmark has."""
    known = {"oxford105k": "oxford5k", "paris106k": "paris6k"}
    return known.get(name, name.partition("-")[0])


def _classic(setup: Setup, *, files: str, names: str) -> GroundTruth:
    """Oxford5k or Paris6k, on the pictures that the revisited list names."""
    root = _root(setup)
    return read_oxford(root / files, revisited_names(root / names), name=files)


def _revisited(setup: Setup, *, file: str) -> GroundTruth:
    protocol = setup.benchmark.rpartition("-")[2]
    return getattr(read_revisited(_root(setup) / file), protocol)


def _instre(setup: Setup) -> GroundTruth:
    return read_instre(_root(setup) / "gnd_instre.mat")


def _root(setup: Setup) -> pathlib.Path:
    """Folder of the ground truths."""
    root = setup.data / "ground_truth"
    if not root.is_dir():
        raise ValueError(
            f"ground truths must be in {root}, got no such folder: say where the data "
            "lie (--data, or $DIFFJAX_DATA)."
        )
    return root


_TRUTHS: Mapping[str, Callable[[Setup], GroundTruth]] = MappingProxyType(
    {
        "oxford5k": functools.partial(
            _classic, files="oxford5k", names="gnd_roxford5k.pkl"
        ),
        "paris6k": functools.partial(
            _classic, files="paris6k", names="gnd_rparis6k.pkl"
        ),
        "roxford5k": functools.partial(_revisited, file="gnd_roxford5k.pkl"),
        "rparis6k": functools.partial(_revisited, file="gnd_rparis6k.pkl"),
        "instre": _instre,
    }
)
