"""The JSON that says what an index on disk is, and names the files of its arrays."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from diffjax._io import file_digest, write_atomically


class IndexFileError(ValueError):
    """An index on disk that can't be used; the message says what to do."""


class Format(NamedTuple):
    """What a header says first: which kind of index it is of, and which version."""

    kind: str
    version: int


def write_header(
    path: pathlib.Path, form: Format, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Renames a header into place, which is the commit of an index.

    Args:
        path: Where it goes.
        form: Of which kind it is.
        facts: What it says, JSON values: settings and, with their hashes, the files.

    Returns:
        The header, with a fingerprint of all that.
    """
    header = {"format": form.kind, "version": form.version, **facts}
    header["fingerprint"] = _fingerprint(header)
    # Escaped to ASCII: a file name may hold bytes that are no text.
    text = json.dumps(header, indent=1, sort_keys=True)
    write_atomically(path, (text + "\n").encode())
    return header


def read_header_file(path: pathlib.Path, form: Format) -> dict[str, Any]:
    """Reads a header and looks whether the files that it names are there, whole.

    Args:
        path: Of the header, which is there.
        form: Of which kind it must be.

    Raises:
        IndexFileError: If it is damaged, edited, or of another kind or version, or
            files are missing or cut short.
    """
    try:
        header = json.loads(path.read_bytes())
        found = Format(header["format"], header["version"])
        if found != form:
            raise IndexFileError(
                f"{path} is version {found.version} of {found.kind!r}, this program "
                f"reads version {form.version} of {form.kind!r}: build the index again."
            )
        fingerprint = header.pop("fingerprint")
        sizes = {path.parent / each["name"]: each["bytes"] for each in files_of(header)}
    except IndexFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IndexFileError(
            f"{path} is damaged ({error!r}): build the index again."
        ) from error
    if fingerprint != _fingerprint(header):
        raise IndexFileError(
            f"{path} was edited (its fingerprint does not fit): build the index again."
        )
    for file, size in sizes.items():
        if not file.is_file():
            raise IndexFileError(f"{file} is missing: build the index again.")
        if file.stat().st_size != size:
            raise IndexFileError(
                f"{file} is cut short or edited ({file.stat().st_size} bytes, not "
                f"{size}): build the index again."
            )
    return header | {"fingerprint": fingerprint}


def files_of(header: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The files that a header names: one of all arrays, or one of each."""
    arrays = header["arrays"]
    return [arrays] if "name" in arrays else arrays.values()


def verify_files(folder: pathlib.Path, header: Mapping[str, Any]) -> None:
    """Compares every byte of the files that a header names with its hash.

    Raises:
        IndexFileError: If a file was changed.
    """
    for each in files_of(header):
        path = folder / each["name"]
        if file_digest(path) != each["sha256"]:
            raise IndexFileError(
                f"{path} was changed (its hash does not fit): build the index again."
            )


def _fingerprint(header: Mapping[str, Any]) -> str:
    """Hashes settings, facts and, through their own hashes, the arrays."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
