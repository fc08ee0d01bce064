"""Gradient steps, evaluations on held-out queries between them, and when to stop."""

import warnings
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffjax.evaluation import evaluate
from diffjax.ranking import rank

from ._config import FitConfig
from ._labelled import Table, answers
from ._parameters import Parameters, constrain, present
from ._problem import Problem, places, refresh, with_places
from ._state import Progress, State
from ._steps import (
    Carry,
    Chain,
    Learned,
    Static,
    Trace,
    batch_scores,
    optimizer,
    run_steps,
)
from ._trouble import find_trouble

Ending = Literal["steps", "no gain", "diverged"]


class Setting(NamedTuple):
    """What stays the same while learning.

    Attributes:
        start: Unconstrained numbers of all parameters.
        names: Parts that are learned.
        config: Settings.
        problem: The collection, with the neighbours it came with.
        training: Queries to learn from.
        held_out: Queries to choose by.
        static: What programs are compiled for.
        fingerprint: Of all that.
    """

    start: Parameters
    names: tuple[str, ...]
    config: FitConfig
    problem: Problem
    training: Table
    held_out: Table
    static: Static
    fingerprint: str


def begin(setting: Setting, before: State | None = None) -> State:
    """Makes the state at the first start, or at the next one.

    Args:
        setting: What stays the same.
        before: The state in which the start before ended; None for the first.

    Returns:
        The state, at step 0.
    """
    config = setting.config
    numbers = Progress() if before is None else before.progress
    key = jax.random.fold_in(jax.random.key(config.seed), numbers.restart)
    learned = {name: present(setting.start)[name] for name in setting.names}
    if numbers.restart:
        for place, (name, value) in enumerate(learned.items()):
            noise = jax.random.normal(
                jax.random.fold_in(key, place), value.shape, value.dtype
            )
            size = jnp.asarray(config.spread, value.dtype)
            if name == "projection":
                size *= jnp.sqrt(jnp.mean(value**2)) / 10
            learned[name] = value + size * noise
    return State(
        progress=numbers,
        learned=learned,
        optimizer=optimizer(config).init(learned),
        refreshed=learned,
        best=learned if before is None else before.best,
        history={} if before is None else before.history,
    )


def problem_of(setting: Setting, state: State) -> Problem:
    """Finds the neighbours again that there were when a state was written.

    Args:
        setting: What stays the same.
        state: The state.

    Returns:
        The collection, in the same shapes, too.
    """
    if not state.progress.places:
        return setting.problem
    roomy = with_places(setting.problem, state.progress.places)
    return _refreshed(setting, roomy, state.refreshed)


def _refreshed(setting, problem, learned) -> Problem:
    made = constrain(setting.start._replace(**learned))
    k = min(setting.config.k, problem.edges.num_nodes)
    return refresh(problem, made, k=k)


def advance(setting: Setting, state: State, current: Problem) -> tuple[State, Problem]:
    """Goes on to the next evaluation, which for a new start is at step 0.

    Args:
        setting: What stays the same.
        state: Where learning stands.
        current: The collection, with the neighbours of that state.

    Returns:
        Both after it; after the last one of a start, at the next start.
    """
    config, numbers = setting.config, state.progress
    ending: Ending | None = None
    if numbers.own_best >= 0:
        state, ending = _chunk(setting, state, current)
    if ending is None:
        state, current = _maybe_refresh(setting, state, current)
        state = _evaluated(setting, state, current)
        if state.progress.waited >= config.patience:
            ending = "no gain"
        elif state.progress.step >= config.steps:
            ending = "steps"
    if ending is not None:
        numbers = state.progress
        numbers = numbers._replace(
            restart=numbers.restart + 1,
            step=0,
            waited=0,
            own_best=-1.0,
            ended=(*numbers.ended, ending),
            places=(),
        )
        state, current = (
            begin(setting, state._replace(progress=numbers)),
            (setting.problem),
        )
    return state, current


def _chunk(setting, state, current) -> tuple[State, Ending | None]:
    """Runs the steps to the next evaluation, and looks for trouble in them."""
    config, numbers = setting.config, state.progress
    key = jax.random.fold_in(jax.random.key(config.seed), numbers.restart)
    carry, trace = run_steps(
        Carry(
            step=jnp.asarray(numbers.step, jnp.int32),
            learned=state.learned,
            optimizer=state.optimizer,
        ),
        # Apart from the numbers that starts are drawn with.
        jax.random.fold_in(key, len(Parameters._fields)),
        setting.start,
        current,
        setting.training,
        static=setting.static,
    )
    trace = jax.tree.map(np.asarray, trace)
    first = state.history.get("loss", trace.loss)[0]
    trouble = find_trouble(trace, first_loss=float(first))
    taken = config.evaluate_every if trouble is None else trouble.step + 1
    state = state._replace(
        learned=carry.learned,
        optimizer=carry.optimizer,
        history=_noted(state.history, trace, numbers, taken=taken),
        progress=numbers._replace(
            step=numbers.step + taken,
            num_solves=numbers.num_solves + 2 * taken * trace.batch.shape[1],
        ),
    )
    if trouble is None:
        return state, None
    queries = np.sort(np.asarray(setting.training.numbers)[trace.batch[trouble.step]])
    warnings.warn(
        f"learning stopped in step {numbers.step + trouble.step} (queries "
        f"{', '.join(map(str, queries))}): {trouble.what}. The best parameters so far "
        f"are given, of step {numbers.best_step}: lower learning_rate.",
        stacklevel=4,
    )
    return state, "diverged"


def _noted(history, trace: Trace, numbers: Progress, *, taken: int):
    steps = np.arange(numbers.step, numbers.step + taken)
    rows = {
        "restart": np.full(taken, numbers.restart),
        "step": steps,
        "loss": trace.loss[:taken],
        "gradient_norm": trace.gradient_norm[:taken],
        "learning_rate": trace.learning_rate[:taken],
        **{name: each[:taken] for name, each in trace.values.items()},
    }
    return _appended(history, rows)


def _appended(history, rows):
    """The history with more rows in some of its columns."""
    added = {
        name: np.concatenate([history[name], each]) if name in history else each
        for name, each in rows.items()
    }
    return history | added


def _maybe_refresh(setting, state, current) -> tuple[State, Problem]:
    """Searches neighbours anew where it is time for it."""
    every, numbers = setting.config.refresh_every, state.progress
    moves = "projection" in setting.names
    if every is None or not moves or numbers.step % every:
        return state, current
    current = _refreshed(setting, current, state.learned)
    rows = {
        "refreshed_restart": np.array([numbers.restart]),
        "refreshed_step": np.array([numbers.step]),
    }
    state = state._replace(
        progress=numbers._replace(places=tuple(places(current))),
        refreshed=state.learned,
        history=_appended(state.history, rows),
    )
    return state, current


def _evaluated(setting, state, current) -> State:
    """Ranks the held-out queries and keeps the best."""
    numbers = state.progress
    value = held_out_precision(
        state.learned,
        setting.start,
        current,
        setting.held_out,
        batch=setting.config.batch,
        chain=setting.static.chain,
    )
    rows = {
        "evaluated_restart": np.array([numbers.restart]),
        "evaluated_step": np.array([numbers.step]),
        "held_out": np.array([value]),
    }
    gain = value > numbers.own_best
    numbers = numbers._replace(
        own_best=max(value, numbers.own_best),
        waited=0 if gain else numbers.waited + 1,
        num_solves=numbers.num_solves + setting.held_out.rows.shape[0],
    )
    best = state.best
    if value > numbers.best:
        best = state.learned
        numbers = numbers._replace(
            best=value, best_step=numbers.step, best_restart=numbers.restart
        )
    return state._replace(
        progress=numbers, best=best, history=_appended(state.history, rows)
    )


def held_out_precision(
    learned: Learned,
    start: Parameters,
    problem: Problem,
    table: Table,
    *,
    batch: int,
    chain: Chain,
) -> float:
    """Mean average precision of the real rankings of all queries of a table.

    Args:
        learned: Unconstrained numbers of what is learned.
        start: The numbers of all parameters.
        problem: The collection.
        table: Queries.
        batch: Most queries that are scored at once.
        chain: What scoring is compiled for.
    """
    count = table.rows.shape[0]
    batch = min(batch, count)
    chosen = np.pad(np.arange(count), (0, -count % batch), constant_values=-1)
    scores: list[Array] = [
        batch_scores(
            learned,
            start,
            problem,
            table,
            jnp.asarray(each, jnp.int32),
            chain=chain,
        )
        for each in chosen.reshape(-1, batch)
    ]
    rankings = rank(jnp.concatenate(scores, axis=1)[:, :count])
    report = evaluate(np.asarray(rankings), answers(table), num_images=chain.num_images)
    return report.mean_average_precision
