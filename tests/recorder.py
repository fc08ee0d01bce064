"""A `describe` without a network, which remembers what it was shown."""

import numpy as np

from diffjax.images import RegionBatch


class Recorder:
    """A `describe` that gives the mean colour, once per 32 px of height."""

    def __init__(self):
        self.calls = []

    def __call__(self, scales, _):
        images, sizes = scales[0]
        self.calls.append((images.shape, sizes.tolist()))
        counts = sizes[:, 0] // 32
        vectors = np.full((len(images), counts.max() + 1, 3), np.nan, np.float32)
        boxes = np.full((*vectors.shape[:2], 4), np.nan, np.float32)
        for i, (height, width) in enumerate(sizes):
            assert not images[i, height:].any()
            assert not images[i, :, width:].any()
            vectors[i, : counts[i]] = images[i, :height, :width].mean((0, 1))
            # From half the width rightwards, over the whole height.
            boxes[i, : counts[i]] = 0.5, 0, 1, 1
        return RegionBatch(vectors, boxes, counts)
