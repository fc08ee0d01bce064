import jax.numpy as jnp
import numpy as np

from diffjax.cli._search import answer_boxes
from diffjax.index import Index, IndexConfig
from diffjax.types import SearchResult


def test_each_answer_has_the_box_of_its_region_and_none_without_one():
    vectors = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    boxes = np.array([[0.4, 1, 10.6, 20], [5, 6, 7, 8], [0, 0, 1, 1]], np.float32)
    config = IndexConfig.of(k=3, query_k=3)
    index = Index.build(vectors, config=config, boxes=boxes)
    regions = jnp.array([[1, 0, -1]])
    result = SearchResult(regions, regions.astype(jnp.float32), None, regions)
    assert answer_boxes(index, result) == [(5, 6, 7, 8), (0, 1, 11, 20), None]
    bare = Index.build(vectors, config=config)
    assert answer_boxes(bare, result) == [None, None, None]
