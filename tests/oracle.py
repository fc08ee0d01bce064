"""Dense reference of all stages in NumPy and float64, for comparison in tests.

Written from the paper's formulas, one loop per sum, without the library.
"""

import numpy as np


def unit_rows(vectors):
    """Vectors divided by their lengths."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def global_descriptors(vectors, ids):
    """Global descriptors: normalised sums of the regions, image by image."""
    return unit_rows(np.array([vectors[ids == i].sum(0) for i in np.unique(ids)]))


def affinity(vectors, k, gamma):
    """A of eq. 1, 5 and 6 by comparing neighbour sets."""
    similarity = vectors @ vectors.T
    n = len(vectors)
    lists = [set(np.argsort(-row, kind="stable")[:k]) for row in similarity]
    a = np.zeros((n, n))
    for i in range(n):
        for j in lists[i]:
            if i != j and i in lists[j]:
                a[i, j] = max(similarity[i, j], 0) ** gamma
    return a


def normalized(a):
    """S of eq. 2, with empty rows where there are no edges."""
    degrees = a.sum(1)
    scale = np.array([d**-0.5 if d > 0 else 0.0 for d in degrees])
    return np.diag(scale) @ a @ np.diag(scale)


def query_vector(vectors, regions, k, gamma, rule):
    """Query vector y: eq. 8 and the cut to k, or the same as the release orders it."""
    y = np.zeros(len(vectors))
    for region in regions:
        similarity = vectors @ region
        for i in np.argsort(-similarity, kind="stable")[:k]:
            term = similarity[i]
            y[i] += max(term, 0) ** gamma if rule == "paper" else term
    largest = np.argsort(-y, kind="stable")[:k]
    out = np.zeros(len(vectors))
    out[largest] = y[largest]
    if rule == "official":
        out[largest] = np.maximum(y[largest], 0) ** gamma
    return out


def diffusion(s, y, alpha):
    """F of eq. 4 without its factor (1 - alpha), by a dense solve."""
    return np.linalg.solve(np.eye(len(s)) - alpha * s, y)


def gmp_weights(vectors, image_ids, lam):
    """W of eq. 14, image by image."""
    weights = np.zeros(len(vectors))
    for image in np.unique(image_ids):
        phi = vectors[image_ids == image]
        system = phi @ phi.T + lam * np.eye(len(phi))
        weights[image_ids == image] = np.linalg.solve(system, np.ones(len(phi)))
    return weights


def pooled(scores, image_ids, weights):
    """Image scores of eq. 13."""
    images = np.unique(image_ids)
    return np.array(
        [
            (weights[image_ids == i, None] * scores[image_ids == i]).sum(0)
            for i in images
        ]
    )


def random_average_precision(num_positives, num_images):
    """Mean average precision of a ranking in random order; NaN without a positive.

    With P positives among N images and c = (P - 1) / (N - 1) it is
    (P / N + c + (1 - c) H_N / N) / 2, H_N = 1 + 1/2 + ... + 1/N: the formula of
    `evaluate_scores` summed for one group of all images.
    """
    if num_positives == 0:
        return float("nan")
    # A single image is first in any case, whatever c is.
    c = (num_positives - 1) / max(num_images - 1, 1)
    harmonic = float(np.sum(1 / np.arange(1, num_images + 1)))
    return (num_positives / num_images + c + (1 - c) * harmonic / num_images) / 2
