"""Weights out of a file, put into a network."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from ._layers import ConvolutionLayer, fold_batch_norm
from ._names import NameTable, Source
from ._network import Network

_LARGEST = float(np.finfo(np.float32).max)


def fill(
    network: Network,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    table: NameTable,
    *,
    source: str = "The file",
) -> None:
    """Puts the tensors that a table names into a network, each exactly once.

    Batch norms are folded into the convolutions before them, in float64.

    Args:
        network: Its weights are replaced; they may be shapes alone.
        tensors: What a file holds; all that the table needs must be there.
        table: The naming of the file.
        source: The file, for messages.

    Raises:
        ValueError: If a tensor has another shape than its layer, or is not of floating
            point or not finite, or a variance is below 0.
    """
    for name, layer in network.layers().items():
        _fill_layer(layer, tensors, table.layers[name], table.epsilon, source=source)


def _fill_layer(
    layer: ConvolutionLayer,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    names: Source,
    epsilon: float,
    *,
    source: str,
) -> None:
    take = functools.partial(_take, tensors, source=source)
    rows, columns, inputs, outputs = layer.kernel.shape
    kernel = take(names.kernel, (outputs, inputs, rows, columns)).transpose(2, 3, 1, 0)
    bias = np.zeros(outputs)
    if names.bias is not None:
        bias = take(names.bias, (outputs,))
    if names.batch_norm is not None:
        gain, offset, mean, variance = (
            take(name, (outputs,)) for name in names.statistics()
        )
        try:
            kernel, bias = fold_batch_norm(
                kernel,
                bias,
                gain=gain,
                offset=offset,
                mean=mean,
                variance=variance,
                epsilon=epsilon,
            )
        except ValueError as error:
            raise ValueError(
                f"{source}: batch norm {names.batch_norm} does not fit: {error}"
            ) from error
    layer.kernel.set_value(jnp.asarray(kernel.astype(np.float32)))
    layer.bias.set_value(jnp.asarray(bias.astype(np.float32)))


def _take(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    name: str,
    shape: tuple[int, ...],
    *,
    source: str,
) -> Float[np.ndarray, "..."]:
    """Takes one tensor in double precision."""
    tensor = tensors[name]
    # A matrix is a convolution that looks at one cell.
    fitting = (shape, shape[:2]) if shape[2:] == (1, 1) else (shape,)
    if tensor.shape not in fitting:
        raise ValueError(
            f"{source}: tensor {name} must have shape {shape}, got {tensor.shape}."
        )
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"{source}: tensor {name} must be of floating point, got {tensor.dtype}."
        )
    # False for NaN, too.
    if not (np.abs(tensor) <= _LARGEST).all():
        raise ValueError(
            f"{source}: the weights must be finite in single precision, got NaN, "
            f"infinite or larger numbers in tensor {name}."
        )
    return tensor.astype(np.float64).reshape(shape)
