"""Torch files, read without torch: the zip container and the older one."""

import errno
import io
import mmap
import pathlib
import struct
import zipfile
from typing import Any, BinaryIO

from ._checkpoint import Checkpoint, select_state_dict
from ._torch_unpickler import (
    PICKLE_ERRORS,
    MemoryBudget,
    Storage,
    StorageBytes,
    TorchUnpickler,
    materialize_values,
)

_PICKLE_NAME = "data.pkl"
_ENCRYPTED_FLAG = 1
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_ZIP_SIGNATURE = b"PK\x03\x04"
# Errors of the zip library for damaged or hostile files, beside those of pickles.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error)


def read_torch_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads the weights in a file of `torch.save`, in either of its containers.

    The older container (before torch 1.6) is a sequence of pickles (magic number,
    protocol version, description of the machine, the contents, keys of the storages)
    followed by the storages, each as its length and its elements. The newer one is a
    zip file of the contents' pickle and the storages. A tensor is a view (offset,
    shape, strides) of a storage; many are transposed, and the strides are respected.

    The contents are a dict of tensors, or a dict that holds one ("state_dict", "model",
    ...) among other things; `select_state_dict` selects it.

    Args:
        path: Path of the file, usually `*.pth`, `*.pt` or `*.bin`.

    Returns:
        The tensors by name; `extras` holds the other contents.

    Raises:
        ValueError: If the file holds no dict of tensors, is cut short, announces more
            than it holds, or asks for any class beyond what weights need. No code in
            the file is ever run.
        OSError: If the file can't be read.

    References:
        torch/serialization.py of PyTorch, `_legacy_save`, `_legacy_load`, `_save` and
        `_load`, https://github.com/pytorch/pytorch.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        try:
            return select_state_dict(_read_contents(file), source=str(path))
        except (*PICKLE_ERRORS, *_ZIP_ERRORS) as error:
            cause, reason = error, str(error)
        except OSError as error:
            # The zip directory refers to an offset before the start of the file.
            if error.errno != errno.EINVAL:
                raise
            cause, reason = error, "its directory points outside"
    reason = " ".join(reason.split()).rstrip(".") or type(cause).__name__
    raise ValueError(f"{path}: no readable torch state dict: {reason}.") from cause


def _read_contents(file: BinaryIO) -> Any:
    """Reads either container, as plain values."""
    head = file.read(len(_ZIP_SIGNATURE))
    if not head:
        raise ValueError("it is empty")
    # Reading beyond the end of a memory map returns the bytes up to the end and
    # allocates no more. The map closes with the last array that refers to it.
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    budget = MemoryBudget(len(mapped))
    if head == _ZIP_SIGNATURE:
        return read_torch_zip(file, budget=budget, file_size=len(mapped))
    return _read_legacy(mapped, budget=budget)


def read_torch_zip(file: BinaryIO, *, budget: MemoryBudget, file_size: int) -> Any:
    """Reads a zip container: ROOT/data.pkl, and ROOT/data/KEY for each storage.

    Args:
        file: The open file.
        budget: Memory that the contents may take.
        file_size: Size of the file in bytes.

    Returns:
        Plain Python and NumPy values.

    Raises:
        ValueError: If it is another zip file, or differs from what torch writes. For
            damaged files the zip library raises errors of its own.
    """
    storages: dict[str, Storage] = {}
    with zipfile.ZipFile(file) as archive:
        entries = _list_valid_entries(archive, file_size=file_size)
        folder = _find_root_folder(entries)
        byte_order = entries.get(f"{folder}byteorder")
        if byte_order is not None and archive.read(byte_order) != b"little":
            raise ValueError("it was not written on a little-endian machine")
        stream = io.BytesIO(archive.read(entries[folder + _PICKLE_NAME]))
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
            elements[key] = StorageBytes(archive.read(entry), 0)
    return materialize_values(root, elements=elements, budget=budget)


def _list_valid_entries(
    archive: zipfile.ZipFile, *, file_size: int
) -> dict[str, zipfile.ZipInfo]:
    """Lists the entries by name; refuses those that are larger than their stored bytes.

    Torch stores entries uncompressed. Entries whose sizes add up to more than the file
    overlap.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("it has two entries of one name")
    for name, entry in entries.items():
        if entry.flag_bits & _ENCRYPTED_FLAG:
            raise ValueError(f"entry {name} is encrypted")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.compress_size != entry.file_size:
            raise ValueError(f"entry {name} is compressed, which torch never does")
    if sum(entry.file_size for entry in entries.values()) > file_size:
        raise ValueError("it is cut short, or its entries overlap")
    return entries


def _find_root_folder(entries: dict[str, zipfile.ZipInfo]) -> str:
    """Finds the folder that holds the pickle; torch names it after the file."""
    pickles = [name for name in entries if name.endswith(f"/{_PICKLE_NAME}")]
    if len(pickles) != 1:
        raise ValueError(
            f"it is a zip file with {len(pickles)} entries {_PICKLE_NAME}, not one"
        )
    folder = pickles[0].removesuffix(_PICKLE_NAME)
    if f"{folder}constants.pkl" in entries:
        raise ValueError("it holds a TorchScript program: save its state_dict() alone")
    return folder


def _read_legacy(mapped: mmap.mmap, *, budget: MemoryBudget) -> Any:
    """Reads the older container, of torch before 1.6."""
    storages: dict[str, Storage] = {}

    def load_next() -> Any:
        return TorchUnpickler(mapped, budget=budget, storages=storages).load()

    magic_number, version, system = (load_next() for _ in range(3))
    if magic_number != _MAGIC_NUMBER:
        raise ValueError("it does not start with torch's magic number")
    if version != _PROTOCOL_VERSION:
        raise ValueError(f"its protocol is {version!r}, not {_PROTOCOL_VERSION}")
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise ValueError("it was not written on a little-endian machine")
    root, keys = load_next(), load_next()
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages does not fit its tensors")
    elements = _locate_storages(mapped, [storages[key] for key in keys])
    return materialize_values(root, elements=elements, budget=budget)


def _locate_storages(
    mapped: mmap.mmap, storages: list[Storage]
) -> dict[str, StorageBytes]:
    """Locates the elements of each storage; they follow their count, in order."""
    elements = {}
    for key, dtype, size in storages:
        header = mapped.read(8)
        start, remaining = mapped.tell(), len(mapped) - mapped.tell()
        if len(header) < 8 or remaining < size * dtype.itemsize:
            raise ValueError("it is cut short")
        if int.from_bytes(header, "little") != size:
            raise ValueError(f"storage {key} has not the {size} elements announced")
        elements[key] = StorageBytes(mapped, start)
        mapped.seek(start + size * dtype.itemsize)
    return elements
