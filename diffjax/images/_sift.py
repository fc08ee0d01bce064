"""SIFT descriptors of a picture, computed by OpenCV."""

import importlib
from types import ModuleType

import numpy as np
from jaxtyping import Float

from ._reading import Box, PictureSource, read_pixels

_DIM = 128


def sift_descriptors(
    picture: PictureSource,
    *,
    box: Box | None = None,
    max_features: int = 1000,
    root: bool = True,
) -> Float[np.ndarray, "n 128"]:
    """Describes a picture by the SIFT descriptors of its keypoints.

    Args:
        picture: A path, a Pillow image or uint8 pixels [h, w, 3].
        box: Part of the picture, in pixels of the upright picture; None is all of it.
            The picture is cropped first, so pixels outside have no influence.
        max_features: Number of keypoints to keep, those of highest contrast.
        root: Whether to compute RootSIFT: square roots of the descriptors divided by
            their sums, whose Euclidean distance is the Hellinger distance of the
            originals. False divides descriptors by their lengths.

    Returns:
        Descriptors of unit length, highest contrast first; none where the picture has
        no keypoints.

    Raises:
        ModuleNotFoundError: If OpenCV, of the extra `sift`, is not installed.
        PictureError: If the picture can't be read.
        ValueError: If `max_features` is below 1, or the box is not in the picture.

    References:
        Lowe, Distinctive image features from scale-invariant keypoints, IJCV 60(2),
        2004; Arandjelovic and Zisserman, Three things everyone should know to improve
        object retrieval, CVPR 2012 (RootSIFT).
    """
    if max_features < 1:
        raise ValueError(f"max_features must be at least 1, got {max_features}.")
    cv2 = _import_opencv()
    pixels = read_pixels(picture, box=box)
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    detector = cv2.SIFT_create(nfeatures=max_features)
    keypoints, descriptors = detector.detectAndCompute(grey, None)
    if descriptors is None:
        return np.empty((0, _DIM), np.float32)
    # OpenCV guarantees no order, and returns every keypoint that ties with the last: a
    # point with several orientations has a keypoint of equal contrast for each.
    sort_keys = [(-k.response, *k.pt, k.size, k.angle) for k in keypoints]
    order = sorted(range(len(sort_keys)), key=sort_keys.__getitem__)[:max_features]
    selected = descriptors[order]
    if root:
        return _root_sift(selected)
    return _divide_rows(selected, np.linalg.norm(selected, axis=1))


def _root_sift(descriptors):
    return np.sqrt(_divide_rows(descriptors, descriptors.sum(axis=1)))


def _divide_rows(descriptors, sizes):
    # The descriptor of a flat patch is zero, and stays zero.
    return descriptors / np.where(sizes > 0, sizes, 1)[:, None]


def _import_opencv() -> ModuleType:
    # Imported by name: a type checker then needs no OpenCV.
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "sift_descriptors needs OpenCV, which is not installed: pip install "
            "'diffjax[sift]'"
        ) from error
