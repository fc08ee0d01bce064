"""Index on disk: one file per array, and a manifest that names the files.

Renaming the manifest into place is the commit: before it the old index is whole, after
it the new one. No time stamps are stored, so equal vectors give equal bytes.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import tokenize
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from diffjax._io import file_digest, write_atomically
from diffjax.images import IndexedPictures, descriptor_config_from_json

from ._array_files import array_path, lock_folder, map_array, write_array
from ._available_memory import available_memory
from ._config import IndexConfig, config_from_json
from ._region_store import EXTRACTED_FOLDER, REGIONS_JSON

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]

_FORMAT, _VERSION = "diffjax index", 4
MANIFEST = "index.json"
LOCK = "index.lock"  # Exists while a build runs, or after it was killed.
# What NumPy raises for a damaged file; the last for a header that is no Python.
_ARRAY_ERRORS = ValueError, OSError, KeyError, EOFError, tokenize.TokenError
_HASH_DIGITS = 16  # Of the hash in a file's name.

# Arrays that every index has; the others may be absent.
REQUIRED = (
    *("vectors", "order", "inverse_order", "image_starts", "indices", "similarities"),
    *("graph_columns", "graph_weights", "graph_starts", "degrees"),
)
OPTIONAL = (
    *("codebooks", "mean", "projection", "weights", "boxes", "ids", "id_starts"),
    *("centroids", "cluster_starts"),
    *("component_labels", "component_degree_sums", "component_nodes"),
    "component_starts",
    *("offline_indices", "offline_values", "offline_residual"),
)
# Written while an index is built.
_INTERMEDIATE = ("drafts", "affinity")
_FILE_NAME = re.compile(
    rf"(({'|'.join((*REQUIRED, *OPTIONAL, *_INTERMEDIATE))})"
    rf"-[0-9a-f]{{{_HASH_DIGITS}}}\.npy)(\.part)?"
    rf"|(lists(-drafts)?-[0-9a-f]{{{_HASH_DIGITS}}}\.json|{re.escape(MANIFEST)})"
    rf"(\.[0-9]+\.part)?|{re.escape(REGIONS_JSON)}\.[0-9]+\.part"
    rf"|{re.escape(LOCK)}"
)
# Files of indexes of earlier versions, which a build replaces.
_OLD_MANIFESTS = ("mapped.json",)
_OLD_FILE_NAME = re.compile(
    r"arrays-[0-9a-f]+\.safetensors|arrays\.[0-9]+\.part|\.tmp[^.]{6}"
    r"|mapped\.(json|lock)|(bounds|codes|columns|edges|firsts|halved|image_ids|labels"
    rf"|members|places|starts|totals)-[0-9a-f]{{{_HASH_DIGITS}}}\.npy(\.affinity)?(\.part)?"
)
# Largest share of the available memory that an index is loaded into, not mapped.
_LOADED_SHARE = 0.25


class IndexFileError(ValueError):
    """Error of an index on disk that can't be used, with the remedy."""


class Facts(NamedTuple):
    """Metadata of an index: settings, recall, origin of the vectors.

    Attributes:
        config: Settings, as given to the build.
        recall: Share of the true nearest neighbours in the lists, measured on a sample;
            None for an exact search or given lists.
        offline: Alpha, tolerance and steps of the stored solutions; None without.
        pictures: Pictures that the vectors were computed from; None without pictures.
        source: Hashes of the given vectors and ids, for a build on disk.
    """

    config: IndexConfig
    recall: float | None = None
    offline: dict[str, float] | None = None
    pictures: IndexedPictures | None = None
    source: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Arrays of an index, in memory or mapped from files, and its facts.

    All arrays are NumPy's: a process that opened an index has started nothing of JAX.

    Attributes:
        arrays: Arrays by name; see the page on stored arrays in the documentation.
        facts: Metadata of the index.
        is_mapped: Whether arrays are mapped from files, and read when used.
    """

    arrays: Arrays
    facts: Facts
    is_mapped: bool = False

    def read_vectors(self, start: int, stop: int) -> Float[np.ndarray, "b p"]:
        """Reads the vectors of consecutive nodes, in single precision or better."""
        rows, codebooks = (
            self.arrays["vectors"][start:stop],
            self.arrays.get("codebooks"),
        )
        if codebooks is not None:
            slots = np.arange(len(codebooks))
            return codebooks[slots, rows].reshape(len(rows), -1)
        return rows if rows.dtype == np.float64 else np.asarray(rows, np.float32)

    @property
    def dim(self) -> int:
        """Dimensions of the stored vectors."""
        codebooks = self.arrays.get("codebooks")
        if codebooks is not None:
            return codebooks.shape[0] * codebooks.shape[2]
        return self.arrays["vectors"].shape[1]


def fingerprint(*values: Any) -> str:
    """Hash of the JSON values that the content of a file depends on."""
    text = json.dumps([_VERSION, *values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def check_destination(folder: pathlib.Path) -> None:
    """Refuses a destination that is a file, or a folder with foreign files.

    Extracted regions may be in the folder of an index.

    Args:
        folder: Folder of the index.

    Raises:
        ValueError: Naming the folder and the remedy.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file: name another place.")
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()} - {EXTRACTED_FOLDER, REGIONS_JSON}
    foreign = [name for name in names if not _is_index_file(name)]
    if foreign:
        raise ValueError(
            f"{folder} must be empty or hold an index, got {min(foreign)!r} in it: "
            "name another place."
        )


def _is_index_file(name: str) -> bool:
    """Whether a name is that of a file of an index, of this or earlier versions."""
    return bool(_FILE_NAME.fullmatch(name) or _OLD_FILE_NAME.fullmatch(name))


def write_store(folder: pathlib.Path, store: Store) -> None:
    """Writes an index into a folder, atomically; see `Index.save`."""
    check_destination(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    with lock_folder(folder, LOCK):
        for name, array in store.arrays.items():
            host = np.ascontiguousarray(array)
            digest = hashlib.sha256(f"{host.dtype.str} {host.shape}".encode())
            digest.update(host.data)
            files[name] = array_path(folder, name, digest.hexdigest()[:_HASH_DIGITS])
            # Also over an existing file of that name, which may be damaged.
            write_array(files[name], host)
        commit(folder, files, store.facts)


def commit(
    folder: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    facts: Facts,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    generation: int = 1,
) -> None:
    """Renames a manifest into place, and removes files that it does not name.

    Args:
        folder: Folder of the index.
        files: File of every array, by the array's name.
        facts: Metadata of the index.
        progress: Called with the task, the number of files done, and of how many.
        generation: Version number of the collection: 1 for a build, one more after
            every change.
    """
    arrays = {}
    for done, (name, path) in enumerate(files.items(), start=1):
        array = map_array(path)
        arrays[name] = {
            "name": path.name,
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
            "dtype": array.dtype.str,
            "shape": list(array.shape),
        }
        if progress:
            progress("hashing files", done, len(files))
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "generation": generation,
        "arrays": arrays,
        "config": dataclasses.asdict(facts.config),
        "recall": facts.recall,
        "offline": facts.offline,
        "pictures": _pictures_to_json(facts.pictures),
        "source": list(facts.source),
    }
    header["fingerprint"] = _header_fingerprint(header)
    # Escaped to ASCII: a file name may hold bytes that are no text.
    text = json.dumps(header, indent=1, sort_keys=True)
    write_atomically(folder / MANIFEST, (text + "\n").encode())
    remove_unnamed(folder, header)


def remove_unnamed(folder: pathlib.Path, header: Mapping[str, Any]) -> None:
    """Removes files of earlier or unfinished builds that a manifest does not name."""
    named = {entry["name"] for entry in header["arrays"].values()} | {MANIFEST, LOCK}
    for path in folder.iterdir():
        if path.name not in named and path.is_file() and _is_index_file(path.name):
            path.unlink(missing_ok=True)


def remove_damaged(folder: pathlib.Path) -> None:
    """Removes files whose hash differs from the manifest; all if that is damaged.

    A build reuses existing files, so damaged ones are removed before it begins.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        header = json.loads(path.read_bytes())
        if (header["format"], header["version"]) != (_FORMAT, _VERSION):
            return  # File names depend on the version: none of these is reused.
        digests = {e["name"]: e["sha256"] for e in header["arrays"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        digests = {}
        for file in folder.iterdir():
            if _FILE_NAME.fullmatch(file.name) and file.name not in {MANIFEST, LOCK}:
                file.unlink(missing_ok=True)
    for name, digest in digests.items():
        file = folder / name
        is_own = _FILE_NAME.fullmatch(name) and file.is_file()
        if is_own and file_digest(file) != digest:
            file.unlink()


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest of an index, and checks that its files exist in full size.

    Raises:
        IndexFileError: If there is none, or it is damaged, edited, or of another
            version, or files are missing or cut short.
    """
    path = folder / MANIFEST
    _check_manifest_exists(folder)
    try:
        header = json.loads(path.read_bytes())
        form, version = header["format"], header["version"]
        if (form, version) != (_FORMAT, _VERSION):
            raise IndexFileError(
                f"{path} is version {version} of {form!r}, this program reads version "
                f"{_VERSION} of {_FORMAT!r}: build the index again."
            )
        stored = header.pop("fingerprint")
        entries = header["arrays"]
        missing = [name for name in REQUIRED if name not in entries]
        if missing:
            raise IndexFileError(
                f"{path} names no array {missing[0]!r}: build the index again."
            )
        sizes = {folder / entry["name"]: entry["bytes"] for entry in entries.values()}
        if any(file.parent != folder for file in sizes):
            raise ValueError("files outside of the folder")
    except IndexFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IndexFileError(
            f"{path} is damaged ({error!r}): build the index again."
        ) from error
    if stored != _header_fingerprint(header):
        raise IndexFileError(
            f"{path} was edited (its fingerprint does not fit): build the index again."
        )
    _check_file_sizes(sizes)
    return header | {"fingerprint": stored}


def _check_manifest_exists(folder: pathlib.Path) -> None:
    if (folder / MANIFEST).is_file():
        return
    old_manifest = next(
        (name for name in _OLD_MANIFESTS if (folder / name).is_file()), None
    )
    if old_manifest is not None:
        raise IndexFileError(
            f"{folder} holds an index of an earlier format ({old_manifest}): build the "
            "index again."
        )
    raise IndexFileError(f"{folder} holds no index ({MANIFEST} is missing): build one.")


def _check_file_sizes(sizes: Mapping[pathlib.Path, int]) -> None:
    for file, size in sizes.items():
        if not file.is_file():
            raise IndexFileError(f"{file} is missing: build the index again.")
        if file.stat().st_size != size:
            raise IndexFileError(
                f"{file} is cut short or edited ({file.stat().st_size} bytes, not "
                f"{size}): build the index again."
            )


def read_store(folder: pathlib.Path, *, mmap: bool | None = None) -> Store:
    """Opens an index on disk; see `Index.open`."""
    header = read_manifest(folder)
    if mmap is None:
        size = sum(entry["bytes"] for entry in header["arrays"].values())
        memory = available_memory()
        mmap = memory is not None and size > _LOADED_SHARE * memory
    arrays = {}
    for name, entry in header["arrays"].items():
        if name not in REQUIRED and name not in OPTIONAL:
            continue  # Written by a later version, for another purpose.
        path = folder / entry["name"]
        if not mmap:  # All of a mapped index would have to be read.
            _check_hash(path, entry["sha256"])
        try:
            array = map_array(path) if mmap else np.load(path, allow_pickle=False)
            matches = array.dtype.str == entry["dtype"]
            if not matches or list(array.shape) != entry["shape"]:
                raise ValueError(f"{array.dtype} {list(array.shape)}")
        except _ARRAY_ERRORS as error:
            raise IndexFileError(
                f"{path} is damaged ({error}): build the index again."
            ) from error
        arrays[name] = array
    if not mmap:
        _check_number_ranges(folder, arrays)
    return Store(arrays, read_facts(folder, header), is_mapped=mmap)


def _check_number_ranges(folder: pathlib.Path, arrays: Arrays) -> None:
    """Validates the ranges of node, row and image numbers in loaded arrays.

    Raises:
        IndexFileError: Naming the first array with a number out of range.
    """
    n, edges = len(arrays["order"]), len(arrays["graph_columns"])
    limits = {"order": n, "inverse_order": n, "indices": n, "graph_columns": n}
    limits |= {"component_nodes": n, "offline_indices": n}
    lowest: dict[str, int] = {"indices": -1, "offline_indices": -1}
    ends = {"image_starts": n, "graph_starts": edges}
    ends |= {"cluster_starts": n, "component_starts": n}
    ends |= {"id_starts": len(arrays["ids"])} if "ids" in arrays else {}
    invalid = [
        name
        for name, limit in limits.items()
        if name in arrays
        and arrays[name].size
        and not lowest.get(name, 0) <= arrays[name].min() <= arrays[name].max() < limit
    ]
    for name, end in ends.items():
        starts = arrays.get(name)
        if starts is not None and not (
            starts[0] == 0 and starts[-1] == end and (np.diff(starts) >= 0).all()
        ):
            invalid.append(name)
    if not invalid:
        nodes = arrays["inverse_order"][arrays["order"]]
        invalid += [] if np.array_equal(nodes, np.arange(n)) else ["order"]
    if invalid:
        raise IndexFileError(
            f"{folder} is damaged ({invalid[0]} holds numbers that point nowhere): "
            "build the index again."
        )


def verify(folder: str | pathlib.Path) -> None:
    """Compares every byte of an index on disk with its hash.

    Args:
        folder: Folder of the index.

    Raises:
        IndexFileError: If there is none, or it is damaged, or bytes were changed.
    """
    folder = pathlib.Path(folder)
    for entry in read_manifest(folder)["arrays"].values():
        _check_hash(folder / entry["name"], entry["sha256"])


def _check_hash(path: pathlib.Path, expected: str) -> None:
    """Compares the bytes of a file with their hash.

    Raises:
        IndexFileError: If they were changed.
    """
    if file_digest(path) != expected:
        raise IndexFileError(
            f"{path} was changed (its hash does not fit): build the index again."
        )


def describe_file(folder: str | pathlib.Path) -> dict[str, str]:
    """Describes an index on disk without loading it.

    Args:
        folder: Folder of the index.

    Returns:
        Properties of the index by name, as text.

    Raises:
        IndexFileError: As `Index.open`.
    """
    folder = pathlib.Path(folder)
    header = read_manifest(folder)
    entries = header["arrays"]
    store = read_store(folder, mmap=True)
    facts = store.facts
    regions, k = entries["indices"]["shape"]
    images = entries["image_starts"]["shape"][0] - 1
    size = sum(entry["bytes"] for entry in entries.values())
    search = facts.config.search.resolve(
        regions,
        clustered="centroids" in entries,
        offline=facts.offline is not None,
    )
    share = "" if facts.recall is None else f", {facts.recall:.1%} of the true ones"
    lines = {
        "images": f"{images:,}",
        "regions": f"{regions:,}, {regions / max(images, 1):.1f} an image",
        "dimensions": str(store.dim),
        "neighbours": f"{k} of each region{share and share + ' (on a sample)'}",
        "stored edges": f"{entries['graph_columns']['shape'][0]:,}",
        "size": f"{size / 2**20:.1f} MiB, of which vectors "
        f"{entries['vectors']['bytes'] / 2**20:.1f} ({facts.config.graph.storage})",
        "version": str(header["version"]),
        "fingerprint": header["fingerprint"][:16],
        "graph settings": _settings_text(facts.config.resolve(regions).graph),
        "search settings": _settings_text(search),
    }
    if "centroids" in entries:
        lines["clusters"] = f"{entries['centroids']['shape'][0]:,}"
    pictures = facts.pictures
    if pictures is not None:
        described = dataclasses.asdict(pictures.descriptor).items()
        lines |= {
            "pictures from": pictures.folder,
            "network": pictures.network,
            "weights": pictures.descriptor.weights or "by name",
            "described with": ", ".join(
                f"{name} {value}"
                for name, value in described
                if name not in {"network", "weights"} and value is not None
            ),
            "skipped": ", ".join(pictures.skipped) or "none",
        }
    return lines


def _settings_text(config: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(config).items())


def read_facts(folder: pathlib.Path, header: Mapping[str, Any]) -> Facts:
    """Reads the metadata of an index from its manifest.

    Raises:
        IndexFileError: If settings are none of this version, or out of their range.
    """
    try:
        return Facts(
            config=config_from_json(header["config"]),
            recall=header["recall"],
            offline=header["offline"],
            pictures=_pictures_from_json(header["pictures"]),
            source=tuple(header["source"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IndexFileError(
            f"{folder} has settings that are refused ({error}): build the index again."
        ) from error


def _pictures_from_json(stored: dict[str, Any] | None) -> IndexedPictures | None:
    if stored is None:
        return None
    fields: dict[str, Any] = {
        **stored,
        "names": tuple(stored["names"]),
        "descriptor": descriptor_config_from_json(stored["descriptor"]),
    }
    return IndexedPictures(**fields)


def _pictures_to_json(pictures: IndexedPictures | None) -> dict[str, Any] | None:
    if pictures is None:
        return None
    return pictures._asdict() | {"descriptor": dataclasses.asdict(pictures.descriptor)}


def _header_fingerprint(header: Mapping[str, Any]) -> str:
    """Hash of a manifest: of settings, metadata and the arrays' hashes."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
