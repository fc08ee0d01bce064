"""A mapped index on disk: arrays named by what they depend on, one JSON naming them.

Renaming the JSON into place is the commit. No time stamps, so the same vectors and
settings give the same bytes, also after a build that was stopped.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from diffjax._io import StoredFile, file_digest

from ._config import IndexConfig
from ._header import (
    Format,
    IndexFileError,
    files_of,
    read_header_file,
    verify_files,
    write_header,
)
from ._mapped_config import MappedConfig
from ._mapped_files import map_array
from ._mapped_rows import Progress
from ._storage import MAPPED_JSON, describe_index, verify_index

_FORMAT = Format("diffjax mapped index", 1)
# What the arrays of a build are called by.
_ROLES = (
    *("vectors", "order", "image_ids", "image_starts", "places", "starts"),
    *("centroids", "mean", "projection", "weights", "drafts", "indices"),
    *("similarities", "columns", "edges", "bounds", "degrees", "labels", "totals"),
    *("members", "firsts", "halved", "codes", "codebooks"),
)
LOCK = "mapped.lock"  # There while a build runs, or after it was killed.
_DIGITS = 16  # Of the hash in a name.
_HASH = f"[0-9a-f]{{{_DIGITS}}}"
# All names that builds make, whole or not: what is called otherwise is the user's.
_OWN = re.compile(
    rf"(({'|'.join(_ROLES)})-{_HASH}\.npy|edges-{_HASH}\.npy\.affinity)(\.part)?"
    rf"|(lists(-drafts)?-{_HASH}\.json|{re.escape(MAPPED_JSON)})(\.[0-9]+\.part)?"
    rf"|{re.escape(LOCK)}"
)


def fingerprint(*parts: Any) -> str:
    """Hashes what a file depends on: JSON values."""
    text = json.dumps([_FORMAT.version, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def check_mapped_destination(folder: pathlib.Path) -> None:
    """Refuses to build in a file or a folder that holds something else.

    Raises:
        ValueError: Naming the folder and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file: name another place.")
    if folder.is_dir():
        strange = [p.name for p in folder.iterdir() if not _is_own(p.name)]
        if strange:
            raise ValueError(
                f"{folder} must be empty or hold a mapped index, got {min(strange)!r} "
                "in it: name another place."
            )


def commit(
    folder: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    facts: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Names the files of an index, and removes all others that builds have left.

    Args:
        folder: Where they lie.
        files: By what they are.
        facts: What else there is to know, JSON values.
        progress: Progress.
    """
    arrays = {}
    for done, (role, path) in enumerate(files.items(), start=1):
        size = path.stat().st_size
        arrays[role] = StoredFile(path.name, file_digest(path), size)._asdict()
        progress("hashing files", done, len(files))
    header = write_header(folder / MAPPED_JSON, _FORMAT, {"arrays": arrays, **facts})
    remove_others(folder, header)


def remove_others(folder: pathlib.Path, header: Mapping[str, Any]) -> None:
    """Removes what builds have left in a folder beside the index in it."""
    kept = {each["name"] for each in files_of(header)} | {MAPPED_JSON, LOCK}
    for path in folder.iterdir():
        if path.name not in kept and _is_own(path.name):
            path.unlink()


def read_mapped_header(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks what a mapped index says of itself.

    Raises:
        IndexFileError: If it is none, damaged, edited, or of another version.
    """
    path = folder / MAPPED_JSON
    if not path.is_file():
        raise IndexFileError(
            f"{folder} holds no mapped index ({MAPPED_JSON} is missing): build one."
        )
    return read_header_file(path, _FORMAT)


def map_arrays(
    folder: pathlib.Path, header: Mapping[str, Any]
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Maps the arrays of an index, by what they are.

    Raises:
        IndexFileError: If one is no array.
    """
    try:
        return {
            role: map_array(folder / each["name"])
            for role, each in header["arrays"].items()
        }
    except (ValueError, OSError) as error:
        raise IndexFileError(
            f"{folder} is damaged ({error}): build the index again."
        ) from error


def config_of(header: Mapping[str, Any]) -> MappedConfig:
    """The settings that an index was built with."""
    stored = dict(header["config"])
    return MappedConfig(**{**stored, "index": IndexConfig(**stored["index"])})


def verify_mapped(folder: pathlib.Path) -> None:
    """Compares every byte with its hash.

    Raises:
        IndexFileError: As `read_mapped_header`, or if an array was changed.
    """
    verify_files(folder, read_mapped_header(folder))


def describe_mapped(folder: pathlib.Path) -> dict[str, str]:
    """Says what is in a mapped index, without opening it.

    Raises:
        IndexFileError: As `read_mapped_header`.
    """
    header = read_mapped_header(folder)
    sizes = {role: each["bytes"] for role, each in header["arrays"].items()}
    regions, images = header["regions"], header["images"]
    config = dict(header["config"])
    settings = {**config.pop("index"), **config}
    stored = next(n for n in ("codes", "halved", "vectors") if n in sizes)
    return {
        "kind": "mapped from the disk",
        "images": f"{images:,}",
        "regions": f"{regions:,}, {regions / images:.1f} an image",
        "dimensions": str(header["dim"]),
        "neighbours": f"{header['k']} of each region, {header['recall']:.1%} of the "
        "true ones (on a sample)",
        "stored edges": f"{header['edges']:,}",
        "clusters": f"{header['clusters']:,}",
        "size": f"{sum(sizes.values()) / 2**20:.1f} MiB, of which vectors "
        f"{sizes[stored] / 2**20:.1f} ({config['storage']})",
        "version": str(header["version"]),
        "fingerprint": header["fingerprint"][:16],
        "settings": ", ".join(f"{k} {v}" for k, v in settings.items()),
    }


def verify(folder: str | pathlib.Path) -> None:
    """Compares every byte of an index, of either kind, with its hash.

    Raises:
        IndexFileError: If it is none or damaged, or bytes were changed.
    """
    folder = pathlib.Path(folder)
    mapped = (folder / MAPPED_JSON).is_file()
    (verify_mapped if mapped else verify_index)(folder)


def describe_file(folder: str | pathlib.Path) -> dict[str, str]:
    """Says what is in an index on disk, of either kind, without loading it.

    Args:
        folder: Folder that `Index.save` or `MappedIndex.build` wrote.

    Returns:
        What there is to know, by name, ready to print.

    Raises:
        IndexFileError: As `Index.load`.
    """
    folder = pathlib.Path(folder)
    mapped = (folder / MAPPED_JSON).is_file()
    return (describe_mapped if mapped else describe_index)(folder)


def facts_of(config: MappedConfig) -> dict[str, Any]:
    """Settings as JSON values."""
    return dataclasses.asdict(config)


def _is_own(name: str) -> bool:
    return _OWN.fullmatch(name) is not None
