import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from planted_learning import (
    curves,
    noisy_dimensions,
    simple_objective,
    split_objects,
    unit_vectors,
)

from diffjax.evaluation import evaluate
from diffjax.learning._checkpoint import CheckpointError
from diffjax.learning._config import FitConfig
from diffjax.learning._fit import FitResult, fit
from diffjax.learning._labels import RelevanceLists
from diffjax.learning._parameters import parameters, present_parts
from diffjax.learning._problem import problem
from diffjax.learning._score_images import score_images
from diffjax.ranking import rank

SCALARS = "alpha", "gamma"
START = parameters(alpha=0.3)
CONFIG = FitConfig(
    steps=12,
    learning_rate=0.3,
    batch=4,
    evaluate_every=4,
    query_k=5,
    k=8,
    projection_rate=0.05,
)


@pytest.fixture(scope="module")
def curved():
    """Curves: collection, training queries, held-out queries."""
    vectors, queries, owner, asked = curves()
    training, held_out = split_objects(vectors, queries, owner, asked)
    return problem(vectors, k=5), training, held_out


def learn(curved, **changes) -> FitResult:
    settings = {"learned": SCALARS, "config": CONFIG, "objective": simple_objective}
    made, training, held_out = curved
    return fit(made, training, held_out, START, **(settings | changes))


@pytest.fixture(scope="module")
def learned(curved) -> FitResult:
    return learn(curved)


def assert_same(one: FitResult, other: FitResult):
    for a, b in (
        (one.history, other.history),
        (present_parts(one.parameters), present_parts(other.parameters)),
    ):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert one[2:] == other[2:]


def test_curves_that_must_be_followed_raise_alpha(learned):
    # At alpha 0.3 scores stay at the beginnings, where all curves are.
    assert learned.parameters.alpha > 0.6
    assert learned.history["held_out"].max() > learned.history["held_out"][0] + 0.01
    assert (
        learned.history["loss"][-4:].mean() < learned.history["loss"][:4].mean() - 0.3
    )
    assert learned.stop_reason == "steps"


def test_the_loss_rises_the_other_way_and_all_chunks_are_one_program(
    curved, learned, compiled
):
    # As far from the start, against the gradient, where the loss goes the wrong way.
    wrong = learn(curved, objective=climbing)
    # Only the steps are new, for three chunks of them; scores are made as before.
    assert len(compiled) == 1
    assert wrong.history["alpha"][-1] < 0.3 < learned.history["alpha"][-1]
    assert -wrong.history["loss"][-4:].mean() > learned.history["loss"][:4].mean()
    # On the held-out queries that is no gain, and the start is given as it came.
    assert wrong.best_step == 0
    assert wrong.parameters is START
    # Nor is there anything to wait for.
    config = dataclasses.replace(CONFIG, patience=1)
    impatient = learn(curved, objective=climbing, config=config)
    assert impatient.stop_reason == "no gain"
    np.testing.assert_array_equal(impatient.history["evaluated_step"], [0, 4])


def test_every_step_draws_another_batch_and_every_seed_other_ones(curved, learned):
    # At a rate of next to nothing only the batch changes the loss.
    still = dataclasses.replace(CONFIG, learning_rate=1e-9, patience=9)
    one, other = (
        learn(curved, config=dataclasses.replace(still, seed=seed)).history["loss"]
        for seed in (0, 1)
    )
    assert len(set(one.round(4))) > 6
    assert not np.isin(other, one).all()


def climbing(*args, **kwargs):
    return -simple_objective(*args, **kwargs)


def test_noise_in_half_of_the_dimensions_is_projected_away():
    vectors, queries, owner, asked = noisy_dimensions()
    config = dataclasses.replace(CONFIG, steps=60, evaluate_every=20, refresh_every=20)
    training, held_out = split_objects(vectors, queries, owner, asked)
    found = fit(
        problem(vectors, k=12),  # Room for the edges of other neighbours.
        training,
        held_out,
        parameters(("projection",), dim=12, alpha=0.9),
        learned=("projection",),
        config=config,
        objective=simple_objective,
    )
    kept = np.linalg.norm(present_parts(found.parameters)["projection"], axis=0)
    assert kept[:6].min() > kept[6:].max()
    assert found.history["held_out"][-1] > found.history["held_out"][0] + 0.05
    np.testing.assert_array_equal(found.history["refreshed_step"], [0, 20, 40, 60])


@pytest.mark.full
def test_of_two_graphs_the_one_of_noise_loses_its_weight():
    vectors, queries, owner, asked = curves()
    noise = np.random.default_rng(1)
    nothing = unit_vectors(noise.normal(size=vectors.shape))
    both = queries, unit_vectors(noise.normal(size=queries.shape))
    training, held_out = split_objects(vectors, both[::-1], owner, asked)
    found = fit(
        problem([nothing, vectors], k=5),
        training,
        held_out,
        parameters(("mixture",), graphs=2, alpha=0.9),
        learned=("mixture",),
        config=CONFIG,
        objective=simple_objective,
    )
    assert present_parts(found.parameters)["mixture"][1] > 0.9


def test_the_same_seed_gives_the_same_and_compiles_nothing_anew(
    curved, learned, compiled
):
    assert_same(learn(curved), learned)
    # Drawing keys and putting arrays together is compiled once for all.
    del compiled[:]
    learn(curved)
    assert not compiled


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("chunks", [1, 3])
def test_going_on_from_a_checkpoint_gives_the_same_bits(
    curved, learned, tmp_path, chunks
):
    told = []

    def stop(task, done, of):
        told.append((task, done, of))
        if len(told) == chunks:
            raise StoppedError

    with pytest.raises(StoppedError):
        learn(curved, checkpoint=tmp_path / "fit", progress=stop)
    assert told == [("learning", 4 * i, 12) for i in range(chunks)]
    assert_same(learn(curved, checkpoint=tmp_path / "fit"), learned)
    # Finished, it is read and nothing is done.
    assert_same(learn(curved, checkpoint=tmp_path / "fit", progress=stop), learned)
    assert len(told) == chunks


@pytest.mark.full
def test_restarts_and_new_neighbours_go_on_from_a_checkpoint_too(tmp_path):
    vectors, queries, owner, asked = noisy_dimensions(objects=6, per_object=6)
    config = dataclasses.replace(
        CONFIG, steps=4, evaluate_every=1, refresh_every=2, restarts=2, k=6
    )
    made = problem(vectors, k=9)
    training, held_out = split_objects(vectors, queries, owner, asked)

    def run(**changes):
        return fit(
            made,
            training,
            held_out,
            parameters(("projection",), dim=12, rank=8),
            learned=("alpha", "projection"),
            config=config,
            objective=simple_objective,
            **changes,
        )

    whole, told = run(), []

    def stop(*args):
        told.append(args)
        if len(told) in {2, 9}:  # Between searches, of either start's five evaluations.
            raise StoppedError

    for _ in range(2):
        with pytest.raises(StoppedError):
            run(checkpoint=tmp_path / "fit", progress=stop)
    assert_same(run(checkpoint=tmp_path / "fit"), whole)
    np.testing.assert_array_equal(whole.history["evaluated_restart"], [0] * 5 + [1] * 5)
    firsts = whole.history["alpha"][[0, 4]]
    assert firsts[0] != firsts[1]  # The second start is another.


def test_a_checkpoint_of_another_learning_is_refused(curved, learned, tmp_path):
    path = tmp_path / "fit"
    learn(curved, checkpoint=path)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(CheckpointError, match="made with other settings"):
        learn(curved, checkpoint=path, config=other)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        learn(curved, checkpoint=path)


def poisoned(scores, positives, used, **kwargs):
    """Not a number as soon as the query is in the batch whose answer is image 30."""
    loss = simple_objective(scores, positives, used, **kwargs)
    return jnp.where(positives[30].any(), loss * jnp.nan, loss)


def test_a_loss_that_is_no_number_stops_it_with_step_and_queries_and_parameters(
    curved, learned
):
    with pytest.warns(UserWarning, match="learning stopped in step") as caught:
        found = learn(curved, objective=poisoned)
    (message,) = [str(w.message) for w in caught]
    assert message.count("\n") == 0
    step = int(message.split("step ")[1].split()[0])
    queries = message.split("queries ")[1].split(")")[0].split(", ")
    assert "2" in queries  # Images 24 to 35 are object 2, which query 2 asks for.
    assert len(queries) == CONFIG.batch
    assert "the gradient of alpha, gamma is not finite" in message
    assert found.stop_reason == "diverged"
    assert len(found.history["loss"]) == step + 1
    # Until then all was as it is without.
    np.testing.assert_array_equal(
        found.history["loss"][:-1], learned.history["loss"][:step]
    )
    assert all(np.isfinite(x) for x in present_parts(found.parameters).values())


def test_a_rate_that_diverges_stops_at_the_best_point(curved):
    config = dataclasses.replace(CONFIG, learning_rate=40.0)
    with pytest.warns(UserWarning, match="ran to the end of its range"):
        found = learn(curved, config=config)
    assert found.stop_reason == "diverged"
    assert found.best_step == 0
    assert found.parameters.alpha == START.alpha


def test_what_is_given_back_is_the_best_on_the_held_out_queries(curved, learned):
    history = learned.history
    best = np.argmax(history["held_out"])
    assert learned.best_step == history["evaluated_step"][best]
    at = np.flatnonzero(history["step"] == learned.best_step)
    if at.size:
        assert learned.parameters.alpha == history["alpha"][at[0]]
    evaluations, held_out = len(history["held_out"]), len(curved[2].objects)
    assert learned.num_solves == 2 * 4 * 12 + evaluations * held_out


@pytest.mark.full
def test_a_projection_that_is_not_learned_is_applied_and_kept():
    vectors, queries, owner, asked = noisy_dimensions(objects=6, per_object=6)
    start = parameters(("projection",), dim=12, rank=6)
    made = problem(vectors, k=6)
    training, held_out = split_objects(vectors, queries, owner, asked)
    config = dataclasses.replace(CONFIG, steps=4)
    found = fit(
        made, training, held_out, start, config=config, objective=simple_objective
    )
    np.testing.assert_array_equal(
        present_parts(found.parameters)["projection"],
        present_parts(start)["projection"],
    )
    # It is applied beforehand, and comes to the same as the whole chain.
    rankings = rank(score_images(start, made, held_out.queries, query_k=5))
    right = [np.flatnonzero(column) for column in np.asarray(held_out.positives).T]
    expected = evaluate(rankings, RelevanceLists(right, [np.arange(0)] * len(right)))
    assert found.history["held_out"][0] == pytest.approx(
        expected.mean_average_precision
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"learned": ("bias",)}, r"learned must name parts .* got \('bias',\)"),
        ({"learned": ()}, "learned must name parts"),
    ],
)
def test_rejects_parts_that_are_not_there(curved, change, match):
    with pytest.raises(ValueError, match=match):
        learn(curved, **change)


@pytest.mark.usefixtures("unchecked")
def test_rejects_labels_that_can_not_be(curved):
    made, training, held_out = curved
    nothing = training._replace(positives=np.zeros_like(training.positives))
    with pytest.raises(ValueError, match="training must have a query with a positive"):
        learn((made, nothing, held_out))
    fewer = held_out._replace(positives=held_out.positives[1:])
    with pytest.raises(ValueError, match=r"held_out .* labels those of another index"):
        learn((made, training, fewer))
    with pytest.raises(ValueError, match=r"of other objects .* 'object 0' in both"):
        learn((made, training, training))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 10}, "steps must be a multiple of evaluate_every, 4, got 10"),
        ({"refresh_every": 3}, "refresh_every must be a multiple"),
        ({"learning_rate": 0.0}, r"learning_rate .* got 0\.0"),
        ({"warmup": 1.0}, r"warmup .* got 1\.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_rejects_settings_that_can_not_be(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONFIG, **change)
