"""Benchmarks by name: finds pictures, reads ground truths, describes everything."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from configs.schema import Setup
from diffjax.datasets import (
    SCENE_SETS,
    Benchmark,
    GroundTruth,
    SceneCollection,
    attach_pictures,
    check_descriptor_counts,
    classes_benchmark,
    compose_scenes,
    folder_benchmark,
    read_instre,
    read_knn_graph,
    read_labels,
    read_oxford,
    read_picture_list,
    read_released_descriptors,
    read_released_truth,
    read_revisited,
    read_revisited_names,
    scenes_benchmark,
)
from diffjax.images import find_pictures
from diffjax.index import Index
from diffjax.types import Neighbors

from ._collections import Collection, describe_collection

_CLASSIC = "oxford5k", "paris6k", "oxford105k", "paris106k"


def load_benchmark(setup: Setup, workdir: pathlib.Path) -> Collection:
    """Loads a benchmark: describes its pictures, or reads released descriptors.

    Args:
        setup: Name of the benchmark and paths of its files.
        workdir: Caches composed scenes and the index of the pictures.

    Returns:
        The vectors, queries and right answers.

    Raises:
        ValueError: If something is missing, with what to put where, or descriptors and
            ground truth are not of the same data set.
    """
    collection = _load_collection(setup, workdir)
    return dataclasses.replace(collection, results=workdir / "results")


def _load_collection(setup: Setup, workdir: pathlib.Path) -> Collection:
    if setup.graph is not None and setup.descriptors is None:
        raise ValueError(
            "graph must be of released descriptors: give --descriptors, or leave "
            "--graph out."
        )
    if setup.descriptors is not None:
        return _load_released(setup, setup.descriptors)
    if setup.benchmark not in SCENE_SETS:
        truth = find_benchmark(setup, workdir)
        name = _index_name(truth.name, setup, str(truth.folder.resolve()))
        return describe_collection(truth, setup.folder, workdir, index_name=name)
    scenes = _compose(setup, workdir)
    benchmark = scenes_benchmark(scenes, name=setup.benchmark)
    notes: dict[str, Any] = {"pixels_sha256": (scenes.pixels_sha256 or "")[:16]}
    if setup.composed is None:
        notes["scenes_version"] = SCENE_SETS[setup.benchmark].version
    name = _index_name(
        benchmark.name, setup, repr(setup.composed) if setup.composed else ""
    )
    collection = describe_collection(benchmark, setup.folder, workdir, index_name=name)
    return dataclasses.replace(collection, extra_facts=notes)


class DescribedScenes(NamedTuple):
    """Described collection of composed scenes, with the areas of their objects.

    Attributes:
        collection: Vectors, queries and right answers.
        areas: Share of each database picture that its object covers; NaN without one.
    """

    collection: Collection
    areas: Float[np.ndarray, " m"]


def describe_scenes(setup: Setup, workdir: pathlib.Path) -> DescribedScenes:
    """Describes composed scenes, with the areas of their objects.

    Raises:
        ValueError: If the benchmark is not one of composed scenes.
    """
    if setup.benchmark not in SCENE_SETS or setup.descriptors is not None:
        raise ValueError(
            "benchmark must be one whose database pictures have boxes "
            f"({', '.join(SCENE_SETS)}), got {setup.benchmark!r}."
        )
    areas = _compose(setup, workdir).areas
    return DescribedScenes(load_benchmark(setup, workdir), np.asarray(areas))


def find_benchmark(setup: Setup, workdir: pathlib.Path) -> Benchmark:
    """Finds the pictures of a benchmark and their right answers.

    Args:
        setup: Name of the benchmark and paths of its files.
        workdir: Caches composed scenes.

    Returns:
        Pictures, queries and right answers.

    Raises:
        ValueError: If something is missing, with what to put where.
    """
    name = setup.benchmark
    if name in SCENE_SETS:
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
            return folder_benchmark(setup.label, setup.pictures)
        labels = read_labels(setup.pictures, name=setup.label)
        return attach_pictures(labels, setup.pictures.parent)
    if setup.truth is not None:
        raise ValueError(
            "truth must be left out with pictures, whose ground truth is known, got "
            f"{setup.truth}."
        )
    truth = _GROUND_TRUTH_READERS[_ground_truth_name(name)](setup)
    folder = setup.pictures or _picture_folder(setup)
    if not folder.is_dir():
        raise ValueError(
            f"pictures of {name} must be in a folder, got none at {folder}: fetch them "
            f"(diffjax fetch {_ground_truth_name(name)} --out {setup.data}), or name "
            "their folder (--pictures)."
        )
    if name.endswith(("105k", "106k")) and setup.distractors is None:
        raise ValueError(
            "distractors must name the folder of the 100k Flickr pictures for "
            f"benchmark {name!r}: give --distractors."
        )
    return attach_pictures(
        truth, folder, distractors=_distractors(setup), name=setup.label
    )


def _index_name(name: str, setup: Setup, source: str) -> str:
    """Names the index of a collection, apart for every source and descriptor."""
    folder = setup.folder
    changes = "" if folder == type(setup)().folder else repr(folder)
    if not source + changes:
        return name
    return f"{name}-{hashlib.sha256(f'{source}{changes}'.encode()).hexdigest()[:8]}"


def _picture_folder(setup: Setup) -> pathlib.Path:
    """Finds the folder that `diffjax fetch` fills; revisited sets have the same."""
    home = setup.data / _ground_truth_name(setup.benchmark).removeprefix("r")
    return home / "jpg" if (home / "jpg").is_dir() else home


def _distractors(setup: Setup) -> tuple[pathlib.Path, ...]:
    """Lists the pictures of a folder, or those of a list that lies beside them."""
    if setup.distractors is None:
        return ()
    if setup.distractors.is_dir():
        return find_pictures(setup.distractors)
    root = setup.distractors.parent
    return tuple(root / line for line in read_picture_list(setup.distractors))


def _compose(setup: Setup, workdir: pathlib.Path) -> SceneCollection:
    name = setup.benchmark
    if setup.composed is not None:
        # Scenes of other settings than the name's have a folder of their own.
        digest = hashlib.sha256(repr(setup.composed).encode()).hexdigest()[:12]
        return compose_scenes(workdir / f"{name}-{digest}", config=setup.composed)
    return compose_scenes(workdir / name, config=SCENE_SETS[name].config)


def _load_released(setup: Setup, path: pathlib.Path) -> Collection:
    """Loads vectors that the paper's authors released, whitened already."""
    name = setup.benchmark
    if _ground_truth_name(name) not in _GROUND_TRUTH_READERS:
        raise ValueError(
            "descriptors must be of a benchmark of the paper's, got benchmark "
            f"{name!r}: leave --descriptors out."
        )
    classic = name in _CLASSIC
    if classic != (setup.truth is not None):
        raise ValueError(
            f"truth of {name} must be that of its descriptors (gnd_{name}.mat), whose "
            "order of pictures no other list has: give --truth."
            if classic
            else f"truth must be left out for {name}, whose ground truth is known, got "
            f"{setup.truth}."
        )
    truth = (
        _GROUND_TRUTH_READERS[_ground_truth_name(name)](setup)
        if setup.truth is None
        else read_released_truth(setup.truth)
    )
    released = read_released_descriptors(path)
    check_descriptor_counts(
        released, num_images=len(truth.database), num_queries=len(truth.queries)
    )
    config = setup.folder.index
    # This graph is not searched: each experiment builds its own.
    smallest = {"k": min(config.graph.k, len(released.vectors)), "query_k": 1}
    settings = config.replace(dim=None, **smallest)
    lists = None if setup.graph is None else read_knn_graph(setup.graph)
    short_lists = lists and Neighbors(
        *(array[:, : settings.graph.k] for array in lists)
    )
    index = Index.build(
        released.vectors, released.image_ids, config=settings, neighbors=short_lists
    )
    return Collection(
        index=index,
        regions=index.prepare(released.query_vectors),
        query_ids=released.query_ids,
        truth=truth._replace(name=name),
        released_globals=(
            jnp.asarray(released.global_vectors),
            jnp.asarray(released.global_queries),
        ),
        released_neighbors=lists,
        extra_facts={} if setup.graph is None else {"graph": "released"},
    )


def _ground_truth_name(name: str) -> str:
    """Names the data set whose ground truth a benchmark has."""
    originals = {"oxford105k": "oxford5k", "paris106k": "paris6k"}
    return originals.get(name, name.partition("-")[0])


def _read_classic(setup: Setup, *, name: str) -> GroundTruth:
    """Reads Oxford5k or Paris6k, on the pictures that the revisited list names."""
    files = _ground_truth_path(setup, name, fetched=f"{name}/ground_truth")
    names = f"gnd_r{name}.pkl"
    listed = _ground_truth_path(setup, names, fetched=f"r{name}/{names}")
    return read_oxford(files, read_revisited_names(listed), name=name)


def _read_revisited(setup: Setup, *, name: str) -> GroundTruth:
    file = f"gnd_{name}.pkl"
    protocols = read_revisited(
        _ground_truth_path(setup, file, fetched=f"{name}/{file}")
    )
    return getattr(protocols, setup.benchmark.rpartition("-")[2])


def _read_instre(setup: Setup) -> GroundTruth:
    file = "gnd_instre.mat"
    return read_instre(_ground_truth_path(setup, file, fetched=f"instre/{file}"))


def _ground_truth_path(setup: Setup, name: str, *, fetched: str) -> pathlib.Path:
    """Finds a ground truth beside others, or in the folder of `diffjax fetch`."""
    paths = setup.data / "ground_truth" / name, setup.data / fetched
    for path in paths:
        if path.exists():
            return path
    raise ValueError(
        f"ground truths must be at {paths[0]} or {paths[1]}, got none: fetch them "
        f"(diffjax fetch {fetched.partition('/')[0]} --out {setup.data}), or name the "
        "folder of the data (--data, or $DIFFJAX_DATA)."
    )


_GROUND_TRUTH_READERS: Mapping[str, Callable[[Setup], GroundTruth]] = MappingProxyType(
    {
        "oxford5k": functools.partial(_read_classic, name="oxford5k"),
        "paris6k": functools.partial(_read_classic, name="paris6k"),
        "roxford5k": functools.partial(_read_revisited, name="roxford5k"),
        "rparis6k": functools.partial(_read_revisited, name="rparis6k"),
        "instre": _read_instre,
    }
)
