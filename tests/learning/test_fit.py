import dataclasses
from typing import Any, NamedTuple

import jax
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
from diffjax.learning._gradient_steps import optimizer
from diffjax.learning._labels import LabelledQueries, RelevanceLists
from diffjax.learning._parameters import parameters, present_parameters
from diffjax.learning._score_images import score_images
from diffjax.learning._training_graphs import (
    TrainingGraphs,
    training_graphs,
    with_edge_capacities,
)
from diffjax.ranking import rank

# What these tests cost is the compilation of two programs, the gradient steps and the
# scores of held-out queries. So all tests but the `full` ones share them: both
# collections have 108 images of 16 dimensions and room for as many edges, each setting
# that a program depends on is that of CONFIG, and data switch the objective over.
LEARNED = "alpha", "gamma", "projection"
# Steps have one size, and only directions count: so large a projection hardly turns.
START = parameters(("projection",), dim=16, alpha=0.3)
START = START._replace(projection=100 * jnp.eye(16))
CONFIG = FitConfig(
    steps=24,
    learning_rate=0.3,
    batch=4,
    evaluate_every=8,
    refresh_every=16,
    query_k=5,
    k=8,
    projection_rate=0.05,
)
EDGE_CAPACITY = 108 * 8
# Images that no training query shows. Labels that do not use one of them switch
# `switched_objective` over.
ASCEND, FREEZE, POISON = 105, 106, 107
POISONED_OBJECT = 3  # Queries 6 and 7 ask for it; the first batch has neither.
TRACES = []


def switched_objective(scores, positives, used, **kwargs):
    """`simple_objective`, or what the labels switch it to.

    It has the other sign if ASCEND is not used, no gradient if FREEZE is not, and is
    NaN if POISON is not and the batch asks for POISONED_OBJECT.
    """
    TRACES.append(scores.shape)
    loss = simple_objective(scores, positives, used, **kwargs)
    is_on = ~used.any(1)
    loss = jnp.where(is_on[ASCEND], -loss, loss)
    loss = jnp.where(is_on[FREEZE], jax.lax.stop_gradient(loss), loss)
    is_poisoned = is_on[POISON] & positives[12 * POISONED_OBJECT].any()
    return loss * jnp.where(is_poisoned, jnp.nan, 1.0)


class TrainingData(NamedTuple):
    training_graphs: TrainingGraphs
    training: LabelledQueries
    held_out: LabelledQueries

    def switch(self, image: int) -> "TrainingData":
        """The same with an objective that is switched over."""
        used = np.array(self.training.used)
        used[image] = False
        return self._replace(training=self.training._replace(used=used))


def make_training_data(vectors, queries, objects, asked) -> TrainingData:
    collection = with_edge_capacities(
        training_graphs(vectors, k=5), [EDGE_CAPACITY] * 2
    )
    return TrainingData(collection, *split_objects(vectors, queries, objects, asked))


@pytest.fixture(scope="module")
def curved() -> TrainingData:
    """Curves that are asked for at their beginnings."""
    return make_training_data(*curves(queries_per_object=2))


def learn(data: TrainingData, *, start=START, **changes) -> FitResult:
    settings = {"learned": LEARNED, "config": CONFIG, "objective": switched_objective}
    return fit(*data, start, **(settings | changes))


@pytest.fixture(scope="module")
def learned_and_traces(curved) -> tuple[FitResult, list[int]]:
    """A fit, and how often its objective had been traced at each evaluation."""
    counts = []
    result = learn(curved, progress=lambda *_: counts.append(len(TRACES)))
    return result, counts


@pytest.fixture(scope="module")
def learned(learned_and_traces) -> FitResult:
    return learned_and_traces[0]


def assert_same(one: FitResult, other: FitResult):
    for a, b in (
        (one.history, other.history),
        (present_parameters(one.parameters), present_parameters(other.parameters)),
    ):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert one[2:] == other[2:]


def test_curves_that_must_be_followed_raise_alpha(learned):
    # At alpha 0.3 scores stay at the beginnings, where all curves are.
    history = learned.history
    assert learned.parameters.alpha > 0.6
    assert history["held_out"].max() > history["held_out"][0] + 0.01
    assert history["loss"][-4:].mean() < history["loss"][:4].mean() - 0.3
    assert learned.stop_reason == "steps"
    np.testing.assert_array_equal(history["evaluated_step"], [0, 8, 16, 24])
    np.testing.assert_array_equal(history["refreshed_step"], [0, 16])


def test_all_steps_between_evaluations_are_one_program(learned_and_traces):
    _, counts = learned_and_traces
    # The first evaluation is before the first step.
    assert counts == [0, *[counts[1]] * 3]


def test_gradient_ascent_is_no_gain_and_the_start_is_returned_as_it_came(
    curved, learned
):
    # As far from the start, against the gradient, where the loss goes the wrong way.
    ascended = learn(curved.switch(ASCEND))
    assert ascended.history["alpha"][-1] < 0.3 < learned.history["alpha"][-1]
    losses = -ascended.history["loss"]
    assert losses[-4:].mean() > learned.history["loss"][:4].mean()
    assert ascended.best_step == 0
    assert ascended.parameters is START
    # Nor is there anything to wait for.
    config = dataclasses.replace(CONFIG, patience=1)
    impatient = learn(curved.switch(ASCEND), config=config)
    assert impatient.stop_reason == "no gain"
    np.testing.assert_array_equal(impatient.history["evaluated_step"], [0, 8])


def test_every_step_and_every_seed_draws_another_batch(curved):
    # Where nothing moves, only the batch changes the loss.
    config = dataclasses.replace(CONFIG, refresh_every=None, patience=9)
    one, other = (
        learn(curved.switch(FREEZE), config=dataclasses.replace(config, seed=seed))
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(one.history["alpha"], START.alpha)
    losses = one.history["loss"]
    assert len(set(losses.round(4))) > 12
    assert not np.isin(other.history["loss"], losses).all()


def test_the_learning_rate_rises_then_falls_and_the_projection_has_a_lower_one(learned):
    # 2 of 24 steps of warmup; then half a cosine over the other 22.
    cosine = (1 + np.cos(np.pi * np.arange(22) / 22)) / 2
    np.testing.assert_allclose(
        learned.history["learning_rate"], 0.3 * np.r_[1 / 3, 2 / 3, cosine], rtol=1e-5
    )
    adam = optimizer(CONFIG)
    values = {"alpha": jnp.float32(3), "projection": jnp.full((2, 2), 5, jnp.float32)}
    with jax.numpy_dtype_promotion("standard"):
        changes, _ = adam.update(values, adam.init(values), values)
    updates: Any = changes
    # The first step of Adam is the rate, whatever the gradient.
    np.testing.assert_allclose(updates["alpha"], -0.1, rtol=1e-4)
    np.testing.assert_allclose(updates["projection"], -0.1 * 0.05 / 0.3, rtol=1e-4)


def test_a_projection_learns_to_leave_out_dimensions_of_noise():
    data = make_training_data(
        *noisy_dimensions(per_object=12, dims=8, queries_per_object=2)
    )
    start = parameters(("projection",), dim=16, alpha=0.9)
    start = start._replace(projection=jnp.eye(16) / 2)
    result = learn(data, start=start)
    column_norms = np.linalg.norm(np.asarray(result.parameters.projection), axis=0)
    assert column_norms[:8].min() > column_norms[8:].max()
    assert result.history["held_out"][-1] > result.history["held_out"][0] + 0.05
    assert result.history["projection"][0] == 0
    assert result.history["projection"][-1] > 0.01


@pytest.mark.full
def test_of_two_graphs_the_one_of_noise_loses_its_weight():
    vectors, queries, owner, asked = curves()
    rng = np.random.default_rng(1)
    noise = unit_vectors(rng.normal(size=vectors.shape))
    views = unit_vectors(rng.normal(size=queries.shape)), queries
    result = fit(
        training_graphs([noise, vectors], k=5),
        *split_objects(vectors, views, owner, asked),
        parameters(("mixture",), graphs=2, alpha=0.9),
        learned=("mixture",),
        config=CONFIG,
        objective=simple_objective,
    )
    assert present_parameters(result.parameters)["mixture"][1] > 0.9


def test_the_same_seed_gives_the_same_and_compiles_nothing_anew(
    curved, learned, compiled
):
    assert_same(learn(curved), learned)
    # Drawing keys and putting arrays together is compiled once for all.
    del compiled[:]
    # No program depends on these settings.
    config = dataclasses.replace(CONFIG, seed=1, patience=2, folds=4)
    learn(curved, config=config)
    assert not compiled


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_fit_continues_bit_by_bit_from_its_checkpoint(
    curved, learned, tmp_path, chunks
):
    calls = []

    def stop(task, done, of):
        calls.append((task, done, of))
        if len(calls) == chunks:
            raise StoppedError

    with pytest.raises(StoppedError):
        learn(curved, checkpoint=tmp_path / "fit", progress=stop)
    assert calls == [("learning", 8 * i, 24) for i in range(chunks)]
    assert_same(learn(curved, checkpoint=tmp_path / "fit"), learned)
    # Finished, it is read and nothing is done.
    assert_same(learn(curved, checkpoint=tmp_path / "fit", progress=stop), learned)
    assert len(calls) == chunks


def test_restarts_and_refreshed_neighbours_continue_from_a_checkpoint(curved, tmp_path):
    config = dataclasses.replace(CONFIG, restarts=2, patience=9)
    uninterrupted, calls = learn(curved, config=config), []

    def stop(*args):
        calls.append(args)
        if len(calls) in {2, 7}:  # Between searches, of either start's 4 evaluations.
            raise StoppedError

    for _ in range(2):
        with pytest.raises(StoppedError):
            learn(curved, config=config, checkpoint=tmp_path / "fit", progress=stop)
    resumed = learn(curved, config=config, checkpoint=tmp_path / "fit")
    assert_same(resumed, uninterrupted)
    history = resumed.history
    np.testing.assert_array_equal(history["evaluated_restart"], [0] * 4 + [1] * 4)
    assert history["alpha"][0] != history["alpha"][24]


def test_a_checkpoint_of_another_learning_is_refused(curved, learned, tmp_path):
    path = tmp_path / "fit"
    learn(curved, checkpoint=path)
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(CheckpointError, match="made with other settings"):
        learn(curved, checkpoint=path, config=other)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="damaged"):
        learn(curved, checkpoint=path)


def test_a_loss_that_is_nan_stops_the_fit_and_names_step_queries_and_parameters(
    curved, learned
):
    with pytest.warns(UserWarning, match="learning stopped in step") as caught:
        result = learn(curved.switch(POISON))
    (message,) = [str(w.message) for w in caught]
    assert message.count("\n") == 0
    step = int(message.split("step ")[1].split()[0])
    queries = message.split("queries ")[1].split(")")[0].split(", ")
    assert {"6", "7"} & {*queries}
    assert len(queries) == CONFIG.batch
    assert "the gradient of alpha, gamma, projection is not finite" in message
    assert result.stop_reason == "diverged"
    # Until then all was as it is without.
    assert step > 0
    assert len(result.history["loss"]) == step + 1
    np.testing.assert_array_equal(
        result.history["loss"][:-1], learned.history["loss"][:step]
    )
    assert all(
        np.isfinite(x).all() for x in present_parameters(result.parameters).values()
    )


def test_a_parameter_at_the_end_of_its_range_stops_the_fit(curved):
    # Ascent lowers alpha, whose log-odds are kept above -13.8: these are -13.6.
    start = START._replace(alpha=jnp.float32(np.exp(-13.6)))
    with pytest.warns(UserWarning, match="alpha ran to the end of its range"):
        result = learn(curved.switch(ASCEND), start=start)
    assert result.stop_reason == "diverged"
    assert result.best_step == 0
    assert result.parameters.alpha == start.alpha


def test_the_parameters_returned_are_the_best_on_the_held_out_queries(curved, learned):
    history = learned.history
    best = np.argmax(history["held_out"])
    assert learned.best_step == history["evaluated_step"][best]
    rows = np.flatnonzero(history["step"] == learned.best_step)
    if rows.size:
        assert learned.parameters.alpha == history["alpha"][rows[0]]
    evaluations, held_out = len(history["held_out"]), len(curved.held_out.objects)
    assert learned.num_solves == 2 * 4 * 24 + evaluations * held_out


@pytest.mark.full
def test_a_projection_that_is_not_learned_is_applied_and_kept():
    vectors, queries, owner, asked = noisy_dimensions(objects=6, per_object=6)
    start = parameters(("projection",), dim=12, rank=6)
    made = training_graphs(vectors, k=6)
    training, held_out = split_objects(vectors, queries, owner, asked)
    config = dataclasses.replace(CONFIG, steps=8, refresh_every=None)
    result = fit(
        made, training, held_out, start, config=config, objective=simple_objective
    )
    np.testing.assert_array_equal(
        present_parameters(result.parameters)["projection"],
        present_parameters(start)["projection"],
    )
    # It is applied beforehand, and comes to the same as the whole chain.
    rankings = rank(score_images(start, made, held_out.queries, query_k=5))
    positives = [np.flatnonzero(column) for column in np.asarray(held_out.positives).T]
    expected = evaluate(
        rankings, RelevanceLists(positives, [np.arange(0)] * len(positives))
    )
    assert result.history["held_out"][0] == pytest.approx(
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
def test_rejects_parts_that_are_missing(curved, change, match):
    with pytest.raises(ValueError, match=match):
        learn(curved, **change)


@pytest.mark.usefixtures("unchecked")
def test_rejects_contradictory_labels(curved):
    made, training, held_out = curved
    nothing = training._replace(positives=np.zeros_like(training.positives))
    with pytest.raises(ValueError, match="training must have a query with a positive"):
        learn(TrainingData(made, nothing, held_out))
    fewer = held_out._replace(positives=held_out.positives[1:])
    with pytest.raises(ValueError, match=r"held_out .* labels those of another index"):
        learn(TrainingData(made, training, fewer))
    with pytest.raises(ValueError, match=r"of other objects .* 'object 0' in both"):
        learn(TrainingData(made, training, training))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 10}, "steps must be a multiple of evaluate_every, 8, got 10"),
        ({"refresh_every": 3}, "refresh_every must be a multiple"),
        ({"learning_rate": 0.0}, r"learning_rate .* got 0\.0"),
        ({"warmup": 1.0}, r"warmup .* got 1\.0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_rejects_settings_out_of_range(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONFIG, **change)
