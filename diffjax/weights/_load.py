"""Network loading from a weights file: tensors, pixel scaling, power, whitenings."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

from diffjax._io import file_digest
from diffjax.networks import (
    VGG16,
    ConvolutionLayer,
    EfficientNetLite0,
    Network,
    PixelScaling,
    fold_batch_norm,
    resnet50,
    resnet101,
)
from diffjax.types import Whitening

from ._checkpoint import Checkpoint, PretrainedNetwork
from ._formats import read_checkpoint
from ._names import LayerTensors, NameMap, detect_name_map

_ARCHITECTURES: Mapping[str, Callable[..., Network]] = MappingProxyType(
    {
        "vgg16": VGG16,
        "resnet50": resnet50,
        "resnet101": resnet101,
        "efficientnet-lite0": EfficientNetLite0,
    }
)
_END_TO_END = "end-to-end"  # Whitening that was learned with the network.
_BIAS_TOLERANCE = 1e-4  # Error of a layer's bias over its largest entry.
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def network_names() -> tuple[str, ...]:
    """Lists the architectures that `load_network` supports."""
    return tuple(_ARCHITECTURES)


def load_network(architecture: str, path: str | os.PathLike[str]) -> PretrainedNetwork:
    """Loads a network from a weights file.

    The file may have any format that `read_checkpoint` reads, with tensors named as by

    - torchvision: vgg16, resnet50, resnet101;
    - timm: the same, and its tf_efficientnet_lite0 (not its efficientnet_lite0, whose
      tensors look the same but need another padding);
    - cirtorch (cnnimageretrieval-pytorch): complete networks of vgg16, resnet50 and
      resnet101, and files of features alone;
    - MatConvNet: vgg16;
    - lukemelas (EfficientNet-PyTorch and the pip package): efficientnet-lite0.

    The names of the tensors tell which of them it is. Every tensor is then used once,
    or is known and not needed, such as the classifiers of VGG16 and ResNet. Batch norms
    are folded into the convolutions, in float64.

    Args:
        architecture: Name of the network, one of `network_names`.
        path: Path of the file.

    Returns:
        The network, with the pooling power and the whitenings of the file.

    Raises:
        ValueError: If the architecture is unknown, or the file is damaged, of another
            format or of another network, has a tensor too many or too few, or one of
            another shape or with numbers that are not finite.
        OSError: If the file can't be read.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {', '.join(_ARCHITECTURES)}, got "
            f"{architecture!r}."
        )
    path = pathlib.Path(path)
    checkpoint = read_checkpoint(path)
    table = detect_name_map(architecture, checkpoint.tensors, source=checkpoint.source)
    build = functools.partial(
        _ARCHITECTURES[architecture],
        scaling=_choose_scaling(table, checkpoint),
        kernel_init=nnx.initializers.zeros,
    )
    # Shapes alone: random weights are not needed.
    network = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    fill_network(network, checkpoint.tensors, table, source=f"{path} as {architecture}")
    return PretrainedNetwork(
        network=network,
        architecture=architecture,
        naming=table.name,
        fingerprint=file_digest(path),
        gem_power=read_gem_power(checkpoint) if table.extra_tensors else None,
        whitenings=read_whitenings(checkpoint) if table.extra_tensors else {},
    )


def _choose_scaling(table: NameMap, checkpoint: Checkpoint) -> PixelScaling:
    """Chooses the pixel scaling: that of the file, else the usual one."""
    if table.scaling is not None:
        stated = read_pixel_scaling(checkpoint) if table.extra_tensors else None
        return table.scaling if stated is None else stated
    average = checkpoint.extras.get("average_image")
    if not isinstance(average, np.ndarray) or average.shape != (3,):
        raise ValueError(
            f"{checkpoint.source}: the file must hold an average image of three "
            f"colours, got {'none' if average is None else average}."
        )
    red, green, blue = average.astype(np.float64).tolist()
    return PixelScaling(mean=(red, green, blue), std=(1.0, 1.0, 1.0))


def fill_network(
    network: Network,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    table: NameMap,
    *,
    source: str = "The file",
) -> None:
    """Copies the tensors of a file into a network by a name map, each exactly once.

    Batch norms are folded into the convolutions before them, in float64.

    Args:
        network: Network whose weights are replaced; they may be shapes alone.
        tensors: Tensors of a file by name, among them all that the table requires.
        table: Name map of the file.
        source: Name of the file, for error messages.

    Raises:
        ValueError: If a tensor has another shape than its layer, is not of floating
            point or not finite, or a variance is below 0.
    """
    for name, layer in network.layers().items():
        _fill_layer(layer, tensors, table.layers[name], table.epsilon, source=source)


def _fill_layer(
    layer: ConvolutionLayer,
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    names: LayerTensors,
    epsilon: float,
    *,
    source: str,
) -> None:
    take_tensor = functools.partial(_take_tensor, tensors, source=source)
    rows, columns, inputs, outputs = layer.kernel.shape
    kernel = take_tensor(names.kernel, (outputs, inputs, rows, columns)).transpose(
        2, 3, 1, 0
    )
    bias = np.zeros(outputs)
    if names.bias is not None:
        bias = take_tensor(names.bias, (outputs,))
    if names.batch_norm is not None:
        gain, offset, mean, variance = (
            take_tensor(name, (outputs,)) for name in names.batch_norm_names()
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
    # JAX 0.12 compiles a program for each shape that jnp.asarray is given.
    layer.kernel.set_value(jax.device_put(kernel.astype(np.float32)))
    layer.bias.set_value(jax.device_put(bias.astype(np.float32)))


def _take_tensor(
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    name: str,
    shape: tuple[int, ...],
    *,
    source: str,
) -> Float[np.ndarray, "..."]:
    """Returns one tensor in double precision, checked."""
    tensor = tensors[name]
    # A matrix is a convolution that looks at one cell.
    allowed = (shape, shape[:2]) if shape[2:] == (1, 1) else (shape,)
    if tensor.shape not in allowed:
        raise ValueError(
            f"{source}: tensor {name} must have shape {shape}, got {tensor.shape}."
        )
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"{source}: tensor {name} must be of floating point, got {tensor.dtype}."
        )
    # The comparison is false for NaN, too.
    if not (np.abs(tensor) <= _FLOAT32_MAX).all():
        raise ValueError(
            f"{source}: the weights must be finite in single precision, got NaN, "
            f"infinite or larger numbers in tensor {name}."
        )
    return tensor.astype(np.float64).reshape(shape)


def read_pixel_scaling(checkpoint: Checkpoint) -> PixelScaling | None:
    """Reads the pixel scaling of a file; None where it states none.

    Raises:
        ValueError: If mean and deviation are not three numbers each.
    """
    meta = _expect_mapping(checkpoint.extras.get("meta"), "meta", checkpoint)
    if "mean" not in meta or "std" not in meta:
        return None
    mean, std = (
        _expect_array(meta[name], f"meta {name}", checkpoint)
        for name in ("mean", "std")
    )
    if mean.shape != (3,) or std.shape != (3,):
        raise ValueError(
            f"{checkpoint.source}: mean and std in meta must be three numbers each, "
            f"got {mean.tolist()} and {std.tolist()}."
        )
    # The file scales colours from 0 to 1.
    (r, g, b), (dr, dg, db) = (255 * mean).tolist(), (255 * std).tolist()
    return PixelScaling(mean=(r, g, b), std=(dr, dg, db))


def read_gem_power(checkpoint: Checkpoint) -> float | None:
    """Reads the power of generalised-mean pooling; None where the file has none.

    Raises:
        ValueError: If it is not one number above 0.
    """
    if "pool.p" not in checkpoint.tensors:
        return None
    power = _expect_array(checkpoint.tensors["pool.p"], "pool.p", checkpoint)
    if power.size != 1 or not power.item() > 0:
        raise ValueError(
            f"{checkpoint.source}: pool.p must be one number above 0, got "
            f"{power.reshape(-1)[:4].tolist()} of shape {power.shape}."
        )
    return float(power.item())


def read_whitenings(checkpoint: Checkpoint) -> dict[str, Whitening]:
    """Reads the whitenings of a file, by name.

    `end-to-end` is the layer that was learned with the network, y = W x + b. The others
    were fitted to its descriptors, y = P (x - m), for one scale and for several:
    `DATASET/ss` and `DATASET/ms`.

    Raises:
        ValueError: If a whitening has wrong shapes or is not finite, or the bias of the
            layer is not -W m for any m.

    References:
        cirtorch/networks/imageretrievalnet.py and cirtorch/utils/whiten.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    whitenings = {}
    layer = {
        name: checkpoint.tensors.get(f"whiten.{name}") for name in ("weight", "bias")
    }
    if any(tensor is not None for tensor in layer.values()):
        weight, bias = (
            _expect_array(tensor, f"whiten.{name}", checkpoint)
            for name, tensor in layer.items()
        )
        _check_matching_shapes("whiten", weight, bias, axis=0, checkpoint=checkpoint)
        whitenings[_END_TO_END] = _whitening_from_layer(
            weight, bias, source=checkpoint.source
        )
    meta = _expect_mapping(checkpoint.extras.get("meta"), "meta", checkpoint)
    for dataset, kinds in _expect_mapping(meta.get("Lw"), "Lw", checkpoint).items():
        for kind, value in _expect_mapping(kinds, f"Lw {dataset}", checkpoint).items():
            name = f"{dataset}/{kind}"
            fitted = _expect_mapping(value, f"Lw {name}", checkpoint)
            projection, mean = (
                _expect_array(fitted.get(key), f"{key} of Lw {name}", checkpoint)
                for key in ("P", "m")
            )
            mean = mean[:, 0] if mean.shape[1:] == (1,) else mean
            _check_matching_shapes(
                f"Lw {name}", projection, mean, axis=1, checkpoint=checkpoint
            )
            whitenings[name] = _make_whitening(mean, projection)
    return whitenings


def _whitening_from_layer(
    weight: Float[np.ndarray, "p d"], bias: Float[np.ndarray, " p"], *, source: str
) -> Whitening:
    """Converts W x + b to W (x - m), with the smallest m for which -W m is b."""
    mean, *_ = np.linalg.lstsq(weight, -bias)
    # The mean is used in single precision, and near a small singular value of W it may
    # be too large for that.
    error = np.abs(weight @ mean.astype(np.float32).astype(np.float64) + bias).max()
    if not error <= _BIAS_TOLERANCE * np.abs(bias).max():
        raise ValueError(
            f"{source}: whiten.bias must be -W m for some mean m, as it is where W, "
            f"whiten.weight, has full row rank; got one that is off by {error:.3g}."
        )
    return _make_whitening(mean, weight)


def _make_whitening(
    mean: Float[np.ndarray, " d"], projection: Float[np.ndarray, "p d"]
) -> Whitening:
    return Whitening(
        mean=jnp.asarray(mean.astype(np.float32)),
        projection=jnp.asarray(projection.T.astype(np.float32)),
    )


def _expect_mapping(value: Any, name: str, checkpoint: Checkpoint) -> Mapping[Any, Any]:
    """Returns a mapping of the file, checked; an absent one is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{checkpoint.source}: {name} must be a mapping, got a "
            f"{type(value).__name__}."
        )
    return value


def _expect_array(
    value: Any, name: str, checkpoint: Checkpoint
) -> Float[np.ndarray, "..."]:
    """Returns numbers of the file in double precision, checked."""
    if value is None:
        raise ValueError(f"{checkpoint.source}: {name} is missing.")
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "fiu":
        raise ValueError(
            f"{checkpoint.source}: {name} must be numbers, got {type(value).__name__}."
        )
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"{checkpoint.source}: {name} must be finite, got NaN or infinite entries."
        )
    return numbers.astype(np.float64)


def _check_matching_shapes(
    name: str,
    matrix: Float[np.ndarray, "..."],
    vector: Float[np.ndarray, "..."],
    *,
    axis: int,
    checkpoint: Checkpoint,
) -> None:
    """Raises unless the vector is as long as the given axis of the matrix."""
    if matrix.ndim != 2 or not matrix.size or vector.shape != (matrix.shape[axis],):
        raise ValueError(
            f"{checkpoint.source}: {name} must be a matrix and a vector that fit, got "
            f"shapes {matrix.shape} and {vector.shape}."
        )
