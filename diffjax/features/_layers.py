"""What the networks are made of: convolutions with a bias, max pooling, masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from ._convolution import Convolution


class ConvolutionLayer(nnx.Module):
    """A convolution and a bias, with the batch norm that followed folded into both."""

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
    """The weights of a convolution that does a batch norm's work, too.

    Attributes:
        kernel: Weights, as they were laid out before.
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
    """Folds a batch norm of evaluation mode into the convolution before it.

    With s = gain / sqrt(variance + epsilon), per output channel:

        kernel' = s kernel,    bias' = s (bias - mean) + offset.

    Args:
        kernel: Weights of the convolution, output channels last.
        bias: Its bias; None is 0.
        gain: The norm's factor, often called gamma or weight.
        offset: The norm's summand, often called beta or bias.
        mean: Running mean of the norm's inputs.
        variance: Running variance of the norm's inputs.
        epsilon: What the norm adds to the variance, above 0.

    Returns:
        The weights in float64.

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
        padding: How many cells the first window begins before the map, and the last
            may reach beyond it; they hold minus infinity.

    Returns:
        The largest cells; a window that the map cuts off is left out.
    """
    return jax.lax.reduce_window(
        maps,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def masked(
    maps: Float[Array, "b h w c"], sizes: Int[Array, "b 2"]
) -> Float[Array, "b h w c"]:
    """Sets to zero what is beyond the first (height, width) cells of each map."""
    rows = jnp.arange(maps.shape[1])[None] < sizes[:, :1]
    columns = jnp.arange(maps.shape[2])[None] < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, maps, 0)
