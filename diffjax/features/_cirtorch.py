"""What cirtorch keeps beside a network: scaling, power of the pooling, whitenings."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.types import Whitening

from ._network import PixelScaling
from ._state_dict import Checkpoint

_END_TO_END = "end-to-end"  # The whitening that was learned with the network.
_ACCURACY = 1e-4  # Of a layer's bias, in parts of the largest of its numbers.


def scaling_of(checkpoint: Checkpoint) -> PixelScaling | None:
    """Reads how pixels are scaled; None where the file does not say it.

    Raises:
        ValueError: If mean and deviation are not three numbers each.
    """
    meta = _mapping(checkpoint.extras.get("meta"), "meta", checkpoint)
    if "mean" not in meta or "std" not in meta:
        return None
    mean, std = (
        _array(meta[name], f"meta {name}", checkpoint) for name in ("mean", "std")
    )
    if mean.shape != (3,) or std.shape != (3,):
        raise ValueError(
            f"{checkpoint.source}: mean and std in meta must be three numbers each, "
            f"got {mean.tolist()} and {std.tolist()}."
        )
    # They are of colours from 0 to 1.
    (r, g, b), (dr, dg, db) = (255 * mean).tolist(), (255 * std).tolist()
    return PixelScaling(mean=(r, g, b), std=(dr, dg, db))


def gem_power_of(checkpoint: Checkpoint) -> float | None:
    """Reads the power of generalised-mean pooling; None where there is none.

    Raises:
        ValueError: If it is not one number above 0.
    """
    if "pool.p" not in checkpoint.tensors:
        return None
    power = _array(checkpoint.tensors["pool.p"], "pool.p", checkpoint)
    if power.size != 1 or not power.item() > 0:
        raise ValueError(
            f"{checkpoint.source}: pool.p must be one number above 0, got "
            f"{power.reshape(-1)[:4].tolist()} of shape {power.shape}."
        )
    return float(power.item())


def whitenings_of(checkpoint: Checkpoint) -> dict[str, Whitening]:
    """Reads the whitenings of a file, by name.

    `end-to-end` is the layer that was learned with the network, y = W x + b. Others
    were fitted to its descriptors, y = P (x - m), for one scale and for several:
    `DATASET/ss` and `DATASET/ms`.

    Raises:
        ValueError: If one has not the shapes of a whitening, or is not finite, or the
            layer's bias is not -W m for any m.

    References:
        cirtorch/networks/imageretrievalnet.py and cirtorch/utils/whiten.py,
        https://github.com/filipradenovic/cnnimageretrieval-pytorch.
    """
    found = {}
    layer = {
        name: checkpoint.tensors.get(f"whiten.{name}") for name in ("weight", "bias")
    }
    if any(tensor is not None for tensor in layer.values()):
        weight, bias = (
            _array(tensor, f"whiten.{name}", checkpoint)
            for name, tensor in layer.items()
        )
        _check_shapes("whiten", weight, bias, axis=0, checkpoint=checkpoint)
        found[_END_TO_END] = _from_layer(weight, bias, source=checkpoint.source)
    meta = _mapping(checkpoint.extras.get("meta"), "meta", checkpoint)
    for dataset, kinds in _mapping(meta.get("Lw"), "Lw", checkpoint).items():
        for kind, parts in _mapping(kinds, f"Lw {dataset}", checkpoint).items():
            name = f"{dataset}/{kind}"
            fitted = _mapping(parts, f"Lw {name}", checkpoint)
            projection, mean = (
                _array(fitted.get(part), f"{part} of Lw {name}", checkpoint)
                for part in ("P", "m")
            )
            mean = mean[:, 0] if mean.shape[1:] == (1,) else mean
            _check_shapes(f"Lw {name}", projection, mean, axis=1, checkpoint=checkpoint)
            found[name] = _whitening(mean, projection)
    return found


def _from_layer(
    weight: Float[np.ndarray, "p d"], bias: Float[np.ndarray, " p"], *, source: str
) -> Whitening:
    """Writes W x + b as W (x - m), with the smallest m for which -W m is b."""
    mean, *_ = np.linalg.lstsq(weight, -bias)
    # As it will be used, in single precision: next to a small singular value of W the
    # mean may be too large for that.
    error = np.abs(weight @ mean.astype(np.float32).astype(np.float64) + bias).max()
    if not error <= _ACCURACY * np.abs(bias).max():
        raise ValueError(
            f"{source}: whiten.bias must be -W m for some mean m, as it is where W, "
            f"whiten.weight, has full row rank; got one that is off by {error:.3g}."
        )
    return _whitening(mean, weight)


def _whitening(
    mean: Float[np.ndarray, " d"], projection: Float[np.ndarray, "p d"]
) -> Whitening:
    return Whitening(
        mean=jnp.asarray(mean.astype(np.float32)),
        projection=jnp.asarray(projection.T.astype(np.float32)),
    )


def _mapping(value: Any, name: str, checkpoint: Checkpoint) -> Mapping[Any, Any]:
    """Takes a mapping of the file; what is absent is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{checkpoint.source}: {name} must be a mapping, got a "
            f"{type(value).__name__}."
        )
    return value


def _array(value: Any, name: str, checkpoint: Checkpoint) -> Float[np.ndarray, "..."]:
    """Takes numbers of the file in double precision."""
    if value is None:
        raise ValueError(f"{checkpoint.source}: {name} is missing.")
    found = np.asarray(value)
    if found.dtype.kind not in "fiu":
        raise ValueError(
            f"{checkpoint.source}: {name} must be numbers, got {type(value).__name__}."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{checkpoint.source}: {name} must be finite, got NaN or infinite entries."
        )
    return found.astype(np.float64)


def _check_shapes(
    name: str,
    matrix: Float[np.ndarray, "..."],
    vector: Float[np.ndarray, "..."],
    *,
    axis: int,
    checkpoint: Checkpoint,
) -> None:
    """Refuses a matrix and a vector that do not go together along an axis."""
    if matrix.ndim != 2 or not matrix.size or vector.shape != (matrix.shape[axis],):
        raise ValueError(
            f"{checkpoint.source}: {name} must be a matrix and a vector that fit, got "
            f"shapes {matrix.shape} and {vector.shape}."
        )
