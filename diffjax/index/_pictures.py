"""What an index of pictures knows about its pictures."""

from typing import NamedTuple

from ._descriptor import DescriptorConfig


class PictureInfo(NamedTuple):
    """Where the vectors of an index came from.

    Attributes:
        folder: Folder of the pictures when the index was built.
        names: Their paths in it, one per image of the index.
        skipped: Paths that could not be read, with the reason.
        descriptor: How they were described.
        weights: SHA-256 of the network's weights.
        content: Hash of what all pictures held, those skipped included.
    """

    folder: str
    names: tuple[str, ...]
    skipped: dict[str, str]
    descriptor: DescriptorConfig
    weights: str
    content: str = ""

    @property
    def network(self) -> str:
        """Names the network, its map and the very weights."""
        named = self.descriptor.network, self.descriptor.map, self.weights[:16]
        return "/".join(filter(None, named))
