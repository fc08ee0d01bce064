"""The convolutions of the networks, each as the backend does it best."""

import functools
import operator
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Stated everywhere: on accelerators the default rounds float32 factors to fewer bits.
_PRECISION = jax.lax.Precision.HIGHEST
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@runtime_checkable
class Convolution(Protocol):
    """Convolves maps with zeros around them.

    The result has ceil(h / stride) x ceil(w / stride) cells. Where the zeros lie is a
    property of the kind: as few as TensorFlow's `SAME` padding has, the odd row and
    column at the end, or the same number on all sides.
    """

    def __call__(
        self,
        maps: Float[Array, "b h w i"],
        kernel: Float[Array, "k l j o"],
        *,
        stride: int,
    ) -> Float[Array, "b y x o"]:
        """Convolves.

        Args:
            maps: Feature maps, channels last.
            kernel: Weights, input channels before output channels.
            stride: Step between outputs in cells, a Python number of at least 1.

        Returns:
            The convolved maps.

        Raises:
            ValueError: If this kind of convolution has no such kernel.
        """
        ...


def full_convolution(
    maps: Float[Array, "b h w i"], kernel: Float[Array, "k l i o"], *, stride: int
) -> Float[Array, "b y x o"]:
    """Mixes space and channels with `SAME` padding; a `Convolution`."""
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=_LAYOUT,
        precision=_PRECISION,
    )


def symmetric_convolution(
    maps: Float[Array, "b h w i"], kernel: Float[Array, "k l i o"], *, stride: int
) -> Float[Array, "b y x o"]:
    """Mixes space and channels, (k - 1) / 2 zeros on every side; a `Convolution`.

    This is how VGG and ResNet pad. Unlike `SAME` padding the zeros before a map do not
    depend on its size, so a map may lie in a larger one of any parity.
    """
    rows, columns = kernel.shape[:2]
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(
            "kernel of a symmetric convolution must have odd sides, got "
            f"{rows} x {columns}."
        )
    margins = [(side // 2, side // 2) for side in (rows, columns)]
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        margins,
        dimension_numbers=_LAYOUT,
        precision=_PRECISION,
    )


def pointwise_convolution(
    maps: Float[Array, "b h w i"], kernel: Float[Array, "1 1 i o"], *, stride: int
) -> Float[Array, "b y x o"]:
    """Mixes channels only, as one matrix product; a `Convolution`.

    Its windows are single cells, so both kinds of padding are none.
    """
    if stride > 1:
        maps = maps[:, ::stride, ::stride]
    return jnp.matmul(maps, kernel[0, 0], precision=_PRECISION)


def depthwise_convolution(
    maps: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], *, stride: int
) -> Float[Array, "b y x c"]:
    """Mixes space only, every channel with its own kernel; a `Convolution`.

    XLA's grouped convolution takes about five times as long on CPU as k x l shifted
    multiply-adds, so the backend that the program is lowered for chooses.
    """
    return jax.lax.platform_dependent(
        maps,
        kernel,
        cpu=functools.partial(shifted_depthwise, stride=stride),
        default=functools.partial(grouped_depthwise, stride=stride),
    )


def grouped_depthwise(
    maps: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], *, stride: int
) -> Float[Array, "b y x c"]:
    """The depthwise convolution as the library's grouped one; a `Convolution`."""
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=_LAYOUT,
        feature_group_count=maps.shape[3],
        precision=_PRECISION,
    )


def shifted_depthwise(
    maps: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], *, stride: int
) -> Float[Array, "b y x c"]:
    """The depthwise convolution as k x l shifted multiply-adds; a `Convolution`."""
    rows, columns = kernel.shape[:2]
    padding = jax.lax.padtype_to_pads(
        maps.shape[1:3], (rows, columns), (stride, stride), "SAME"
    )
    padded = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    # The last start of a window, so that a slice ends just behind it.
    below = padded.shape[1] - rows + 1
    right = padded.shape[2] - columns + 1
    products = [
        padded[:, i : i + below : stride, j : j + right : stride]
        * kernel[None, i : i + 1, j]
        for i in range(rows)
        for j in range(columns)
    ]
    return functools.reduce(operator.add, products)
