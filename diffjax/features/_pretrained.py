"""What a file of weights holds for a network."""

from typing import NamedTuple

from diffjax.types import Whitening

from ._network import Network


class Pretrained(NamedTuple):
    """A network with the weights of a file, and what else the file knows.

    Attributes:
        network: The network.
        architecture: Its name, one of `network_names`.
        naming: Whose names the file's tensors have, such as torchvision.
        fingerprint: SHA-256 of the file, in hexadecimal digits.
        gem_power: Power of the generalised-mean pooling that the weights were trained
            with; None where the file has none.
        whitenings: Whitenings of descriptors, by name: `end-to-end` was learned with
            the network, `DATASET/ss` and `DATASET/ms` were fitted to its descriptors of
            one scale and of several.
    """

    network: Network
    architecture: str
    naming: str
    fingerprint: str
    gem_power: float | None
    whitenings: dict[str, Whitening]
