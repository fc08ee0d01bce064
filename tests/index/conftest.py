"""The small collection in single precision, its index in memory and on disk."""

import numpy as np
import pytest
from small_collection import draw_collection
from small_index import CONFIG

from diffjax.index import Index


@pytest.fixture(scope="session")
def given():
    """Vectors, ids and queries of the small collection, as users hand them over."""
    return draw_collection(np.float32)


@pytest.fixture(scope="session")
def index(given) -> Index:
    """Index of the small collection in memory."""
    return Index.build(given.vectors, given.image_ids, config=CONFIG)


@pytest.fixture(scope="session")
def offline_index(given) -> Index:
    """Index with solutions that were made beforehand."""
    config = CONFIG.replace(offline_neighbors=20)
    return Index.build(given.vectors, given.image_ids, config=config)
