"""Learned parameters on disk: one safetensors file that knows what it is for."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from diffjax._arguments import check_not_halved
from diffjax._files import write_whole

from ._parameters import PARAMETER_NAMES, Parameters, check_parameters

_FORMAT, _VERSION = "diffjax parameters", 1
_LEARN = "learn them again with `diffjax learn`"


class ParametersFileError(ValueError):
    """A file of parameters that can't be used; the message says what to do."""


class StoredParameters(NamedTuple):
    """What a file of parameters holds.

    Attributes:
        parameters: The parameters.
        fingerprint: Fingerprint of the index they were learned on.
        notes: What was said of how they were learned.
        diffjax: Version of the program that wrote them.
    """

    parameters: Parameters
    fingerprint: str
    notes: dict[str, Any]
    diffjax: str


def save_parameters(
    path: str | os.PathLike[str],
    parameters: Parameters,
    *,
    fingerprint: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes parameters into one safetensors file, whole or not at all.

    Beside the arrays it holds one text of JSON: format and version, the fingerprint of
    the index, the notes, this program's version, and a hash of all that and the arrays.
    There is no time stamp: the same parameters give the same bytes.

    Args:
        path: The file; an old one is replaced, and left as it is if the new one can't
            be written.
        parameters: Parameters in their ranges.
        fingerprint: Of the index they were learned on; see `Index.fingerprint`.
        notes: Settings, scores, seeds: anything that JSON can hold.

    Raises:
        ValueError: If a parameter is outside its range, `fingerprint` is empty, or
            `notes` holds what JSON can not.
        OSError: If the file can't be written.
    """
    if not fingerprint:
        raise ValueError("fingerprint must name the index, got an empty text.")
    check_parameters(parameters)
    arrays = {
        name: np.asarray(value, order="C")
        for name, value in parameters._asdict().items()
        if value is not None
    }
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": fingerprint,
        "notes": dict(notes or {}),
        "diffjax": version("diffjax"),
    }
    try:
        header["sha256"] = _digest(header, arrays)
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"notes must be what JSON can hold, got {error}.") from error
    write_whole(path, safetensors.numpy.save(arrays, metadata={_FORMAT: text}))


def load_parameters(
    path: str | os.PathLike[str], *, fingerprint: str | None = None
) -> StoredParameters:
    """Reads parameters that `save_parameters` wrote.

    Args:
        path: The file.
        fingerprint: Of the index they are to be used on; None does not ask.

    Returns:
        The parameters and what was stored beside them.

    Raises:
        ParametersFileError: If it is no file of parameters, damaged, of another
            version, or was made for another index.
        ValueError: If it holds double precision and that is not on.
        OSError: If it can't be read.
    """
    path = pathlib.Path(path)
    path.open("rb").close()  # The library's own error for what can't be read is bare.
    try:
        with safetensors.safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_FORMAT)
            if text is None:
                raise ParametersFileError(
                    f"{path} is no file of parameters, it holds something else: name "
                    "the file that `diffjax learn` wrote."
                )
            header = _read_header(path, text)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ParametersFileError(
            f"{path} is no file of parameters, or damaged ({reason}): {_LEARN}."
        ) from error
    digest = header.pop("sha256", None)
    if digest != _digest(header, arrays):
        raise ParametersFileError(
            f"{path} is damaged or edited (its hash does not fit): {_LEARN}."
        )
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        raise ParametersFileError(
            f"{path} was learned on another index (fingerprint "
            f"{header['fingerprint'][:16]}, this one has {fingerprint[:16]}): {_LEARN} "
            "on this index."
        )
    return StoredParameters(
        _parameters_of(path, arrays),
        header["fingerprint"],
        header["notes"],
        header["diffjax"],
    )


def _read_header(path: pathlib.Path, text: str) -> dict[str, Any]:
    """What a file says of itself, if it is of this version."""
    try:
        header = json.loads(text)
        kind, number = header["format"], header["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ParametersFileError(
            f"{path} is damaged ({error!r}): {_LEARN}."
        ) from error
    if (kind, number) != (_FORMAT, _VERSION):
        raise ParametersFileError(
            f"{path} is version {number} of {kind!r}, this program reads version "
            f"{_VERSION} of {_FORMAT!r}: {_LEARN}."
        )
    return header


def _parameters_of(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> Parameters:
    """The arrays as parameters; their hash fits, so this program or none wrote them."""
    for array in arrays.values():
        check_not_halved(str(path), array)
    if unknown := set(arrays) - set(PARAMETER_NAMES):
        raise ParametersFileError(
            f"{path} holds a parameter {min(unknown)!r} that this program does not "
            f"know: {_LEARN}."
        )
    try:
        made = Parameters(
            **{name: jnp.asarray(array) for name, array in arrays.items()}
        )
        check_parameters(made)
    except (TypeError, ValueError) as error:
        raise ParametersFileError(f"{path} is damaged ({error}): {_LEARN}.") from error
    return made


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """A hash of the header and of names, types, shapes and bytes of the arrays."""
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
