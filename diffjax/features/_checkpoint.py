"""One reader for all files of weights."""

import pathlib
import re

from diffjax.matlab import is_matlab

from ._matconvnet import read_matconvnet_file
from ._safetensors_file import read_safetensors_file
from ._state_dict import Checkpoint
from ._torch_file import read_torch_file

_HEAD = 1024
_ZIP = re.compile(rb"PK\x03\x04")
# Protocol 2 and the magic number of 80 bits, with which torch's older container starts.
_TORCH_LEGACY = re.compile(rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.")
# The length of the header, below 16 MB, and the header, which is JSON.
_SAFETENSORS = re.compile(rb".{3}\x00{5}\{", re.DOTALL)

# What is found instead of weights, with what to do about it.
_OTHERS = {
    re.compile(rb"version https://git-lfs"): (
        "the place holder of a file in git LFS: fetch the file itself with git lfs pull"
    ),
    re.compile(rb"\s*(<!doctype html|<html|<\?xml|<head)", re.IGNORECASE): (
        "a web page, perhaps an error message of the server: download it again"
    ),
    re.compile(rb"\s*[\[{]"): "a text in JSON, perhaps an error message of the server",
    re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf"): (
        "a compressed file: unpack it first"
    ),
    re.compile(rb".{257}ustar", re.DOTALL): "a tar archive: unpack it first",
    re.compile(rb"\x93NUMPY"): "a single NumPy array",
    re.compile(rb"\x80[\x02-\x05]"): "a pickle that torch did not write",
    re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8"): "a picture",
}


def read_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Reads a file of weights; its first bytes tell its kind, whatever its name.

    Known are both containers of `torch.save`, safetensors, and MatConvNet's networks in
    MATLAB's versions 5 to 7.3. Nothing in any of them is ever run.

    Args:
        path: The file.

    Returns:
        Its tensors by name, and what else it holds.

    Raises:
        ValueError: If it is of another kind, in which case the message says what it
            seems to be, or is damaged, or holds no weights.
        OSError: If the file can't be read.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not a file of weights.")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if is_matlab(head):
        return read_matconvnet_file(path)
    if _SAFETENSORS.match(head):
        return read_safetensors_file(path)
    if _ZIP.match(head) or _TORCH_LEGACY.match(head):
        return read_torch_file(path)
    raise ValueError(f"{path}: no file of weights; it seems to be {_guess(head)}.")


def _guess(head: bytes) -> str:
    """Says what a file seems to be that is of no known kind."""
    if not head:
        return "empty"
    for pattern, name in _OTHERS.items():
        if pattern.match(head):
            return name
    return f"of a kind not known here, which starts with {head[:16]!r}"
