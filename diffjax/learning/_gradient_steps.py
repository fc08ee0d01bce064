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
from ._parameters import Parameters, at_range_end, constrain, present_parameters
from ._score_images import score_images
from ._training_graphs import TrainingGraphs

# Unconstrained values of the learned parameters, by name.
LearnedArrays = dict[str, Array]


class ScoringChain(NamedTuple):
    """Static arguments of the program that scores images.

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
    """Static arguments of the program that runs gradient steps.

    Attributes:
        config: Settings, as far as steps depend on them.
        chain: Static arguments of scoring.
        objective: Loss that is minimised.
        max_positives: Most positives of any query.
    """

    config: FitConfig
    chain: ScoringChain
    objective: Objective
    max_positives: int


class QueryFold(NamedTuple):
    """Fold of queries, with the collection that they search.

    Attributes:
        training_graphs: The collection with its graphs.
        table: Queries.
        scatter_matrices: Scatter matrices for a projection in closed form; None without
            such a projection.
    """

    training_graphs: TrainingGraphs
    table: QueryTable
    scatter_matrices: ScatterMatrices | None


class StepCarry(NamedTuple):
    """State that one gradient step passes to the next.

    Attributes:
        step: Number of the next step.
        learned: Unconstrained values of the learned parameters.
        optimizer: State of the optimiser.
    """

    step: Int[Array, ""]
    learned: LearnedArrays
    optimizer: Any


class StepTrace(NamedTuple):
    """Record of gradient steps, one entry per step; values are those before the step.

    Attributes:
        loss: Loss of the batch.
        gradient_norm: Length of the gradient before it is clipped.
        learning_rate: Learning rate.
        values: Constrained values of the learned parameters; for the projection its
            distance from the start, |P - P_0| / |P_0|.
        batch: Queries of the batch, by their rows in the table.
        finite: Whether the gradient of each parameter is finite.
        at_range_end: Whether each parameter is at an end of its range after the step.
    """

    loss: Float[Array | np.ndarray, " t"]
    gradient_norm: Float[Array | np.ndarray, " t"]
    learning_rate: Float[Array | np.ndarray, " t"]
    values: Mapping[str, Array | np.ndarray]
    batch: Int[Array | np.ndarray, "t b"]
    finite: Mapping[str, Array | np.ndarray]
    at_range_end: Mapping[str, Array | np.ndarray]


def learning_rate_schedule(config: FitConfig) -> optax.Schedule:
    """Learning rate by step: a linear warmup, then a cosine decay."""
    rise = round(config.warmup * config.steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (rise + 1),
        peak_value=config.learning_rate,
        warmup_steps=rise,
        decay_steps=max(config.steps, rise + 1),
    )


def optimizer(config: FitConfig) -> optax.GradientTransformation:
    """Adam on clipped gradients, with a separate learning rate for the projection."""

    def slow_projection(updates, _):
        ratio = config.projection_rate / config.learning_rate
        return {
            name: update * ratio if name == "projection" else update
            for name, update in updates.items()
        }

    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient_norm),
        optax.adam(learning_rate_schedule(config)),
        optax.stateless(slow_projection),
    )


def resolve_parameters(
    raw: Parameters, scatter_matrices: ScatterMatrices | None, *, dim: int | None
) -> Parameters:
    """Maps unconstrained values to the parameters that score images."""
    constrained = constrain(raw)
    return (
        constrained
        if scatter_matrices is None
        else replace_shrinkage_by_projection(constrained, scatter_matrices, dim=dim)
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
    """Runs the gradient steps from one evaluation to the next.

    Args:
        carry: State before the first step.
        key: Key of the batches; a step's batch depends only on it and its number.
        start: Unconstrained values of all parameters at the start.
        fold: The collection, and the training queries.
        step_settings: Static arguments of the program.

    Returns:
        State after the last step, and the record of the steps.
    """
    config = step_settings.config
    adam, rate_at = optimizer(config), learning_rate_schedule(config)
    # Padding rows of a fold are drawn last and add nothing to the loss.
    is_padding = (fold.table.rows < 0).all(1)
    count = is_padding.shape[0]

    def take_gradient_step(carry, _):
        number = carry.step
        query_order = jax.random.permutation(jax.random.fold_in(key, number), count)
        query_order = query_order[jnp.argsort(is_padding[query_order], stable=True)]
        query_rows = query_order[: min(config.batch, count)].astype(jnp.int32)
        loss, gradients = jax.value_and_grad(_loss)(
            carry.learned, start, fold, query_rows, step_settings=step_settings
        )
        # optax combines integer counts with floating-point decay rates.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(gradients, carry.optimizer, carry.learned)
            updated: Any = optax.apply_updates(carry.learned, updates)
            learning_rate = jnp.asarray(rate_at(number))
        finite = {
            name: jnp.isfinite(gradient).all() for name, gradient in gradients.items()
        }
        next_carry = StepCarry(number + 1, updated, state)
        end_flags = at_range_end(start._replace(**next_carry.learned))
        trace = StepTrace(
            loss=loss,
            gradient_norm=_gradient_norm(gradients),
            learning_rate=learning_rate,
            values=_traced_values(carry.learned, start),
            batch=query_rows,
            finite=finite,
            at_range_end={name: end_flags[name] for name in carry.learned},
        )
        return next_carry, trace

    return jax.lax.scan(take_gradient_step, carry, length=config.evaluate_every)


@functools.partial(jax.jit, static_argnames="chain")
def score_batch(
    learned: LearnedArrays,
    start: Parameters,
    fold: QueryFold,
    query_rows: Int[Array, " b"],
    *,
    chain: ScoringChain,
) -> Float[Array, "m b"]:
    """Scores all images for some queries of a table.

    Args:
        learned: Unconstrained values of the learned parameters.
        start: Unconstrained values of all parameters.
        fold: The collection, and queries.
        query_rows: Rows of the table, -1 for padding.
        chain: Static arguments of the program.

    Returns:
        Image scores, one column per query.
    """
    settings = chain._asdict()
    dim = settings.pop("dim")
    return score_images(
        resolve_parameters(start._replace(**learned), fold.scatter_matrices, dim=dim),
        fold.training_graphs,
        select_queries(fold.table, query_rows),
        num_queries=query_rows.shape[0],
        **settings,
    )


def _loss(learned, start, fold, query_rows, *, step_settings):
    """Loss of a batch, with the decay of the projection towards its start."""
    scores = score_batch(learned, start, fold, query_rows, chain=step_settings.chain)
    table = fold.table
    loss = step_settings.objective(
        scores,
        table.positives[query_rows].T,
        table.used[query_rows].T,
        max_positives=step_settings.max_positives,
    )
    if "projection" in learned and step_settings.config.projection_decay:
        squared_distance = jnp.sum((learned["projection"] - start.projection) ** 2)
        loss += step_settings.config.projection_decay * squared_distance.astype(
            loss.dtype
        )
    return loss


def _gradient_norm(gradients: LearnedArrays) -> Array:
    return jnp.sqrt(
        sum((jnp.sum(gradient**2) for gradient in gradients.values()), jnp.zeros(()))
    )


def _traced_values(learned: LearnedArrays, start: Parameters) -> dict[str, Array]:
    """Values of the learned parameters, as the history records them."""
    constrained = present_parameters(constrain(start._replace(**learned)))
    values = {name: constrained[name] for name in learned if name != "projection"}
    if "projection" in learned:
        origin = present_parameters(start)["projection"]
        distance = jnp.linalg.norm(learned["projection"] - origin)
        values["projection"] = distance / jnp.linalg.norm(origin)
    return values


# A loss so many times the first, or so many if that is below 1, has exploded.
_EXPLOSION_FACTOR = 10.0


class Divergence(NamedTuple):
    """Divergence of a fit.

    Attributes:
        step: Number of the step among those of the trace.
        reason: Reason, naming the parameter.
    """

    step: int
    reason: str


def find_divergence(trace: StepTrace, *, first_loss: float) -> Divergence | None:
    """Finds the first step after which a fit can't continue.

    Args:
        trace: Record of steps, on the host.
        first_loss: Loss of the first step of the fit.

    Returns:
        The divergence; None if there is none.
    """
    bound = _EXPLOSION_FACTOR * max(abs(first_loss), 1.0)
    for step, loss in enumerate(trace.loss):
        not_finite = [name for name, finite in trace.finite.items() if not finite[step]]
        at_end = [name for name, flags in trace.at_range_end.items() if flags[step]]
        if not_finite:
            return Divergence(
                step, f"the gradient of {', '.join(not_finite)} is not finite"
            )
        if not np.isfinite(loss):
            return Divergence(step, f"the loss of {', '.join(trace.finite)} is {loss}")
        if loss > bound:
            return Divergence(
                step, f"the loss exploded from {first_loss:.3g} to {loss}"
            )
        if at_end:
            return Divergence(step, f"{', '.join(at_end)} ran to the end of its range")
    return None
