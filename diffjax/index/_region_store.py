"""Region vectors that were already computed, so that a killed build goes on."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import safetensors
from jaxtyping import Float

from diffjax._io import remove_partial_files, write_safetensors

# Folder of regions that were extracted, and file that lists them, beside an index.
EXTRACTED_FOLDER, REGIONS_JSON = "extracted", "regions.json"

_SHARD = "regions"
_PICTURES_PER_SHARD = 64
_BOXES = ".boxes"


class PictureRegions(NamedTuple):
    """Regions of one picture.

    Attributes:
        vectors: One per region, of unit length.
        boxes: What each covers, (x0, y0, x1, y1) in pixels of the upright picture.
    """

    vectors: Float[np.ndarray, "r c"]
    boxes: Float[np.ndarray, "r 4"]


class RegionStore:
    """Raw region vectors of pictures in a folder, found by the picture's content.

    A picture's vectors depend on its bytes and on how it is described alone, so that is
    what they are stored under: a renamed picture is not done again, a changed one is.
    They are written a shard at a time, each whole or not at all.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Looks through what is there.

        Args:
            folder: Of one way to describe pictures; made when first written to.
        """
        self._folder = folder
        self._shard_of_key: dict[str, pathlib.Path] = {}
        self._unwritten: dict[str, PictureRegions] = {}
        self._damaged: list[pathlib.Path] = []
        self._is_clean = False
        for shard in sorted(folder.glob(f"{_SHARD}-*.safetensors")):
            try:
                with safetensors.safe_open(shard, "numpy") as file:
                    names = set(file.keys())
            except safetensors.SafetensorError:
                # Cut short by a full disk or another program: compute it again.
                self._damaged.append(shard)
                continue
            complete = [name for name in names if f"{name}{_BOXES}" in names]
            self._shard_of_key |= dict.fromkeys(complete, shard)

    def __contains__(self, key: str) -> bool:
        """Whether the regions of a picture of this content are there."""
        return key in self._shard_of_key or key in self._unwritten

    def add(self, key: str, regions: PictureRegions) -> None:
        """Takes the regions of a picture, and writes a shard when it is full."""
        self._unwritten[key] = regions
        if len(self._unwritten) >= _PICTURES_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Writes what has not been written yet."""
        if not self._unwritten:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.remove_damaged_shards()
        arrays = {key: regions.vectors for key, regions in self._unwritten.items()}
        arrays |= {f"{k}{_BOXES}": r.boxes for k, r in self._unwritten.items()}
        stored = write_safetensors(self._folder, _SHARD, arrays)
        self._shard_of_key |= dict.fromkeys(self._unwritten, self._folder / stored.name)
        self._unwritten = {}

    def remove_damaged_shards(self) -> None:
        """Removes what is of no use; who only reads removes nothing."""
        if self._is_clean:
            return
        remove_partial_files(self._folder, _SHARD)
        for shard in self._damaged:
            shard.unlink(missing_ok=True)
        self._is_clean = True

    def read(self, keys: list[str]) -> Iterator[PictureRegions]:
        """Reads the regions of pictures one by one, in the order asked for.

        One shard is open at a time, so memory is flat; pictures that were described in
        the order asked for are read from each shard once.
        """
        self.flush()
        shard, file = None, None
        for key in keys:
            if shard != self._shard_of_key[key] or file is None:
                shard = self._shard_of_key[key]
                file = safetensors.safe_open(shard, "numpy")
            yield PictureRegions(
                file.get_tensor(key), file.get_tensor(f"{key}{_BOXES}")
            )
