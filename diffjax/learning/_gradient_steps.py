"""Gradient steps of Adam in one compiled loop, and signs that they diverge."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ._config import FitConfig
from ._labels import QueryTable, select_queries
from ._learned_whitening import ScatterMatrices, replace_shrinkage_by_projection
from ._objectives import Objective
from ._parameters import Parameters, at_range_end, constrain, present_parts
from ._problem import LearningProblem
from ._score_images import score_images

# Unconstrained numbers of the parameters that are learned, by name.
LearnedArrays = dict[str, Array]


class ScoringChain(NamedTuple):
    """What the program that scores images is compiled for.

    Attributes:
        query_k: Neighbours of each query region.
        max_steps: Most iterations of the solver.
        rtol: Relative residual at which a query is solved.
        num_images: Number of images.
        max_regions: Most regions of any image.
        dim: Dimensions that shrinkage projects to; None for all.
    """

    query_k: int
    max_steps: int
    rtol: float
    num_images: int
    max_regions: int
    dim: int | None


class StepSettings(NamedTuple):
    """What the program of steps is compiled for.

    Attributes:
        config: Settings, as far as steps depend on them.
        chain: What scoring is compiled for.
        objective: What is made smaller.
        max_positives: Most positives of any query.
    """

    config: FitConfig
    chain: ScoringChain
    objective: Objective
    max_positives: int


class QueryFold(NamedTuple):
    """What a step or an evaluation looks at.

    Attributes:
        problem: The collection.
        table: Queries.
        scatter_matrices: What a projection in closed form is made of; None if there is
            none.
    """

    problem: LearningProblem
    table: QueryTable
    scatter_matrices: ScatterMatrices | None


class StepCarry(NamedTuple):
    """What one step hands to the next.

    Attributes:
        step: Number of the step that comes.
        learned: The numbers that move.
        optimizer: State of the optimiser.
    """

    step: Int[Array, ""]
    learned: LearnedArrays
    optimizer: Any


class StepTrace(NamedTuple):
    """What is noted of each step; values are those at which its loss was taken.

    Attributes:
        loss: The loss of its batch.
        gradient_norm: Length of the gradient before it is clipped.
        learning_rate: Rate.
        values: Constrained values of what is learned; of the projection how far it is
            from its start, |P - P_0| / |P_0|.
        batch: Queries of the batch, by their rows in the table.
        finite: Whether the gradient of each parameter was finite.
        at_range_end: Whether each parameter was at an end of its range afterwards.
    """

    loss: Float[Array | np.ndarray, " t"]
    gradient_norm: Float[Array | np.ndarray, " t"]
    learning_rate: Float[Array | np.ndarray, " t"]
    values: Mapping[str, Array | np.ndarray]
    batch: Int[Array | np.ndarray, "t b"]
    finite: Mapping[str, Array | np.ndarray]
    at_range_end: Mapping[str, Array | np.ndarray]


def learning_rate_schedule(config: FitConfig) -> optax.Schedule:
    """The learning rate of every step: up in a line, down in a cosine."""
    rise = round(config.warmup * config.steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (rise + 1),
        peak_value=config.learning_rate,
        warmup_steps=rise,
        decay_steps=max(config.steps, rise + 1),
    )


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """Adam on clipped gradients, with a rate of its own for the projection."""

    def slow_projection(updates, _):
        ratio = config.projection_rate / config.learning_rate
        return {
            name: each * ratio if name == "projection" else each
            for name, each in updates.items()
        }

    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.adam(learning_rate_schedule(config)),
        optax.stateless(slow_projection),
    )


def resolve_parameters(
    raw: Parameters, scatter_matrices: ScatterMatrices | None, *, dim: int | None
) -> Parameters:
    """Maps unconstrained numbers to parameters that images are scored with."""
    made = constrain(raw)
    return (
        made
        if scatter_matrices is None
        else replace_shrinkage_by_projection(made, scatter_matrices, dim=dim)
    )


@functools.partial(jax.jit, static_argnames="step_settings")
def run_steps(
    carry: StepCarry,
    key: Array,
    start: Parameters,
    fold: QueryFold,
    *,
    step_settings: StepSettings,
) -> tuple[StepCarry, StepTrace]:
    """Runs the steps from one evaluation to the next.

    Args:
        carry: Where learning stands.
        key: Of the batches; a step's batch depends on it and its number only.
        start: Unconstrained numbers to start from, also of what is not learned.
        fold: The collection, and the queries to learn from.
        step_settings: What the program is compiled for.

    Returns:
        Where learning stands then, and what was noted of each step.
    """
    config = step_settings.config
    adam, rate = optimizer(config), learning_rate_schedule(config)
    # Of a part some places may be left over: they are drawn last and teach nothing.
    left_over = (fold.table.rows < 0).all(1)
    count = left_over.shape[0]

    def step(carry, _):
        number = carry.step
        drawn = jax.random.permutation(jax.random.fold_in(key, number), count)
        drawn = drawn[jnp.argsort(left_over[drawn], stable=True)]
        chosen = drawn[: min(config.batch, count)].astype(jnp.int32)
        loss, slope = jax.value_and_grad(_loss)(
            carry.learned, start, fold, chosen, step_settings=step_settings
        )
        # Integer counts meet floating-point decay rates in there.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(slope, carry.optimizer, carry.learned)
            moved: Any = optax.apply_updates(carry.learned, updates)
            now = jnp.asarray(rate(number))
        finite = {name: jnp.isfinite(each).all() for name, each in slope.items()}
        after = StepCarry(number + 1, moved, state)
        ends = at_range_end(start._replace(**after.learned))
        trace = StepTrace(
            loss=loss,
            gradient_norm=_gradient_norm(slope),
            learning_rate=now,
            values=_traced_values(carry.learned, start),
            batch=chosen,
            finite=finite,
            at_range_end={name: ends[name] for name in carry.learned},
        )
        return after, trace

    return jax.lax.scan(step, carry, length=config.evaluate_every)


@functools.partial(jax.jit, static_argnames="chain")
def score_batch(
    learned: LearnedArrays,
    start: Parameters,
    fold: QueryFold,
    chosen: Int[Array, " b"],
    *,
    chain: ScoringChain,
) -> Float[Array, "m b"]:
    """Scores all images for some queries of a table.

    Args:
        learned: Unconstrained numbers of what is learned.
        start: The numbers of all parameters, for what is not learned.
        fold: The collection, and queries.
        chosen: Rows of their table, -1 for none.
        chain: What the program is compiled for.

    Returns:
        Image scores, one column per query.
    """
    settings = chain._asdict()
    dim = settings.pop("dim")
    return score_images(
        resolve_parameters(start._replace(**learned), fold.scatter_matrices, dim=dim),
        fold.problem,
        select_queries(fold.table, chosen),
        num_queries=chosen.shape[0],
        **settings,
    )


def _loss(learned, start, fold, chosen, *, step_settings):
    """The objective of a batch, and what draws the projection to its start."""
    scores = score_batch(learned, start, fold, chosen, chain=step_settings.chain)
    table = fold.table
    loss = step_settings.objective(
        scores,
        table.positives[chosen].T,
        table.used[chosen].T,
        max_positives=step_settings.max_positives,
    )
    if "projection" in learned and step_settings.config.projection_decay:
        away = jnp.sum((learned["projection"] - start.projection) ** 2)
        loss += step_settings.config.projection_decay * away.astype(loss.dtype)
    return loss


def _gradient_norm(slope: LearnedArrays) -> Array:
    return jnp.sqrt(sum((jnp.sum(each**2) for each in slope.values()), jnp.zeros(())))


def _traced_values(learned: LearnedArrays, start: Parameters) -> dict[str, Array]:
    """What the history notes of the parameters that are learned."""
    made = present_parts(constrain(start._replace(**learned)))
    values = {name: made[name] for name in learned if name != "projection"}
    if "projection" in learned:
        origin = present_parts(start)["projection"]
        away = jnp.linalg.norm(learned["projection"] - origin)
        values["projection"] = away / jnp.linalg.norm(origin)
    return values


# A loss so many times the first, or so many if that is below 1, has exploded.
_EXPLOSION_FACTOR = 10.0


class Divergence(NamedTuple):
    """What went wrong.

    Attributes:
        step: In which of the steps that were looked at.
        reason: What it was, naming the parameter.
    """

    step: int
    reason: str


def find_divergence(trace: StepTrace, *, first_loss: float) -> Divergence | None:
    """Looks for the first step that can not be gone on from.

    Args:
        trace: What was noted of some steps, on the host.
        first_loss: Loss of the first step of all.

    Returns:
        What was found, None if nothing.
    """
    bound = _EXPLOSION_FACTOR * max(abs(first_loss), 1.0)
    for step, loss in enumerate(trace.loss):
        bad = [name for name, finite in trace.finite.items() if not finite[step]]
        ends = [name for name, flags in trace.at_range_end.items() if flags[step]]
        if bad:
            return Divergence(step, f"the gradient of {', '.join(bad)} is not finite")
        if not np.isfinite(loss):
            return Divergence(step, f"the loss of {', '.join(trace.finite)} is {loss}")
        if loss > bound:
            return Divergence(
                step, f"the loss exploded from {first_loss:.3g} to {loss}"
            )
        if ends:
            return Divergence(step, f"{', '.join(ends)} ran to the end of its range")
    return None
