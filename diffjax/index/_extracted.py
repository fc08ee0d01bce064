"""Region vectors that were already computed, so that a killed build goes on."""

import pathlib

import numpy as np
import safetensors
from jaxtyping import Float

from diffjax._files import remove_unfinished, write_arrays

_SHARD = "regions"
_PICTURES_PER_SHARD = 64


class Extracted:
    """Raw region vectors of pictures in a folder, found by the picture's content.

    A picture's vectors depend on its bytes, the network and the input size alone, so
    that is what they are stored under: a renamed picture is not done again, a changed
    one is. They are written a shard at a time, each whole or not at all.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Looks through what is there.

        Args:
            folder: Of one network and one input size; made when first written to.
        """
        self._folder = folder
        self._places: dict[str, pathlib.Path] = {}
        self._waiting: dict[str, np.ndarray] = {}
        remove_unfinished(folder, _SHARD)
        for shard in sorted(folder.glob(f"{_SHARD}-*.safetensors")):
            try:
                with safetensors.safe_open(shard, "numpy") as file:
                    self._places |= dict.fromkeys(file.keys(), shard)
            except safetensors.SafetensorError:
                # Cut short by a full disk or another program: compute it again.
                shard.unlink()

    def __contains__(self, digest: str) -> bool:
        """Whether the vectors of a picture of this content are there."""
        return digest in self._places or digest in self._waiting

    def add(self, digest: str, vectors: Float[np.ndarray, "r c"]) -> None:
        """Takes the vectors of a picture, and writes a shard when it is full."""
        self._waiting[digest] = vectors
        if len(self._waiting) >= _PICTURES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Writes what has not been written yet."""
        if not self._waiting:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        stored = write_arrays(self._folder, _SHARD, self._waiting)
        self._places |= dict.fromkeys(self._waiting, self._folder / stored.name)
        self._waiting = {}

    def read(self, digests: list[str]) -> list[Float[np.ndarray, "r c"]]:
        """Reads the vectors of pictures that are there, in the order asked for."""
        self.flush()
        found: dict[str, np.ndarray] = {}
        wanted = set(digests)
        for shard in sorted({self._places[digest] for digest in wanted}):
            with safetensors.safe_open(shard, "numpy") as file:
                for digest in wanted.intersection(file.keys()):
                    found[digest] = file.get_tensor(digest)
        return [found[digest] for digest in digests]
