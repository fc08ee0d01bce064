"""What may be handed to an index beside vectors: whitening and boxes."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.index import Index, IndexConfig
from diffjax.regions import fit_pca_whitening, l2_normalize, whiten
from diffjax.types import Whitening

CONFIG = IndexConfig(k=12, query_k=8)


@pytest.fixture
def given(collection):
    """Vectors in float32 with their images, queries and boxes."""
    vectors = collection.vectors.astype(np.float32)
    corners = np.random.default_rng(0).uniform(0, 50, (len(vectors), 2))
    boxes = np.concatenate([corners, corners + 10], axis=1).astype(np.float32)
    return vectors, collection.image_ids, collection.queries.astype(np.float32), boxes


@pytest.fixture
def whitening(given):
    return fit_pca_whitening(given[0], dim=6)


def test_a_whitening_of_ones_own_is_that_of_vectors_and_queries(given, whitening):
    vectors, image_ids, queries, _ = given
    own = Index.build(vectors, image_ids, config=CONFIG, whitening=whitening)
    usual = Index.build(vectors, image_ids, config=IndexConfig(k=12, query_k=8, dim=6))
    np.testing.assert_allclose(own.vectors, usual.vectors, atol=1e-6)
    found, expected = own.search(queries), usual.search(queries)
    np.testing.assert_array_equal(found.images, expected.images)


def test_lists_are_refused_or_taken_in_a_line(given, unchecked):
    vectors, image_ids, _, _ = given
    with pytest.raises(ValueError, match="vectors must be an array, got list"):
        Index.build(vectors.tolist(), config=CONFIG)
    listed = Index.build(vectors, image_ids.tolist(), config=CONFIG)
    np.testing.assert_array_equal(listed.image_ids, image_ids)


def test_prepared_vectors_are_not_whitened_again_but_queries_are(given, whitening):
    vectors, image_ids, queries, _ = given
    prepared = np.asarray(whiten(l2_normalize(jnp.asarray(vectors)), whitening))
    index = Index.build(
        prepared, image_ids, config=CONFIG, whitening=whitening, prepared=True
    )
    np.testing.assert_allclose(index.vectors, prepared, atol=1e-6)
    plain = Index.build(vectors, image_ids, config=CONFIG, whitening=whitening)
    np.testing.assert_array_equal(
        index.search(queries).images, plain.search(queries).images
    )


def test_pca_alone_keeps_the_variances(given):
    vectors, image_ids, _, _ = given
    config = IndexConfig(k=12, query_k=8, dim=6, whitening="pca")
    index = Index.build(vectors, image_ids, config=config)
    assert index.whitening is not None
    p = np.asarray(index.whitening.projection)
    np.testing.assert_allclose(p.T @ p, np.eye(6), atol=1e-5)


def test_shrinkage_draws_the_variances_together(given):
    def lengths(shrinkage):
        config = IndexConfig(k=12, query_k=8, dim=6, shrinkage=shrinkage)
        index = Index.build(given[0], given[1], config=config)
        assert index.whitening is not None
        return np.linalg.norm(np.asarray(index.whitening.projection), axis=0)

    assert np.ptp(lengths(0.9)) < 0.3 * np.ptp(lengths(0.0))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"whitening": "zca"}, r"whitening must be one of \('pca-whitening', 'pca'\)"),
        ({"shrinkage": 1.0}, r"shrinkage must be in \[0, 1\), got 1.0"),
        ({"whitening": "pca", "shrinkage": 0.1}, "shrinkage must be 0 for pca"),
    ],
)
def test_settings_of_the_whitening_are_checked(settings, complaint, unchecked):
    with pytest.raises(ValueError, match=complaint):
        IndexConfig(**settings)


def test_a_whitening_of_other_vectors_is_refused(given, whitening):
    other = Whitening(whitening.mean[:5], whitening.projection[:5])
    with pytest.raises(ValueError, match=r"whitening must be of vectors of 12 dim.* 5"):
        Index.build(given[0], config=CONFIG, whitening=other)
    with pytest.raises(ValueError, match=r"prepared must have the 6 dim.* got 12"):
        Index.build(given[0], config=CONFIG, whitening=whitening, prepared=True)


def test_boxes_are_kept_and_saved(given, tmp_path):
    vectors, image_ids, _, boxes = given
    index = Index.build(vectors, image_ids, config=CONFIG, boxes=boxes)
    index.save(tmp_path / "saved")
    loaded = Index.load(tmp_path / "saved")
    assert loaded.boxes is not None
    np.testing.assert_array_equal(loaded.boxes, boxes)
    assert Index.build(vectors, image_ids, config=CONFIG).boxes is None


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda b: b[1:], r"boxes must be \[\d+, 4\], one x0,y0,x1,y1 per region"),
        (lambda b: b[:, [2, 1, 0, 3]], r"must have x0 < x1 .* in row 0"),
        (lambda b: np.where(np.arange(len(b))[:, None] == 3, np.nan, b), "in row 3"),
    ],
)
def test_boxes_that_are_none_are_refused(given, spoil, complaint, unchecked):
    vectors, image_ids, _, boxes = given
    with pytest.raises(ValueError, match=complaint):
        Index.build(vectors, image_ids, config=CONFIG, boxes=spoil(boxes))


@pytest.mark.parametrize("pooling", ["gmp", "sum"])
def test_answers_name_the_region_that_adds_most(given, pooling):
    vectors, image_ids, queries, _ = given
    config = IndexConfig(k=12, query_k=8, pooling=pooling)
    index = Index.build(vectors, image_ids, config=config)
    found = index.search(queries, top=24)
    weights = 1 if index.weights is None else np.asarray(index.weights)[:, None]
    added = np.asarray(found.solution.value) * weights
    for query, images in enumerate(np.asarray(found.images)):
        for place, image in enumerate(images):
            (own,) = np.nonzero(image_ids == image)
            best = own[added[own, query].argmax()]
            expected = best if added[best, query] > 0 else -1
            assert found.regions[query, place] == expected


def test_images_that_nothing_reached_name_no_region():
    # Two pairs that share nothing: the query reaches one of them.
    vectors = np.eye(4, dtype=np.float32).repeat(2, axis=0)[:4]
    config = IndexConfig(k=2, query_k=2, pooling="sum")
    index = Index.build(vectors, np.arange(4) // 2, config=config)
    found = index.search(vectors[:1], top=2)
    assert found.images.tolist() == [[0, 1]]
    assert found.regions.tolist() == [[0, -1]]
