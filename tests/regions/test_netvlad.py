import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.regions._netvlad import NetVLAD, fit_netvlad, netvlad

# What holds for every aggregate, its formula among it, is in test_aggregates.py.
TRUE = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:3]


@pytest.fixture(scope="module")
def descriptors():
    """Around three directions at right angles, of any length: 40 of each."""
    rng = np.random.default_rng(0)
    near = np.repeat(TRUE, 40, 0) + 0.05 * rng.normal(size=(120, 8))
    return (near * rng.uniform(0.1, 9, size=(120, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def layer(descriptors):
    return fit_netvlad(descriptors, clusters=3)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@jax.jit
def aggregate(cells, layer):
    maps = cells[None, None]
    return netvlad(maps, jnp.ones(maps.shape[:3], bool), layer=layer)[0]


def test_a_fit_finds_the_clusters(layer):
    alike = unit(np.asarray(layer.centres)) @ TRUE.T
    np.testing.assert_allclose(np.sort(alike.max(0)), 1, atol=1e-3)
    assert sorted(alike.argmax(1)) == [0, 1, 2]


def test_centres_are_the_means_of_the_unit_descriptors_nearest_to_them(
    layer, descriptors
):
    squares = ((unit(descriptors)[:, None] - np.asarray(layer.centres)) ** 2).sum(-1)
    for k, centre in enumerate(np.asarray(layer.centres)):
        mine = unit(descriptors)[squares.argmin(1) == k]
        np.testing.assert_allclose(centre, mine.mean(0), atol=1e-6)


def test_assignments_are_those_of_the_distances_and_as_sharp_as_the_authors_have_them(
    layer, descriptors
):
    local = unit(descriptors.astype(np.float64))
    centres = np.asarray(layer.centres, np.float64)
    logits = local @ np.asarray(layer.weights).T + np.asarray(layer.biases)
    squares = ((local[:, None] - centres) ** 2).sum(-1)
    gaps = np.diff(np.sort(squares, 1)[:, :2], axis=1)
    sharpness = np.log(100) / gaps.mean()
    # Alike but for what all clusters of a descriptor share.
    want = -sharpness * squares
    shared = (logits - want).mean(1, keepdims=True)
    np.testing.assert_allclose(logits - shared, want, atol=1e-3)
    best = np.sort(logits, 1)
    np.testing.assert_allclose((best[:, -1] - best[:, -2]).mean(), np.log(100), 1e-4)


def test_the_seed_decides(descriptors, layer):
    again = fit_netvlad(descriptors, clusters=3, seed=0)
    jax.tree.map(np.testing.assert_array_equal, again, layer)
    many = [fit_netvlad(descriptors, clusters=9, seed=seed) for seed in (0, 1)]
    assert not np.array_equal(many[0].centres, many[1].centres)


def test_descriptors_of_any_length_give_the_same_layer(descriptors, layer):
    longer = fit_netvlad(descriptors * 2, clusters=3)
    np.testing.assert_allclose(longer.centres, layer.centres, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_double_precision_stays_double(descriptors):
    got = fit_netvlad(descriptors.astype(np.float64), clusters=2)
    assert {leaf.dtype for leaf in got} == {np.dtype(np.float64)}


def test_a_sharp_layer_adds_up_what_lies_nearest():
    # Cells e1 and (e1 + e2) / sqrt 2 belong to the centre 2 e1, cell e2 to 2 e2.
    centres = np.array([[2, 0], [0, 2]], np.float32)
    sharp = NetVLAD(*map(jnp.asarray, (centres, 1000 * centres, centres[0] / 2)))
    got = aggregate(np.array([[3, 0], [1, 0.99], [0, 5]], np.float32), sharp)
    root = unit(np.array([1.0, 0.99]))
    want = unit(np.stack([[1 + root[0] - 4, root[1]], [0.0, -1.0]]))
    np.testing.assert_allclose(got, want.ravel() / np.sqrt(2), atol=1e-5)


def test_every_cluster_has_the_same_share_of_the_unit_length(layer, descriptors):
    got = np.asarray(aggregate(descriptors, layer)).reshape(3, 8)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 3**-0.5, rtol=1e-5)


def test_a_dark_cell_has_a_finite_gradient(layer):
    slopes = jax.jit(jax.grad(lambda cells: aggregate(cells, layer).sum()))(
        np.repeat([[1], [0]], 8, axis=1).astype(np.float32)
    )
    slopes = np.asarray(slopes)
    np.testing.assert_array_equal(slopes[1], 0)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize(
    ("change", "clusters", "message"),
    [
        (lambda d: d, 1, "clusters must be at least 2, got 1"),
        (lambda d: d[:4], 5, "clusters must be at most 4, .* got 5"),
        (lambda d: d[[0, 0, 1, 1]], 3, "clusters must be at most 2, .* got 3"),
        (lambda d: np.vstack([d, 0 * d[:1]]), 2, "descriptors must have a direction"),
        (lambda d: d * np.nan, 2, "descriptors must be finite"),
    ],
)
def test_fits_that_cannot_be_are_refused(change, clusters, message, descriptors):
    with pytest.raises(ValueError, match=message):
        fit_netvlad(change(descriptors), clusters=clusters)
