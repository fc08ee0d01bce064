"""Steps of Adam through the whole chain: one compiled loop between two evaluations."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ._config import FitConfig
from ._labelled import Table, take
from ._objectives import Objective
from ._parameters import Parameters, at_end, constrain, present
from ._problem import Problem
from ._scores import score_images
from ._whitened import Scatters, whiten

# Unconstrained numbers of the parameters that are learned, by name.
Learned = dict[str, Array]


class Chain(NamedTuple):
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


class Static(NamedTuple):
    """What the program of steps is compiled for.

    Attributes:
        config: Settings, as far as steps depend on them.
        chain: What scoring is compiled for.
        objective: What is made smaller.
        max_positives: Most positives of any query.
    """

    config: FitConfig
    chain: Chain
    objective: Objective
    max_positives: int


class Part(NamedTuple):
    """What a step or an evaluation looks at.

    Attributes:
        problem: The collection.
        table: Queries.
        scatters: What a projection in closed form is made of; None if there is none.
    """

    problem: Problem
    table: Table
    scatters: Scatters | None


class Carry(NamedTuple):
    """What one step hands to the next.

    Attributes:
        step: Number of the step that comes.
        learned: The numbers that move.
        optimizer: State of the optimiser.
    """

    step: Int[Array, ""]
    learned: Learned
    optimizer: Any


class Trace(NamedTuple):
    """What is noted of each step; values are those at which its loss was taken.

    Attributes:
        loss: The loss of its batch.
        gradient_norm: Length of the gradient before it is clipped.
        learning_rate: Rate.
        values: Constrained values of what is learned; of the projection how far it is
            from its start, |P - P_0| / |P_0|.
        batch: Queries of the batch, by their rows in the table.
        finite: Whether the gradient of each parameter was finite.
        at_end: Whether each parameter was at an end of its range afterwards.
    """

    loss: Float[Array | np.ndarray, " t"]
    gradient_norm: Float[Array | np.ndarray, " t"]
    learning_rate: Float[Array | np.ndarray, " t"]
    values: Mapping[str, Array | np.ndarray]
    batch: Int[Array | np.ndarray, "t b"]
    finite: Mapping[str, Array | np.ndarray]
    at_end: Mapping[str, Array | np.ndarray]


def schedule(config: FitConfig) -> optax.Schedule:
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
        optax.clip_by_global_norm(config.clip),
        optax.adam(schedule(config)),
        optax.stateless(slow_projection),
    )


def resolve(
    raw: Parameters, scatters: Scatters | None, *, dim: int | None
) -> Parameters:
    """Maps unconstrained numbers to parameters that images are scored with."""
    made = constrain(raw)
    return made if scatters is None else whiten(made, scatters, dim=dim)


@functools.partial(jax.jit, static_argnames="static")
def run_steps(
    carry: Carry, key: Array, start: Parameters, part: Part, *, static: Static
) -> tuple[Carry, Trace]:
    """Runs the steps from one evaluation to the next.

    Args:
        carry: Where learning stands.
        key: Of the batches; a step's batch depends on it and its number only.
        start: Unconstrained numbers to start from, also of what is not learned.
        part: The collection, and the queries to learn from.
        static: What the program is compiled for.

    Returns:
        Where learning stands then, and what was noted of each step.
    """
    config = static.config
    adam, rate = optimizer(config), schedule(config)
    # Of a part some places may be left over: they are drawn last and teach nothing.
    left_over = (part.table.rows < 0).all(1)
    count = left_over.shape[0]

    def step(carry, _):
        number = carry.step
        drawn = jax.random.permutation(jax.random.fold_in(key, number), count)
        drawn = drawn[jnp.argsort(left_over[drawn], stable=True)]
        chosen = drawn[: min(config.batch, count)].astype(jnp.int32)
        loss, slope = jax.value_and_grad(_loss)(
            carry.learned, start, part, chosen, static=static
        )
        # Integer counts meet floating-point decay rates in there.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(slope, carry.optimizer, carry.learned)
            moved: Any = optax.apply_updates(carry.learned, updates)
            now = jnp.asarray(rate(number))
        finite = {name: jnp.isfinite(each).all() for name, each in slope.items()}
        after = Carry(number + 1, moved, state)
        ends = at_end(start._replace(**after.learned))
        trace = Trace(
            loss=loss,
            gradient_norm=_length(slope),
            learning_rate=now,
            values=_values(carry.learned, start),
            batch=chosen,
            finite=finite,
            at_end={name: ends[name] for name in carry.learned},
        )
        return after, trace

    return jax.lax.scan(step, carry, length=config.evaluate_every)


@functools.partial(jax.jit, static_argnames="chain")
def batch_scores(
    learned: Learned,
    start: Parameters,
    part: Part,
    chosen: Int[Array, " b"],
    *,
    chain: Chain,
) -> Float[Array, "m b"]:
    """Scores all images for some queries of a table.

    Args:
        learned: Unconstrained numbers of what is learned.
        start: The numbers of all parameters, for what is not learned.
        part: The collection, and queries.
        chosen: Rows of their table, -1 for none.
        chain: What the program is compiled for.

    Returns:
        Image scores, one column per query.
    """
    settings = chain._asdict()
    dim = settings.pop("dim")
    return score_images(
        resolve(start._replace(**learned), part.scatters, dim=dim),
        part.problem,
        take(part.table, chosen),
        num_queries=chosen.shape[0],
        **settings,
    )


def _loss(learned, start, part, chosen, *, static):
    """The objective of a batch, and what draws the projection to its start."""
    scores = batch_scores(learned, start, part, chosen, chain=static.chain)
    table = part.table
    loss = static.objective(
        scores,
        table.positives[chosen].T,
        table.used[chosen].T,
        max_positives=static.max_positives,
    )
    if "projection" in learned and static.config.projection_decay:
        away = jnp.sum((learned["projection"] - start.projection) ** 2)
        loss += static.config.projection_decay * away.astype(loss.dtype)
    return loss


def _length(slope: Learned) -> Array:
    return jnp.sqrt(sum((jnp.sum(each**2) for each in slope.values()), jnp.zeros(())))


def _values(learned: Learned, start: Parameters) -> dict[str, Array]:
    """What the history notes of the parameters that are learned."""
    made = present(constrain(start._replace(**learned)))
    values = {name: made[name] for name in learned if name != "projection"}
    if "projection" in learned:
        origin = present(start)["projection"]
        away = jnp.linalg.norm(learned["projection"] - origin)
        values["projection"] = away / jnp.linalg.norm(origin)
    return values
