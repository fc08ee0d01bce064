"""Convolutions, batch-norm folding, max pooling and padding masks of the networks."""

import functools
import operator
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

# On accelerators the default precision rounds float32 factors to fewer bits.
_PRECISION = jax.lax.Precision.HIGHEST
_LAYOUT = ("NHWC", "HWIO", "NHWC")


@runtime_checkable
class Convolution(Protocol):
    """Zero-padded convolution of feature maps.

    The result has ceil(h / stride) x ceil(w / stride) cells. Implementations differ in
    where they put the zeros: as few as possible, with the odd row and column at the end
    (`SAME` padding of TensorFlow), or the same number on all sides.
    """

    def __call__(
        self,
        maps: Float[Array, "b h w i"],
        kernel: Float[Array, "k l j o"],
        *,
        stride: int,
    ) -> Float[Array, "b y x o"]:
        """Convolves maps with a kernel.

        Args:
            maps: Feature maps, channels last.
            kernel: Weights, input channels before output channels.
            stride: Step between outputs in cells, a Python number of at least 1.

        Returns:
            The convolved maps.

        Raises:
            ValueError: If the implementation does not support the kernel's shape.
        """
        ...


def same_padding_convolution(
    maps: Float[Array, "b h w i"], kernel: Float[Array, "k l i o"], *, stride: int
) -> Float[Array, "b y x o"]:
    """Full convolution with the `SAME` padding of TensorFlow; a `Convolution`."""
    return jax.lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=_LAYOUT,
        precision=_PRECISION,
    )


def symmetric_padding_convolution(
    maps: Float[Array, "b h w i"], kernel: Float[Array, "k l i o"], *, stride: int
) -> Float[Array, "b y x o"]:
    """Full convolution with (k - 1) / 2 zeros on every side; a `Convolution`.

    VGG and ResNet pad like this. Unlike with `SAME` padding, the number of zeros before
    a map does not depend on its size, so a map may lie in a larger one of any parity.
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
    """1 x 1 convolution, as one matrix product over channels; a `Convolution`.

    Its windows are single cells, so it needs no padding of either kind.
    """
    if stride > 1:
        maps = maps[:, ::stride, ::stride]
    return jnp.matmul(maps, kernel[0, 0], precision=_PRECISION)


def depthwise_convolution(
    maps: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], *, stride: int
) -> Float[Array, "b y x c"]:
    """Depthwise convolution with `SAME` padding; a `Convolution`.

    XLA's grouped convolution takes about five times as long on CPU as k x l shifted
    multiply-adds, so the platform that the program is lowered for decides.
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
    """Depthwise convolution as XLA's grouped convolution; a `Convolution`."""
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
    """Depthwise convolution as k x l shifted multiply-adds; a `Convolution`."""
    rows, columns = kernel.shape[:2]
    padding = jax.lax.padtype_to_pads(
        maps.shape[1:3], (rows, columns), (stride, stride), "SAME"
    )
    padded = jnp.pad(maps, ((0, 0), *padding, (0, 0)))
    # Slices end just after the last position at which a window may start.
    row_end = padded.shape[1] - rows + 1
    column_end = padded.shape[2] - columns + 1
    products = [
        padded[:, i : i + row_end : stride, j : j + column_end : stride]
        * kernel[None, i : i + 1, j]
        for i in range(rows)
        for j in range(columns)
    ]
    return functools.reduce(operator.add, products)


class ConvolutionLayer(nnx.Module):
    """Convolution with a bias; the batch norm after it is folded into both."""

    def __init__(
        self,
        convolve: Convolution,
        shape: tuple[int, ...],
        *,
        stride: int = 1,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the weights of a kernel of shape [height, width, inputs, outputs]."""
        self.convolve = convolve
        self.stride = stride
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(shape[-1:]))

    def __call__(self, maps: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        """Convolves and adds the bias."""
        convolved = self.convolve(maps, self.kernel[...], stride=self.stride)
        return convolved + self.bias[None, None, None]


class FoldedConvolution(NamedTuple):
    """Weights of a convolution that includes the batch norm after it.

    Attributes:
        kernel: Weights, in the layout of the original kernel.
        bias: One number per output channel.
    """

    kernel: Float[np.ndarray, "h w i o"]
    bias: Float[np.ndarray, " o"]


def fold_batch_norm(
    kernel: Float[np.ndarray, "h w i o"],
    bias: Float[np.ndarray, " o"] | None = None,
    *,
    gain: Float[np.ndarray, " o"],
    offset: Float[np.ndarray, " o"],
    mean: Float[np.ndarray, " o"],
    variance: Float[np.ndarray, " o"],
    epsilon: float,
) -> FoldedConvolution:
    """Folds a batch norm in evaluation mode into the convolution before it.

    With s = gain / sqrt(variance + epsilon), per output channel:

        kernel' = s kernel,    bias' = s (bias - mean) + offset.

    Args:
        kernel: Weights of the convolution, output channels last.
        bias: Its bias; None is 0.
        gain: The norm's factor, often called gamma or weight.
        offset: The norm's summand, often called beta or bias.
        mean: Running mean of the norm's inputs.
        variance: Running variance of the norm's inputs.
        epsilon: Number that the norm adds to the variance, above 0.

    Returns:
        The folded weights in float64.

    Raises:
        ValueError: If `epsilon` is not above 0 or a variance is negative or NaN.

    References:
        Ioffe and Szegedy, Batch Normalization, ICML 2015,
        https://arxiv.org/abs/1502.03167.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}.")
    variance = np.asarray(variance, np.float64)
    if not (variance >= 0).all():
        worst = variance[~(variance >= 0)][0]
        raise ValueError(f"variance must be at least 0, got {worst}.")
    scale = np.asarray(gain, np.float64) / np.sqrt(variance + epsilon)
    shift = -np.asarray(mean, np.float64)
    if bias is not None:
        shift = shift + bias
    return FoldedConvolution(
        kernel=np.asarray(kernel, np.float64) * scale,
        bias=scale * shift + np.asarray(offset, np.float64),
    )


def max_pool(
    maps: Float[Array, "b h w c"], *, size: int, stride: int, padding: int = 0
) -> Float[Array, "b y x c"]:
    """Takes the largest cell of each window of size x size cells.

    Args:
        maps: Feature maps, channels last.
        size: Side of a window in cells.
        stride: Step between windows in cells.
        padding: Cells of minus infinity added on every side of the map.

    Returns:
        The largest cells; windows that reach beyond the padded map are left out.
    """
    return jax.lax.reduce_window(
        maps,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def mask_padding(
    maps: Float[Array, "b h w c"], sizes: Int[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """Sets the padding of each map to zero: all but its first (height, width) cells."""
    rows = jnp.arange(maps.shape[1])[None] < sizes[:, :1]
    columns = jnp.arange(maps.shape[2])[None] < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, maps, 0)
