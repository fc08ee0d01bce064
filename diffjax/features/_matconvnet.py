"""The networks that MatConvNet saves in MATLAB files."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

from diffjax.matlab import read_matlab

from ._state_dict import Checkpoint, own_array

_CONVOLUTIONS = {"conv", "dagnn.Conv"}
_BATCH_NORMS = {"bnorm", "dagnn.BatchNorm"}

_Named = tuple[str, Shaped[np.ndarray, "..."]]


def read_matconvnet_file(path: str | pathlib.Path) -> Checkpoint:
    """Reads a SimpleNN or a saved DagNN, with the names and shapes that torch has.

    A convolution NAME gives NAME.weight [out, in, h, w] and NAME.bias [out]. A batch
    norm gives NAME.weight, NAME.bias, NAME.running_mean and NAME.running_var, all [c];
    MatConvNet keeps the deviation sqrt(variance + epsilon), so its square is a variance
    that holds the epsilon already. Any other parameter keeps its shape, and its name in
    a DagNN; in a SimpleNN, where it has none, it is NAME.weights.NUMBER.

    Args:
        path: The file, of any version of MATLAB; its variables are the network's
            fields, or the one variable `net` holds them.

    Returns:
        The weights. The extras hold `layers`, the list of (name, type); `average_image`
        [3], the mean over space in RGB from 0 to 255, where the network has one; and
        `meta`, what else MatConvNet says of the network.

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
            for number, layer in enumerate(_records(network["layers"]), 1)
        ]
        if "params" in network:
            weights = _dag_weights(layers, _records(network["params"]))
        else:
            weights = _simple_weights(layers)
        tensors = {name: own_array(array) for name, array in weights}
        extras = _meta(network)
        extras["layers"] = [(layer["name"], layer["type"]) for layer in layers]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{path}: its network is not as MatConvNet saves one: {reason}."
        ) from error
    return Checkpoint(tensors, extras, str(path))


def _records(value: Any) -> list[dict[str, Any]]:
    """A list of structs, whether it was a cell or a struct array, perhaps of one."""
    records = [value] if isinstance(value, dict) else value
    if not isinstance(records, list) or any(type(r) is not dict for r in records):
        raise ValueError("it has no list of layers or parameters")
    return records


def _simple_weights(layers: list[dict[str, Any]]) -> Iterator[_Named]:
    """Lists the tensors of a chain of layers, each of which has its own."""
    for layer in layers:
        # Old files have a field for each kernel and bias.
        weights = layer.get("weights", [layer.get("filters"), layer.get("biases")])
        names = [f"{layer['name']}.weights.{n}" for n, _ in enumerate(weights)]
        yield from _tensors(layer, dict(zip(names, weights, strict=True)))


def _dag_weights(
    layers: list[dict[str, Any]], parameters: list[dict[str, Any]]
) -> Iterator[_Named]:
    """Lists the tensors of a graph of layers, which name their parameters."""
    values = {parameter["name"]: parameter["value"] for parameter in parameters}
    used = set()
    for layer in layers:
        names = list(layer["params"])
        used.update(names)
        yield from _tensors(layer, {name: values[name] for name in names})
    for name in values.keys() - used:
        yield name, values[name]


def _tensors(layer: dict[str, Any], weights: dict[str, Any]) -> Iterator[_Named]:
    """Lists the tensors of a layer; what it has left empty is none."""
    name, kind = layer["name"], layer["type"]
    present = {
        n: np.asarray(w) for n, w in weights.items() if np.size(w) and w is not None
    }
    if kind in _CONVOLUTIONS:
        if not present:
            raise ValueError(f"convolution {name} has no kernel")
        kernel, *bias = present.values()
        # MATLAB drops the last axes where they are 1.
        kernel = kernel.reshape(*kernel.shape, *[1] * (4 - kernel.ndim))
        yield f"{name}.weight", kernel.transpose(3, 2, 0, 1)
        yield from ((f"{name}.bias", array.ravel()) for array in bias)
    elif kind in _BATCH_NORMS:
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


def _meta(network: dict[str, Any]) -> dict[str, Any]:
    """What MatConvNet says of the network; old files say it beside the layers."""
    old = {n: network[n] for n in ("classes", "normalization") if n in network}
    meta = network.get("meta", old)
    image = np.asarray(meta.get("normalization", {}).get("averageImage", []))
    if not image.size:
        return {"meta": meta}
    colours = image.ravel() if image.size == 3 else image.mean((0, 1), np.float64)
    if colours.shape != (3,):
        raise ValueError(f"its average image has shape {image.shape}")
    return {"meta": meta, "average_image": colours.astype(np.float64)}
