"""From a folder of pictures to an index on disk."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np

from diffjax._files import file_digest
from diffjax.data import find_pictures
from diffjax.features import Described, describe_pictures

from ._config import FolderConfig
from ._extracted import Extracted
from ._index import Index
from ._pictures import PictureInfo, describer, network_name
from ._storage import check_destination, verify

Progress = Callable[[str, int, int], None]


def index_folder(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    config: FolderConfig | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Index:
    """Builds the index of all pictures in a folder and saves it.

    What was extracted is kept beside the index: a build that was stopped goes on where
    it was, and one with other settings for the graph computes no picture again.

    Args:
        folder: Pictures, also in folders in it.
        path: Folder of the index; see `Index.save`.
        config: Settings; None for the defaults.
        strict: Refuse a folder with pictures that can't be read, instead of leaving
            those out.
        progress: Called with what is being done, how much of it is done, and of how
            much.

    Returns:
        The index, as saved. `index.pictures.skipped` lists what could not be read.

    Raises:
        ValueError: If there is no picture that can be read, `strict` is set and one
            can't, or `path` holds something else.
        OSError: If the index can't be written; what it held is then untouched.
    """
    config = config or FolderConfig()
    folder, path = pathlib.Path(folder), pathlib.Path(path)
    check_destination(path)
    pictures = find_pictures(folder)
    digests = [_digest(picture) for picture in _told(pictures, "reading", progress)]
    names = [picture.relative_to(folder).as_posix() for picture in pictures]
    info = PictureInfo(
        folder=str(folder.resolve()),
        names=tuple(names),
        skipped={},
        side=config.side,
        network=network_name(),
        content=hashlib.sha256(json.dumps([digests, names]).encode()).hexdigest(),
    )
    current = _current(path, info, config)
    if current is not None and not (strict and _skipped(current)):
        return current
    settings = f"{info.network.replace('/', '-')}-{config.side}"
    extracted = Extracted(path / "extracted" / settings)
    skipped = _extract(pictures, digests, extracted, config, progress)
    reasons = {names[position]: reason for position, reason in skipped.items()}
    if reasons and strict:
        name, reason = next(iter(reasons.items()))
        raise ValueError(
            f"{folder} must hold only pictures that can be read, got {len(reasons)} "
            f"others, first {name} ({reason}): mend or remove them."
        )
    kept = [i for i in range(len(pictures)) if i not in skipped]
    if not kept:
        name, reason = next(iter(reasons.items()))
        raise ValueError(
            f"{folder} must hold a picture that can be read, got {len(reasons)} "
            f"others, first {name} ({reason}): name another folder."
        )
    regions = extracted.read([digests[i] for i in kept])
    if progress:
        progress("building the graph", 0, 1)
    index = Index.build(
        np.concatenate(regions),
        np.repeat(np.arange(len(regions)), [len(r) for r in regions]),
        config=config.index,
        pictures=info._replace(names=tuple(names[i] for i in kept), skipped=reasons),
    )
    index.save(path)
    if progress:
        progress("building the graph", 1, 1)
    return index


def _current(
    path: pathlib.Path, info: PictureInfo, config: FolderConfig
) -> Index | None:
    """Loads the index in `path` if it is the one that would be built, every byte."""
    try:
        verify(path)
        index = Index.load(path)
    except ValueError:  # None, a damaged one, or one in double precision.
        return None
    same = index.pictures is not None and info == index.pictures._replace(
        names=info.names, skipped={}
    )
    return index if same and index.config == config.index else None


def _skipped(index: Index) -> dict[str, str]:
    return index.pictures.skipped if index.pictures else {}


def _extract(pictures, digests, extracted, config, progress) -> dict[int, str]:
    """Describes what is not there yet; returns why pictures were skipped."""
    # Of several pictures with the same bytes only the first is described.
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    todo = sorted(i for digest, i in first.items() if digest not in extracted)
    reasons: dict[str, str] = {}
    if todo:
        describe = describer(config.side)
        results = describe_pictures(
            [pictures[i] for i in todo],
            describe,
            side=config.side,
            batch_size=describe.batch_size,
            workers=config.workers,
        )
        if progress:
            progress("describing pictures", 0, len(todo))
        try:
            for done, result in enumerate(results, start=1):
                digest = digests[todo[result.position]]
                if isinstance(result, Described):
                    extracted.add(digest, result.vectors)
                else:
                    reasons[digest] = result.reason
                if progress:
                    progress("describing pictures", done, len(todo))
        finally:  # After Ctrl-C, too.
            results.close()
            extracted.flush()
    return {i: reasons[d] for i, d in enumerate(digests) if d in reasons}


def _digest(picture: pathlib.Path) -> str:
    """Names a picture by its content, one that can't be opened by its path."""
    try:
        return file_digest(picture)
    except OSError:
        return str(picture)  # Reading it will say what is wrong.


def _told(items, task, progress):
    for done, item in enumerate(items, start=1):
        yield item
        if progress:
            progress(task, done, len(items))
