"""Torch's container since 1.6: a zip file of one pickle and an entry per storage."""

import io
import zipfile
from typing import Any, BinaryIO

from ._torch_pickle import Budget, Storage, TorchUnpickler
from ._torch_values import Elements, plain_values

_PICKLE = "data.pkl"
_ENCRYPTED = 1


def read_zip(file: BinaryIO, *, budget: Budget, file_size: int) -> Any:
    """Reads what `torch.save` wrote: ROOT/data.pkl, and ROOT/data/KEY for each storage.

    Args:
        file: The file.
        budget: What the file may ask for.
        file_size: Its bytes.

    Returns:
        Plain Python and NumPy values.

    Raises:
        ValueError: If it is another zip file, or not as torch writes it; the zip
            library has other errors of its own for damaged files.
    """
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(file) as archive:
        entries = _checked_entries(archive, file_size=file_size)
        folder = _folder(entries)
        byte_order = entries.get(f"{folder}byteorder")
        if byte_order is not None and archive.read(byte_order) != b"little":
            raise ValueError("it was not written on a little-endian machine")
        stream = io.BytesIO(archive.read(entries[folder + _PICKLE]))
        root = TorchUnpickler(stream, budget=budget, storages=storages).load()
        elements = {}
        for key, storage in storages.items():
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise ValueError(f"storage {key} is missing")
            if entry.file_size != storage.size * storage.dtype.itemsize:
                raise ValueError(
                    f"storage {key} has {entry.file_size} bytes, not the "
                    f"{storage.size} elements announced"
                )
            elements[key] = Elements(archive.read(entry), 0)
    return plain_values(root, elements=elements, budget=budget)


def _checked_entries(
    archive: zipfile.ZipFile, *, file_size: int
) -> dict[str, zipfile.ZipInfo]:
    """Lists the entries by name; refuses what would come out larger than it lies there.

    Torch stores and does not compress. Entries whose sizes add up to more than the
    file lie on top of each other.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("it has two entries of one name")
    for name, entry in entries.items():
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError(f"entry {name} is encrypted")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.compress_size != entry.file_size:
            raise ValueError(f"entry {name} is compressed, which torch never does")
    if sum(entry.file_size for entry in entries.values()) > file_size:
        raise ValueError("it is cut short, or its entries overlap")
    return entries


def _folder(entries: dict[str, zipfile.ZipInfo]) -> str:
    """Finds the folder that holds the pickle; torch names it after the file."""
    found = [name for name in entries if name.endswith(f"/{_PICKLE}")]
    if len(found) != 1:
        raise ValueError(
            f"it is a zip file with {len(found)} entries {_PICKLE}, not one"
        )
    folder = found[0].removesuffix(_PICKLE)
    if f"{folder}constants.pkl" in entries:
        raise ValueError("it holds a TorchScript program: save its state_dict() alone")
    return folder
