"""Description of the pictures of a folder whose regions a store lacks."""

import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffjax._io import file_digest
from diffjax.images import (
    DescribedPicture,
    Describer,
    DescriptorConfig,
    describe_pictures,
    find_pictures,
)
from diffjax.progress import Progress

from ._region_store import EXTRACTED_FOLDER, PictureRegions, RegionStore

RegionsByName = Mapping[str, Float[np.ndarray, "_ 4"]]


class FolderPictures(NamedTuple):
    """Pictures of a folder, with hashes of their content.

    Attributes:
        paths: Paths of the files.
        names: Paths relative to the folder.
        keys: Hash of each picture's content and of its given regions.
        regions: Given region boxes of each picture; None is the grid.
    """

    paths: tuple[pathlib.Path, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    regions: tuple[Float[np.ndarray, "_ 4"] | None, ...]

    @property
    def content(self) -> str:
        """Hash of the content and the names of all pictures."""
        listed = [list(self.keys), list(self.names)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def open_region_store(
    path: pathlib.Path, config: DescriptorConfig, weights: str
) -> RegionStore:
    """Opens the region store of these descriptor settings, beside an index."""
    name = f"{config.network}-{config.fingerprint(weights)[:16]}"
    return RegionStore(path / EXTRACTED_FOLDER / name)


def list_pictures(
    folder: pathlib.Path,
    regions: RegionsByName | None,
    *,
    chosen: Sequence[pathlib.Path] | None = None,
    progress: Progress | None,
) -> FolderPictures:
    """Lists the pictures of a folder, and hashes their content.

    Args:
        folder: The folder.
        regions: Region boxes by name of the picture.
        chosen: Pictures to list instead of all in the folder; those of other folders
            are named by their whole path.
        progress: Called with the task, the number of pictures read, and of how many.

    Raises:
        ValueError: If there is none, one is chosen twice, or `regions` names one that
            is not there.
    """
    paths = find_pictures(folder) if chosen is None else tuple(chosen)
    names = [
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        for path in paths
    ]
    if not names:
        raise ValueError("pictures must be one or more, got none.")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"pictures must name each one once, got {name} {times} times.")
    regions = regions or {}
    if unknown := sorted(set(regions) - set(names)):
        raise ValueError(
            f"regions must be of pictures in {folder}, got {len(unknown)} others, "
            f"first {unknown[0]!r}."
        )
    picture_regions = tuple(
        np.asarray(regions[name], np.float32) if name in regions else None
        for name in names
    )
    keys = []
    for path, boxes in zip(paths, picture_regions, strict=True):
        keys.append(_content_key(path, boxes))
        if progress:
            progress("reading", len(keys), len(paths))
    return FolderPictures(paths, tuple(names), tuple(keys), picture_regions)


def describe_missing(
    pictures: FolderPictures,
    store: RegionStore,
    describe: Callable[[], Describer],
    *,
    workers: int,
    progress: Progress | None,
) -> dict[int, str]:
    """Describes the pictures that the store lacks; returns the reasons of failures.

    Args:
        pictures: The pictures.
        store: Store of their regions.
        describe: Function that loads the network; called only if a picture is missing.
        workers: Processes that read pictures.
        progress: Called with the task, the number of pictures done, and of how many.

    Returns:
        Reason for each unreadable picture, by its position.
    """
    store.remove_damaged_shards()
    # Of several pictures with the same bytes only the first is described.
    first = {key: i for i, key in reversed(list(enumerate(pictures.keys)))}
    missing = sorted(i for key, i in first.items() if key not in store)
    reasons: dict[str, str] = {}
    if missing:
        describer = describe()
        results = describe_pictures(
            [pictures.paths[i] for i in missing],
            describer,
            regions=[pictures.regions[i] for i in missing],
            sides=describer.sides,
            batch_size=describer.batch_size,
            parallel_batches=describer.parallel_batches,
            workers=workers,
        )
        if progress:
            progress("describing pictures", 0, len(missing))
        try:
            for done, result in enumerate(results, start=1):
                key = pictures.keys[missing[result.position]]
                if isinstance(result, DescribedPicture):
                    store.add(key, PictureRegions(result.vectors, result.boxes))
                else:
                    reasons[key] = result.reason
                if progress:
                    progress("describing pictures", done, len(missing))
        finally:  # After Ctrl-C, too.
            results.close()
            store.flush()
    return {i: reasons[k] for i, k in enumerate(pictures.keys) if k in reasons}


def list_readable_pictures(
    folder: pathlib.Path,
    pictures: FolderPictures,
    reasons: Mapping[int, str],
    *,
    strict: bool,
) -> list[int]:
    """Lists the pictures that could be read.

    Raises:
        ValueError: If none could, or `strict` is set and one could not.
    """
    readable = [i for i in range(len(pictures.paths)) if i not in reasons]
    if readable and not (reasons and strict):
        return readable
    position, reason = next(iter(reasons.items()))
    first_unreadable = f"{pictures.names[position]} ({reason})"
    if readable:
        raise ValueError(
            f"{folder} must hold only pictures that can be read, got {len(reasons)} "
            f"that can't, first {first_unreadable}: mend or remove them."
        )
    raise ValueError(
        f"{folder} must hold a picture that can be read, got {len(reasons)} that "
        f"can't, first {first_unreadable}: name another folder."
    )


def _content_key(
    picture: pathlib.Path, regions: Float[np.ndarray, "_ 4"] | None
) -> str:
    """Hashes a picture's content and its given regions; an unreadable one's path."""
    try:
        digest = file_digest(picture)
    except OSError:
        digest = str(picture)  # Reading it will give the reason.
    if regions is None:
        return digest
    return f"{digest}-{hashlib.sha256(regions.tobytes()).hexdigest()[:16]}"
