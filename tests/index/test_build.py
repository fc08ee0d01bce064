import numpy as np
import pytest

from diffjax.index import Index, IndexConfig


def test_an_index_is_told_in_a_line_and_is_like_itself_only(collection):
    vectors = collection.vectors.astype(np.float32)
    one, other = (Index.build(vectors, config=IndexConfig(k=9)) for _ in range(2))
    assert repr(one).startswith(f"Index({len(vectors)} images, {len(vectors)} regions")
    assert len(repr(one)) < 100
    assert one != other
    assert hash(one) != hash(other)


def test_whitening_leaves_few_vectors_something_in_common():
    # 3 clusters of 4: whitened to all 11 dimensions that they span they are orthogonal.
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(3, 40)), 4, axis=0)
    vectors = (vectors + 0.3 * rng.normal(size=vectors.shape)).astype(np.float32)
    complaint = "dim 40 is more than 12 vectors can tell apart: using 6, one for every"
    with pytest.warns(UserWarning, match=complaint):
        index = Index.build(vectors, config=IndexConfig(dim=40, k=5, query_k=5))
    assert index.graph.weights.size
