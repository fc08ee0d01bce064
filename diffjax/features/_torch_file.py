"""Reading torch's files without torch, and without running what they contain."""

import errno
import mmap
import pathlib
import struct
import zipfile
from typing import Any, BinaryIO

from ._state_dict import Checkpoint, checkpoint_from
from ._torch_pickle import PICKLE_ERRORS, Budget, Storage, TorchUnpickler
from ._torch_values import Elements, plain_values
from ._torch_zip import read_zip

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
    ...) among other things; see `checkpoint_from` for which is taken.

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
            return checkpoint_from(_contents(file), source=str(path))
        except (*PICKLE_ERRORS, *_ZIP_ERRORS) as error:
            cause, reason = error, str(error)
        except OSError as error:
            # A place before the file's start, where its directory sent the zip library.
            if error.errno != errno.EINVAL:
                raise
            cause, reason = error, "its directory points outside"
    reason = " ".join(reason.split()).rstrip(".") or type(cause).__name__
    raise ValueError(f"{path}: no readable torch state dict: {reason}.") from cause


def _contents(file: BinaryIO) -> Any:
    """Reads a file of either container, as plain values."""
    head = file.read(len(_ZIP_SIGNATURE))
    if not head:
        raise ValueError("it is empty")
    # Reads beyond the end of a map give what there is and allocate no more. It is
    # closed when the last array that looks at it is gone.
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    budget = Budget(len(mapped))
    if head == _ZIP_SIGNATURE:
        return read_zip(file, budget=budget, file_size=len(mapped))
    return _read_legacy(mapped, budget=budget)


def _read_legacy(mapped: mmap.mmap, *, budget: Budget) -> Any:
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
    elements = _find_storages(mapped, [storages[key] for key in keys])
    return plain_values(root, elements=elements, budget=budget)


def _find_storages(mapped: mmap.mmap, storages: list[Storage]) -> dict[str, Elements]:
    """Finds the elements of each storage, which follow in order, after their number."""
    elements = {}
    for key, dtype, size in storages:
        header = mapped.read(8)
        start, left = mapped.tell(), len(mapped) - mapped.tell()
        if len(header) < 8 or left < size * dtype.itemsize:
            raise ValueError("it is cut short")
        if int.from_bytes(header, "little") != size:
            raise ValueError(f"storage {key} has not the {size} elements announced")
        elements[key] = Elements(mapped, start)
        mapped.seek(start + size * dtype.itemsize)
    return elements
