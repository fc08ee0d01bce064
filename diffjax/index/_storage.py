"""An index on disk: one file of arrays named by its content, one JSON that names it.

Renaming the JSON into place is the commit: before it the old index is whole, after it
the new one. No time stamps, so the same collection gives the same bytes.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float, Int

from diffjax._arguments import check_not_downcast
from diffjax._io import remove_partial_files, write_safetensors
from diffjax.diffusion import OfflineRows
from diffjax.images import IndexedPictures, descriptor_config_from_json
from diffjax.types import Neighbors, Whitening

from ._config import IndexConfig
from ._extracted import EXTRACTED
from ._header import (
    Format,
    IndexFileError,
    read_header_file,
    verify_files,
    write_header,
)

_FORMAT = Format("diffjax index", 3)
_JSON, _ARRAYS = "index.json", "arrays"
MAPPED_JSON = "mapped.json"
REGIONS_JSON = "regions.json"
_ROWS = "rows."  # What the arrays of `OfflineRows` are called by, with their own.


class Parts(NamedTuple):
    """What of an index is stored; the rest is derived from it on loading.

    Attributes:
        vectors: Unit region vectors, whitened.
        image_ids: Image of every region.
        neighbors: Nearest neighbours with raw similarities.
        whitening: What was fitted on the collection, if anything.
        config: Settings.
        pictures: Where the vectors came from, if from pictures.
        recall: Share of the true neighbours found, if it was measured.
        order: Region of every node of the graph, as they lie in memory; None to find a
            good order.
        rows: Solutions made beforehand, if any.
        boxes: What each region covers in its picture, if it is known.
    """

    vectors: Float[Array, "n p"]
    image_ids: Int[np.ndarray, " n"]
    neighbors: Neighbors
    whitening: Whitening | None
    config: IndexConfig
    pictures: IndexedPictures | None
    recall: float | None
    order: Int[Array, " n"] | None
    rows: OfflineRows | None
    boxes: Float[np.ndarray, "n 4"] | None


def check_destination(folder: pathlib.Path) -> None:
    """Refuses to write an index into a file or a folder that holds something else.

    Raises:
        ValueError: Naming the folder and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file: name another place.")
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        # A program killed in its first save leaves no JSON, but nothing strange either.
        strange = [n for n in names if not n.startswith((f"{_ARRAYS}-", ".tmp"))]
        strange = [n for n in strange if not n.endswith(".part")]
        if strange and not names & {_JSON, REGIONS_JSON, EXTRACTED}:
            raise ValueError(
                f"{folder} must be empty or hold an index, got {min(strange)!r} in it: "
                "name another place."
            )


def write_parts(folder: pathlib.Path, parts: Parts) -> None:
    """Writes an index into a folder; see `Index.save`."""
    check_destination(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in (_ARRAYS, _JSON):
        remove_partial_files(folder, prefix)
    arrays = {
        "vectors": parts.vectors,
        "image_ids": parts.image_ids,
        "indices": parts.neighbors.indices,
        "similarities": parts.neighbors.similarities,
    }
    if parts.whitening is not None:
        arrays |= parts.whitening._asdict()
    if parts.boxes is not None:
        arrays["boxes"] = parts.boxes
    if parts.order is not None:
        arrays["order"] = parts.order
    if parts.rows is not None:
        arrays |= {f"{_ROWS}{k}": v for k, v in parts.rows._asdict().items()}
    stored = write_safetensors(
        folder, _ARRAYS, {name: np.asarray(array) for name, array in arrays.items()}
    )
    facts = {
        "arrays": stored._asdict(),
        "config": dataclasses.asdict(parts.config),
        "pictures": _pictures_as_json(parts.pictures),
        "recall": parts.recall,
    }
    write_header(folder / _JSON, _FORMAT, facts)
    for old in folder.glob(f"{_ARRAYS}-*.safetensors"):
        if old.name != stored.name:
            old.unlink()


def read_header(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks what an index says of itself.

    Raises:
        IndexFileError: If it is no index, damaged, edited, or of another version.
    """
    path = folder / _JSON
    if not path.is_file() and (folder / MAPPED_JSON).is_file():
        raise IndexFileError(
            f"{folder} holds an index that is mapped from the disk: open it with "
            "MappedIndex.open, or search it with diffjax search-vectors."
        )
    if not path.is_file():
        raise IndexFileError(
            f"{folder} holds no index ({_JSON} is missing): build one."
        )
    return read_header_file(path, _FORMAT)


def verify_index(folder: pathlib.Path) -> None:
    """Compares every byte of an index with its hash.

    Raises:
        IndexFileError: As `read_header`, or if the arrays were changed.
    """
    verify_files(folder, read_header(folder))


def read_parts(folder: pathlib.Path) -> Parts:
    """Reads an index back; see `Index.load`."""
    header = read_header(folder)
    path = folder / header["arrays"]["name"]
    try:
        arrays = safetensors.numpy.load_file(path)
        whitening = None
        if "mean" in arrays:
            whitening = Whitening(
                mean=_on_device(arrays["mean"]),
                projection=_on_device(arrays["projection"]),
            )
        return Parts(
            vectors=_on_device(arrays["vectors"]),
            image_ids=arrays["image_ids"],
            neighbors=Neighbors(
                _on_device(arrays["indices"]), _on_device(arrays["similarities"])
            ),
            whitening=whitening,
            config=IndexConfig(**header["config"]),
            pictures=_picture_info(header["pictures"]),
            recall=header["recall"],
            order=_on_device(arrays["order"]) if "order" in arrays else None,
            rows=_rows(arrays),
            boxes=arrays.get("boxes"),
        )
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise IndexFileError(
            f"{path} is damaged ({error}): build the index again."
        ) from error


def _on_device(array: np.ndarray) -> Array:
    check_not_downcast("the index", array)
    return jnp.asarray(array)


def _rows(arrays: dict[str, np.ndarray]) -> OfflineRows | None:
    names = {name: f"{_ROWS}{name}" for name in OfflineRows._fields}
    if not any(name in arrays for name in names.values()):
        return None
    return OfflineRows(**{k: _on_device(arrays[v]) for k, v in names.items()})


def _picture_info(stored: dict[str, Any] | None) -> IndexedPictures | None:
    if stored is None:
        return None
    fields: dict[str, Any] = {
        **stored,
        "names": tuple(stored["names"]),
        "descriptor": descriptor_config_from_json(stored["descriptor"]),
    }
    return IndexedPictures(**fields)


def _pictures_as_json(pictures: IndexedPictures | None) -> dict[str, Any] | None:
    if pictures is None:
        return None
    return pictures._asdict() | {"descriptor": dataclasses.asdict(pictures.descriptor)}


def _share(recall: float | None) -> str:
    return "" if recall is None else f", {recall:.1%} of the true ones (on a sample)"


def describe_index(folder: pathlib.Path) -> dict[str, str]:
    """Says what is in an index on disk, without loading it.

    Args:
        folder: Folder that `Index.save` wrote.

    Returns:
        What there is to know, by name, ready to print.

    Raises:
        IndexFileError: As `Index.load`.
    """
    header = read_header(folder)
    path = folder / header["arrays"]["name"]
    try:
        with safetensors.safe_open(path, "numpy") as file:
            regions, dim = file.get_slice("vectors").get_shape()
            _, k = file.get_slice("indices").get_shape()
            images = int(file.get_slice("image_ids")[regions - 1 :][0]) + 1
    except (safetensors.SafetensorError, ValueError) as error:
        raise IndexFileError(
            f"{path} is damaged ({error}): build the index again."
        ) from error
    lines = {
        "images": f"{images:,}",
        "regions": f"{regions:,}, {regions / images:.1f} an image",
        "dimensions": str(dim),
        "neighbours": f"{k} of each region" + _share(header["recall"]),
        "size": f"{header['arrays']['bytes'] / 2**20:.1f} MiB",
        "version": str(header["version"]),
        "fingerprint": header["fingerprint"][:16],
        "settings": ", ".join(f"{k} {v}" for k, v in header["config"].items()),
    }
    info = _picture_info(header["pictures"])
    if info is not None:
        lines |= {
            "pictures from": info.folder,
            "network": info.network,
            "weights": info.descriptor.weights or "by name",
            "described with": ", ".join(
                f"{name} {value}"
                for name, value in dataclasses.asdict(info.descriptor).items()
                if name not in {"network", "weights"} and value is not None
            ),
            "skipped": ", ".join(info.skipped) or "none",
        }
    return lines
