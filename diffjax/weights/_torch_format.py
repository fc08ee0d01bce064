"""Torch files, read without torch: the zip container and the one before 1.6."""

import errno
import io
import mmap
import pathlib
import struct
import zipfile
from typing import Any, BinaryIO

from ._checkpoint import Checkpoint, select_state_dict
from ._torch_pickle import (
    PICKLE_ERRORS,
    MemoryBudget,
    Storage,
    StorageBytes,
    TorchUnpickler,
    materialize_values,
)

_PICKLE_NAME = "data.pkl"
_ENCRYPTED_FLAG = 1


def read_torch_zip(file: BinaryIO, *, budget: MemoryBudget, file_size: int) -> Any:
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
        entries = _validate_entries(archive, file_size=file_size)
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


def _validate_entries(
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
    found = [name for name in entries if name.endswith(f"/{_PICKLE_NAME}")]
    if len(found) != 1:
        raise ValueError(
            f"it is a zip file with {len(found)} entries {_PICKLE_NAME}, not one"
        )
    folder = found[0].removesuffix(_PICKLE_NAME)
    if f"{folder}constants.pkl" in entries:
        raise ValueError("it holds a TorchScript program: save its state_dict() alone")
    return folder


_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_ZIP_SIGNATURE = b"PK\x03\x04"

# What a damaged or hostile file makes the zip library raise beyond the pickles'.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error)


def read_torch_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads the weights that `torch.save` wrote, in either of its containers.

    The older is a row of pickles (magic number, protocol version, facts about the
    machine that wrote it, the contents, keys of the storages) followed by the storages,
    each as its length and its elements; the newer is a zip file of the contents' pickle
    and the storages. A tensor is a view (offset, shape, strides) of a storage, and many
    are transposed: the strides are respected.

    The contents are a dict of tensors, or a dict that holds one ("state_dict", "model",
    ...) among other things; see `select_state_dict` for which is taken.

    Args:
        path: The file, usually `*.pth`, `*.pt` or `*.bin`.

    Returns:
        The tensors by name, and in `extras` what else there is.

    Raises:
        ValueError: If the file holds no dict of tensors, is cut short, announces more
            than it holds, or asks for any class beyond what weights need. Nothing in
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
            # A place before the file's start, where its directory sent the zip library.
            if error.errno != errno.EINVAL:
                raise
            cause, reason = error, "its directory points outside"
    reason = " ".join(reason.split()).rstrip(".") or type(cause).__name__
    raise ValueError(f"{path}: no readable torch state dict: {reason}.") from cause


def _read_contents(file: BinaryIO) -> Any:
    """Reads a file of either container, as plain values."""
    head = file.read(len(_ZIP_SIGNATURE))
    if not head:
        raise ValueError("it is empty")
    # Reads beyond the end of a map give what there is and allocate no more. It is
    # closed when the last array that looks at it is gone.
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    budget = MemoryBudget(len(mapped))
    if head == _ZIP_SIGNATURE:
        return read_torch_zip(file, budget=budget, file_size=len(mapped))
    return _read_legacy(mapped, budget=budget)


def _read_legacy(mapped: mmap.mmap, *, budget: MemoryBudget) -> Any:
    """Reads the container of before 1.6."""
    storages: dict[str, Storage] = {}

    def load() -> Any:
        return TorchUnpickler(mapped, budget=budget, storages=storages).load()

    magic_number, version, system = (load() for _ in range(3))
    if magic_number != _MAGIC_NUMBER:
        raise ValueError("it does not start with torch's magic number")
    if version != _PROTOCOL_VERSION:
        raise ValueError(f"its protocol is {version!r}, not {_PROTOCOL_VERSION}")
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise ValueError("it was not written on a little-endian machine")
    root, keys = load(), load()
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages does not fit its tensors")
    elements = _locate_storages(mapped, [storages[key] for key in keys])
    return materialize_values(root, elements=elements, budget=budget)


def _locate_storages(
    mapped: mmap.mmap, storages: list[Storage]
) -> dict[str, StorageBytes]:
    """Finds the elements of each storage, which follow in order, after their number."""
    elements = {}
    for key, dtype, size in storages:
        header = mapped.read(8)
        start, left = mapped.tell(), len(mapped) - mapped.tell()
        if len(header) < 8 or left < size * dtype.itemsize:
            raise ValueError("it is cut short")
        if int.from_bytes(header, "little") != size:
            raise ValueError(f"storage {key} has not the {size} elements announced")
        elements[key] = StorageBytes(mapped, start)
        mapped.seek(start + size * dtype.itemsize)
    return elements
