import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.graph import shortlist

# Four images of 2, 1, 3 and 1 regions.
IDS = np.array([0, 0, 1, 2, 2, 2, 3])
SCORES = jnp.array([[0.1, 0.9], [0.5, 0.9], [0.7, 0.2], [0.5, 0.3]])


@pytest.mark.parametrize(
    "transform",
    [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.full)],
    ids=["jit", "eager"],
)
def test_lists_the_best_images_and_their_regions(transform):
    listed = transform(functools.partial(shortlist, size=2, max_regions=3))
    got = listed(SCORES, jnp.asarray(IDS))
    # Ties go to the lower image: 1 before 3 and 0 before 1.
    np.testing.assert_array_equal(got.images, [[2, 1], [0, 1]])
    np.testing.assert_array_equal(
        got.nodes, [[3, 4, 5, 2, -1, -1], [0, 1, -1, 2, -1, -1]]
    )


def test_a_list_of_all_images_names_every_region_once():
    got = shortlist(SCORES, IDS, size=4)
    for nodes in np.asarray(got.nodes):
        np.testing.assert_array_equal(np.sort(nodes[nodes >= 0]), np.arange(7))


@pytest.mark.parametrize("size", [0, 5])
def test_refuses_a_size_outside_one_to_m(size):
    with pytest.raises(ValueError, match=rf"size must be in 1\.\.4 \(m\), got {size}"):
        shortlist(SCORES, IDS, size=size)


def test_names_the_count_that_is_missing_or_too_small():
    with pytest.raises(ValueError, match="max_regions must be given under jit"):
        jax.jit(functools.partial(shortlist, size=2))(SCORES, jnp.asarray(IDS))
    with pytest.raises(ValueError, match="max_regions must be at least 3, got 2"):
        shortlist(SCORES, IDS, size=2, max_regions=2)
    with pytest.raises(ValueError, match="image_ids must neither decrease"):
        shortlist(SCORES, IDS * 2, size=2)
