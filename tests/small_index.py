"""Settings and comparisons that tests of the index share."""

import hashlib
import pathlib

import numpy as np

from diffjax.index import IndexConfig
from diffjax.types import SearchResult

# One shape of graph for most tests, so that few programs are compiled.
CONFIG = IndexConfig.of(k=12, query_k=9, gamma=2.5, alpha=0.9, lam=0.7, max_steps=50)


def assert_same_answers(result: SearchResult, expected: SearchResult) -> None:
    """Equal scores to rounding; other images only where scores are as equal."""
    scale = np.abs(np.asarray(expected.scores)).max(initial=0)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5 * scale)
    images, others = np.asarray(result.images), np.asarray(expected.images)
    scores, other_scores = np.asarray(result.scores), np.asarray(expected.scores)
    for query, slot in np.argwhere(images != others):
        tied = other_scores[query][others[query] == images[query, slot]]
        np.testing.assert_allclose(tied, scores[query, slot], rtol=1e-4)


def file_hashes(folder: pathlib.Path) -> dict[str, str]:
    """Hash of every file in a folder, by name; folders in it do not count."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
