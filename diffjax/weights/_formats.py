"""File formats of weights: safetensors, MatConvNet, and detection by first bytes."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors
from jaxtyping import Shaped

from diffjax.matlab import is_matlab, read_matlab

from ._checkpoint import Checkpoint, select_state_dict, to_native_array
from ._torch_format import read_torch_file

_HEADER_BYTES = 1024
_ZIP_MAGIC = re.compile(rb"PK\x03\x04")
# Protocol 2 and the magic number of 80 bits, with which torch's older container starts.
_TORCH_LEGACY_MAGIC = re.compile(rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.")
# The length of the header, below 16 MB, and the header, which is JSON.
_SAFETENSORS_MAGIC = re.compile(rb".{3}\x00{5}\{", re.DOTALL)
# Files of other kinds that are taken for weights, with the remedy.
_FOREIGN_FORMATS = {
    re.compile(rb"version https://git-lfs"): (
        "the placeholder of a file in git LFS: fetch the file itself with git lfs pull"
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
_CONVOLUTION_TYPES = {"conv", "dagnn.Conv"}
_BATCH_NORM_TYPES = {"bnorm", "dagnn.BatchNorm"}
_NamedTensor = tuple[str, Shaped[np.ndarray, "..."]]


def read_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Reads a weights file; its first bytes tell the format, not its name.

    The formats are both containers of `torch.save`, safetensors, and MatConvNet
    networks in MATLAB files of versions 5 to 7.3. No code in a file is ever run.

    Args:
        path: Path of the file.

    Returns:
        The tensors by name, and the other contents.

    Raises:
        ValueError: If the file has another format (the message says what it seems to
            be), is damaged, or holds no weights.
        OSError: If the file can't be read.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not a file of weights.")
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if is_matlab(head):
        return read_matconvnet_file(path)
    if _SAFETENSORS_MAGIC.match(head):
        return read_safetensors_file(path)
    if _ZIP_MAGIC.match(head) or _TORCH_LEGACY_MAGIC.match(head):
        return read_torch_file(path)
    raise ValueError(
        f"{path}: no file of weights; it seems to be {_guess_format(head)}."
    )


def _guess_format(head: bytes) -> str:
    """Describes a file of an unsupported format by its first bytes."""
    if not head:
        return "empty"
    for pattern, name in _FOREIGN_FORMATS.items():
        if pattern.match(head):
            return name
    return f"of an unknown format, which starts with {head[:16]!r}"


def read_safetensors_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads a safetensors file.

    Args:
        path: Path of the file, usually `*.safetensors`.

    Returns:
        The tensors by name, in the order of their offsets; the metadata, texts by name,
        are the extras.

    Raises:
        ValueError: If the file is damaged, or has a number type that NumPy lacks.
        OSError: If the file can't be read.

    References:
        https://github.com/huggingface/safetensors, section "Format".
    """
    path = pathlib.Path(path)
    path.open("rb").close()  # The library's error for unreadable files lacks the path.
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {
                name: to_native_array(file.get_tensor(name))
                for name in file.offset_keys()
            }
        return select_state_dict(tensors, source=str(path))._replace(extras=metadata)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path}: no readable safetensors file: {reason}.") from error


def read_matconvnet_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads a MatConvNet network (SimpleNN or DagNN), with names and shapes of torch.

    A convolution NAME becomes NAME.weight [out, in, h, w] and NAME.bias [out]. A batch
    norm becomes NAME.weight, NAME.bias, NAME.running_mean and NAME.running_var, all
    [c]; MatConvNet stores the deviation sqrt(variance + epsilon), so its square is a
    variance that includes the epsilon. Any other parameter keeps its shape and, in a
    DagNN, its name; parameters of a SimpleNN have none and become NAME.weights.NUMBER.

    Args:
        path: Path of the file, of any version of MATLAB. Its variables are the fields
            of the network, or its one variable `net` holds them.

    Returns:
        The weights. The extras hold `layers`, the list of (name, type); `average_image`
        [3], the mean over space in RGB from 0 to 255, where the network has one; and
        `meta`, the other metadata of MatConvNet.

    Raises:
        ValueError: If the file is damaged or holds no such network.
        OSError: If the file can't be read.

    References:
        Vedaldi and Lenc, MatConvNet, ACM MM 2015; matlab/simplenn/vl_simplenn_tidy.m,
        matlab/+dagnn and matlab/vl_nnbnorm.m of
        https://github.com/vlfeat/matconvnet.
    """
    contents = read_matlab(path)
    network = contents.get("net", contents)
    if not isinstance(network, dict) or "layers" not in network:
        raise ValueError(
            f"{path}: no MatConvNet network; its variables are {', '.join(contents)}."
        )
    try:
        layers = [
            {"name": f"layer{number}"} | layer
            for number, layer in enumerate(_list_structs(network["layers"]), 1)
        ]
        if "params" in network:
            weights = _dagnn_tensors(layers, _list_structs(network["params"]))
        else:
            weights = _simplenn_tensors(layers)
        tensors = {name: to_native_array(array) for name, array in weights}
        extras = _read_meta(network)
        extras["layers"] = [(layer["name"], layer["type"]) for layer in layers]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path}: its network is not as MatConvNet saves one: {reason}."
        ) from error
    return Checkpoint(tensors, extras, str(path))


def _list_structs(value: Any) -> list[dict[str, Any]]:
    """Converts a cell or a struct array, perhaps of one struct, to a list."""
    records = [value] if isinstance(value, dict) else value
    if not isinstance(records, list) or any(type(r) is not dict for r in records):
        raise ValueError("it has no list of layers or parameters")
    return records


def _simplenn_tensors(layers: list[dict[str, Any]]) -> Iterator[_NamedTensor]:
    """Lists the tensors of a SimpleNN, a chain of layers that hold their weights."""
    for layer in layers:
        # Old files have a field for each kernel and bias.
        weights = layer.get("weights", [layer.get("filters"), layer.get("biases")])
        names = [f"{layer['name']}.weights.{n}" for n, _ in enumerate(weights)]
        yield from _layer_tensors(layer, dict(zip(names, weights, strict=True)))


def _dagnn_tensors(
    layers: list[dict[str, Any]], parameters: list[dict[str, Any]]
) -> Iterator[_NamedTensor]:
    """Lists the tensors of a DagNN, whose layers refer to parameters by name."""
    values = {parameter["name"]: parameter["value"] for parameter in parameters}
    used = set()
    for layer in layers:
        names = list(layer["params"])
        used.update(names)
        yield from _layer_tensors(layer, {name: values[name] for name in names})
    for name in values.keys() - used:
        yield name, values[name]


def _layer_tensors(
    layer: dict[str, Any], weights: dict[str, Any]
) -> Iterator[_NamedTensor]:
    """Lists the tensors of a layer; empty weights are left out."""
    name, kind = layer["name"], layer["type"]
    present = {
        n: np.asarray(w) for n, w in weights.items() if np.size(w) and w is not None
    }
    if kind in _CONVOLUTION_TYPES:
        if not present:
            raise ValueError(f"convolution {name} has no kernel")
        kernel, *bias = present.values()
        # MATLAB drops the last axes where they are 1.
        kernel = kernel.reshape(*kernel.shape, *[1] * (4 - kernel.ndim))
        yield f"{name}.weight", kernel.transpose(3, 2, 0, 1)
        yield from ((f"{name}.bias", array.ravel()) for array in bias)
    elif kind in _BATCH_NORM_TYPES:
        if len(present) < 2:
            raise ValueError(f"batch norm {name} has {len(present)} parameters")
        gain, offset, *moments = present.values()
        yield f"{name}.weight", gain.ravel()
        yield f"{name}.bias", offset.ravel()
        for mean, deviation in (array.T for array in moments):
            yield f"{name}.running_mean", mean
            yield f"{name}.running_var", deviation**2
    else:
        yield from present.items()


def _read_meta(network: dict[str, Any]) -> dict[str, Any]:
    """Reads the metadata of a network; old files have it beside the layers."""
    outer_fields = {n: network[n] for n in ("classes", "normalization") if n in network}
    meta = network.get("meta", outer_fields)
    image = np.asarray(meta.get("normalization", {}).get("averageImage", []))
    if not image.size:
        return {"meta": meta}
    colours = image.ravel() if image.size == 3 else image.mean((0, 1), np.float64)
    if colours.shape != (3,):
        raise ValueError(f"its average image has shape {image.shape}")
    return {"meta": meta, "average_image": colours.astype(np.float64)}
