"""The pictures of a folder, described as far as they are not yet."""

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
    """The pictures of a folder.

    Attributes:
        paths: Where they are.
        names: Their paths in the folder.
        keys: What each holds, and its own regions, as a hash.
        regions: Regions of its own for each picture; None is the grid.
    """

    paths: tuple[pathlib.Path, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    regions: tuple[Float[np.ndarray, "_ 4"] | None, ...]

    @property
    def content(self) -> str:
        """Hash of what all pictures hold and are called."""
        listed = [list(self.keys), list(self.names)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def open_region_store(
    path: pathlib.Path, config: DescriptorConfig, weights: str
) -> RegionStore:
    """Opens what was extracted with these settings, beside that of other settings."""
    name = f"{config.network}-{config.fingerprint(weights)[:16]}"
    return RegionStore(path / EXTRACTED_FOLDER / name)


def list_pictures(
    folder: pathlib.Path,
    regions: RegionsByName | None,
    *,
    chosen: Sequence[pathlib.Path] | None = None,
    progress: Progress | None,
) -> FolderPictures:
    """Lists the pictures of a folder and identifies each by what it holds.

    Args:
        folder: The folder.
        regions: Regions of their own, by name.
        chosen: The pictures instead of all in the folder; those from elsewhere have
            their whole path as a name.
        progress: Told how many were read.

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


def extract(
    pictures: FolderPictures,
    store: RegionStore,
    describe: Callable[[], Describer],
    *,
    workers: int,
    progress: Progress | None,
) -> dict[int, str]:
    """Describes what is not in the store yet; returns why pictures were skipped.

    Args:
        pictures: The pictures.
        store: Where their regions belong.
        describe: Reads the network; asked only where something is to be described.
        workers: Processes that read pictures.
        progress: Told what is done.
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
    """Names a picture by its content, one that can't be opened by its path."""
    try:
        digest = file_digest(picture)
    except OSError:
        digest = str(picture)  # Reading it will say what is wrong.
    if regions is None:
        return digest
    return f"{digest}-{hashlib.sha256(regions.tobytes()).hexdigest()[:16]}"
