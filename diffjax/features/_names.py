"""How files of weights name the layers of a network."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ._network import PixelScaling

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class Source(NamedTuple):
    """Where a layer's weights come from: a kernel, and a bias or a batch norm or both.

    Attributes:
        kernel: Name of its kernel in the file.
        bias: Name of its bias; None where it has none.
        batch_norm: Prefix of the names of the batch norm that follows; None where none
            does.
    """

    kernel: str
    bias: str | None = None
    batch_norm: str | None = None

    def names(self) -> tuple[str, ...]:
        """Lists the tensors: kernel, bias, then gain, offset, mean and variance."""
        found = (self.kernel,) if self.bias is None else (self.kernel, self.bias)
        return found if self.batch_norm is None else found + self.statistics()

    def statistics(self) -> tuple[str, ...]:
        """Lists gain, offset, mean and variance of the batch norm that follows."""
        return tuple(f"{self.batch_norm}.{name}" for name in _BATCH_NORM)


class NameTable(NamedTuple):
    """One way of naming the weights of one architecture.

    Attributes:
        name: Whose way it is.
        layers: The source of each layer, by the layer's name in the network.
        scaling: What happens to pixels before they enter the network; None where the
            file has to say it.
        epsilon: What is added to the variances of batch norms.
        beside: Tensors that are no part of the network and are read all the same; a
            file may lack them.
        unused: Regular expressions for names that are known and not needed; a file may
            lack them.
    """

    name: str
    layers: Mapping[str, Source]
    scaling: PixelScaling | None
    epsilon: float = 1e-5
    beside: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def needed(self) -> tuple[str, ...]:
        """Lists the tensors that a file must have, layer after layer."""
        return tuple(n for source in self.layers.values() for n in source.names())

    def is_unused(self, name: str) -> bool:
        """Whether a tensor of this name is known and not needed."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)
