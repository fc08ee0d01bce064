import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted_learning import (
    noisy_dimensions,
    simple_objective,
    split_objects,
    unit_vectors,
)

from diffjax.learning import (
    FitConfig,
    LabelledQueries,
    QueryDescriptors,
    ScatterMatrices,
    fit,
    parameters,
    replace_shrinkage_by_projection,
    scatter_matrices,
    score_images,
    training_graphs,
)
from diffjax.learning._fit import split_into_folds
from diffjax.learning._labels import make_query_table
from diffjax.learning._parameters import constrain, present_parameters, unconstrain
from diffjax.regions import (
    fit_supervised_whitening,
    global_descriptors,
    list_matching_pairs,
)

PARTS = "shrinkage", "emphasis"


@pytest.fixture(scope="module")
def pictures():
    """12 images of 3 regions, 4 objects of 3 images; regions, image ids, objects."""
    rng = np.random.default_rng(3)
    owner = np.arange(12) % 4
    centres = rng.normal(size=(4, 6))
    regions = centres[np.repeat(owner, 3)] + 0.7 * rng.normal(size=(36, 6))
    return unit_vectors(regions), np.repeat(np.arange(12), 3), owner


def of_objects(owner):
    return [np.flatnonzero(owner == number) for number in range(owner.max() + 1)]


def mean_square_of_pairs(vectors, labels):
    """The oracle: (x_i - x_j)(x_i - x_j)' over all pairs of a label, trace d."""
    pairs = list_matching_pairs(labels)
    away = vectors[pairs[:, 0]] - vectors[pairs[:, 1]]
    total = away.T @ away
    return total * len(total) / np.trace(total)


def test_scatters_are_differences_of_pairs(pictures):
    # Groups of one size: sums from the mean and sums over pairs have one ratio.
    regions, ids, owner = pictures
    got = scatter_matrices(training_graphs(regions, ids, k=4), of_objects(owner))
    whole = np.asarray(global_descriptors(jnp.asarray(regions), ids))
    expected = [
        mean_square_of_pairs(regions, owner[ids]),
        mean_square_of_pairs(whole, owner),
        mean_square_of_pairs(regions, ids),
        np.eye(6),
    ]
    np.testing.assert_allclose(got.within, expected, atol=2e-5)
    everything = mean_square_of_pairs(whole, np.zeros(12, int))
    np.testing.assert_allclose(got.between, everything, atol=2e-5)
    without = scatter_matrices(training_graphs(regions, ids, k=4))
    np.testing.assert_array_equal(without.within, got.within[2:])


def test_where_nothing_differs_the_identity_stands(pictures):
    regions, ids, _ = pictures
    single = scatter_matrices(training_graphs(regions[ids != np.roll(ids, 1)], k=4))
    np.testing.assert_array_equal(single.within, np.stack([np.eye(6)] * 2))


def test_one_kind_with_the_identity_is_supervised_whitening(pictures):
    regions, ids, owner = pictures
    whole = global_descriptors(jnp.asarray(regions), ids)
    closed = fit_supervised_whitening(
        whole, list_matching_pairs(owner), dim=3, shrinkage=0.25
    )
    expected = unit_vectors(regions @ np.asarray(closed.projection))
    own = training_graphs(regions, ids, k=4)
    mixed = parameters(("shrinkage",))._replace(
        shrinkage=jnp.asarray([1e-6, 0.75, 1e-6, 0.25])
    )
    got = replace_shrinkage_by_projection(
        mixed, scatter_matrices(own, of_objects(owner)), dim=3
    ).projection
    assert got is not None
    moved = unit_vectors(regions @ np.asarray(got).T)
    np.testing.assert_allclose(moved @ moved.T, expected @ expected.T, atol=2e-5)


def test_shrunken_scatter_becomes_white_and_emphasis_weights_rows(pictures):
    regions, ids, owner = pictures
    measured = scatter_matrices(training_graphs(regions, ids, k=4), of_objects(owner))
    start = parameters(PARTS, emphasis=0.5)
    within = np.asarray(measured.within).mean(0)
    got = replace_shrinkage_by_projection(start, measured)
    even = replace_shrinkage_by_projection(start._replace(emphasis=None), measured)
    assert (got.shrinkage, got.emphasis) == (None, None)
    p, e = np.asarray(got.projection), np.asarray(even.projection)
    white = e @ within @ e.T
    np.testing.assert_allclose(white, white[0, 0] * np.eye(6), atol=1e-4)
    # In what was shrunken the rows' squares are shares of the eigenvalues, at e = 1/2.
    values = np.linalg.eigvals(np.linalg.inv(within) @ np.asarray(measured.between))
    shares = np.sort(values.real)[::-1] / values.real.max()
    variances = np.diagonal(p @ within @ p.T)
    np.testing.assert_allclose(variances / variances[0], shares, atol=1e-4)
    np.testing.assert_allclose(np.sum(p**2), 6, rtol=1e-5)


@pytest.mark.parametrize("rank", [6, 3])
@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_finite_differences(pictures, rank):
    # The differences to keep span `rank` dimensions: the other eigenvalues are all 0.
    rng = np.random.default_rng(5)
    half = rng.normal(size=(3, 6, 6))
    thin = rng.normal(size=(6, rank))
    measured = ScatterMatrices(
        jnp.asarray(half @ half.transpose(0, 2, 1)), jnp.asarray(thin @ thin.T)
    )
    regions = jnp.asarray(pictures[0][:8], jnp.float64)
    wanted = rng.normal(size=(8, 8))

    def value(raw):
        given = parameters(PARTS, kinds=3)._replace(
            shrinkage=jax.nn.softmax(raw[:3]), emphasis=jnp.exp(raw[3])
        )
        projection = replace_shrinkage_by_projection(given, measured, dim=3).projection
        assert projection is not None
        moved = regions @ projection.T
        moved /= jnp.linalg.norm(moved, axis=1, keepdims=True)
        return jnp.sum(wanted * (moved @ moved.T))

    at = jnp.asarray([0.3, -0.2, 0.1, -0.5])
    slope = jax.jit(jax.grad(value))(at)
    step = 1e-6
    expected = [
        (value(at + step * way) - value(at - step * way)) / (2 * step)
        for way in jnp.eye(4)
    ]
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def noisy():
    """Noise in half of the dimensions: collection, training and held-out queries."""
    vectors, queries, owner, asked = noisy_dimensions()
    return training_graphs(vectors, k=12), *split_objects(
        vectors, queries, owner, asked
    )


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_the_chain_from_a_whitening_to_scores_matches_finite_differences(pictures):
    regions, ids, owner = pictures
    regions = regions.astype(np.float64)
    regions /= np.linalg.norm(regions, axis=1, keepdims=True)
    where = training_graphs(regions, ids, k=9)
    single = scatter_matrices(where, of_objects(owner))
    made = ScatterMatrices(*(jnp.asarray(each, jnp.float64) for each in single))
    queries = QueryDescriptors((regions[[0, 5, 10]] + 0.1,), np.arange(3))
    raw = unconstrain(parameters(("alpha", "gamma", "lam", *PARTS), alpha=0.9))

    def total(raw):
        own = replace_shrinkage_by_projection(constrain(raw), made, dim=4)
        scores = score_images(own, where, queries, query_k=9, max_steps=300, rtol=1e-13)
        return jnp.sum(scores * jnp.linspace(-1, 1, scores.size).reshape(scores.shape))

    value, slope = jax.jit(total), jax.jit(jax.grad(total))(raw)
    for name, start in present_parameters(raw).items():
        to = jnp.cos(jnp.arange(start.size, dtype=start.dtype)).reshape(start.shape)
        ends = [value(raw._replace(**{name: start + t * to})) for t in (1e-6, -1e-6)]
        along = jnp.sum(present_parameters(slope)[name] * to)
        assert abs(along) > 1e-6, name
        np.testing.assert_allclose(
            along, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, err_msg=name
        )


def test_each_part_sees_what_the_others_labels_say(noisy):
    made, training, held_out = noisy
    tables = [
        make_query_table(name, each, made)
        for name, each in (("training", training), ("held_out", held_out))
    ]
    parts, last = split_into_folds(made, training, tables, config=FitConfig(folds=4))
    owner = np.repeat(np.arange(9), 10)
    asked = []
    for number, part in enumerate(parts):
        others = [i for i in range(6) if i % 4 != number]
        expected = scatter_matrices(made, [np.flatnonzero(owner == i) for i in others])
        assert part.scatter_matrices is not None
        np.testing.assert_array_equal(part.scatter_matrices.within, expected.within)
        real = np.asarray(part.table.rows >= 0).any(1)
        objects = [training.objects[i] for i in np.asarray(part.table.numbers)[real]]
        assert set(objects) == {f"object {i}" for i in range(number, 6, 4)}
        assert not np.asarray(part.table.positives)[~real].any()
        asked += objects
    assert sorted(asked) == sorted(training.objects)
    everything = scatter_matrices(made, [np.flatnonzero(owner == i) for i in range(6)])
    assert last.scatter_matrices is not None
    np.testing.assert_array_equal(last.scatter_matrices.within, everything.within)
    assert {part.table.rows.shape for part in parts} == {(4, 1)}


CONFIG = FitConfig(
    steps=24,
    learning_rate=0.3,
    batch=4,
    evaluate_every=2,
    refresh_every=8,
    patience=99,
    query_k=5,
    k=8,
    dim=6,
)


def learn(noisy, **more):
    made, training, held_out = noisy
    # Labels say the most here; it is left to learning to find that out.
    start = parameters(PARTS, alpha=0.9)._replace(
        shrinkage=jnp.asarray([0.01, 0.01, 0.01, 0.97])
    )
    return fit(
        made,
        training,
        held_out,
        start,
        learned=PARTS,
        config=CONFIG,
        objective=simple_objective,
        **more,
    )


@pytest.mark.full
def test_labels_of_other_objects_are_found_to_say_where_noise_is(noisy, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(_, done, __):
        if done == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        learn(noisy, checkpoint=tmp_path / "fit", progress=stop)
    went_on = learn(noisy, checkpoint=tmp_path / "fit")
    got = learn(noisy)
    shrinkage = got.history["shrinkage"]
    assert shrinkage[-1, :2].sum() > 4 * shrinkage[0, :2].sum()
    assert got.history["held_out"].max() > got.history["held_out"][0]
    np.testing.assert_array_equal(got.history["refreshed_step"], [0, 8, 16, 24])
    for name, column in got.history.items():
        np.testing.assert_array_equal(column, went_on.history[name], err_msg=name)
    # What is given back is the closed form of all labels, training and held out.
    projection = got.parameters.projection
    assert projection is not None
    assert projection.shape == (6, 12)
    np.testing.assert_array_equal(projection, went_on.parameters.projection)
    weight = np.linalg.norm(np.asarray(projection), axis=0)
    assert weight[:6].min() > weight[6:].max()


@pytest.mark.usefixtures("unchecked")
def test_rejects_what_can_not_be_whitened(noisy, pictures):
    made, training, held_out = noisy
    start = parameters(PARTS)
    measured = scatter_matrices(made)
    with pytest.raises(ValueError, match="one weight per scatter, 2, got 4"):
        replace_shrinkage_by_projection(start, measured)
    with pytest.raises(ValueError, match=r"dim must be in 1\.\.12, got 13"):
        replace_shrinkage_by_projection(parameters(PARTS, kinds=2), measured, dim=13)
    with pytest.raises(ValueError, match="must have shrinkage and no projection"):
        replace_shrinkage_by_projection(parameters(), measured)
    with pytest.raises(ValueError, match="replace_shrinkage_by_projection"):
        score_images(start, made, training.queries)
    with pytest.raises(ValueError, match="emphasis must be None without shrinkage"):
        parameters(("emphasis",))
    with pytest.raises(ValueError, match=r"objects\[0\] must be two images or more"):
        scatter_matrices(made, [np.array([3])])
    with pytest.raises(ValueError, match="one description, got 2"):
        scatter_matrices(training_graphs([pictures[0]] * 2, pictures[1], k=3))
    with pytest.raises(ValueError, match="differ between images, got equal ones"):
        scatter_matrices(training_graphs(np.ones((5, 3), np.float32), k=2))
    unnamed = training._replace(objects=())
    with pytest.raises(ValueError, match="must name what queries show"):
        fit(made, unnamed, held_out, start)
    one = LabelledQueries(
        QueryDescriptors((training.queries.vectors[0][:2],), np.arange(2)),
        training.positives[:, :2],
        training.used[:, :2],
        training.objects[:2],
    )
    with pytest.raises(ValueError, match="two objects or more for shrinkage"):
        fit(made, one, held_out, start, config=dataclasses.replace(CONFIG, folds=2))
    single = training._replace(
        positives=training.positives & (np.arange(90) < 11)[:, None]
    )
    with pytest.raises(ValueError, match=r"two images or more show.*\['object 0'\]"):
        fit(made, single, held_out, start, config=CONFIG)
    with pytest.raises(ValueError, match="folds must be at least 2"):
        FitConfig(folds=1)
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        FitConfig(dim=0)
