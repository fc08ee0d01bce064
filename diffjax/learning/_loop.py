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
from ._labelled import answers
from ._parameters import Parameters, present
from ._problem import Problem, places, refresh, with_places
from ._state import Progress, State
from ._steps import (
    Carry,
    Chain,
    Learned,
    Part,
    Static,
    Trace,
    batch_scores,
    optimizer,
    resolve,
    run_steps,
)
from ._trouble import find_trouble

# The collection with its neighbours: one, or one a part and the one that is evaluated.
Problems = tuple[Problem, ...]
Ending = Literal["steps", "no gain", "diverged"]


class Setting(NamedTuple):
    """What stays the same while learning.

    Attributes:
        start: Unconstrained numbers of all parameters.
        names: Parts that are learned.
        config: Settings.
        training: The collection, with the neighbours it came with, and queries to learn
            from: all of them, or parts that take turns.
        held_out: The same of the queries to choose by.
        static: What programs are compiled for.
        searching: How held-out queries are ranked.
        fingerprint: Of all that.
    """

    start: Parameters
    names: tuple[str, ...]
    config: FitConfig
    training: tuple[Part, ...]
    held_out: Part
    static: Static
    searching: Chain
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


def problems_of(setting: Setting, state: State) -> Problems:
    """Finds the neighbours again that there were when a state was written.

    Args:
        setting: What stays the same.
        state: The state.

    Returns:
        The collections, in the same shapes, too.
    """
    first = _first_problems(setting)
    if not state.progress.places:
        return first
    roomy = tuple(with_places(each, state.progress.places) for each in first)
    return _refreshed(setting, roomy, state.refreshed)


def _parts(setting: Setting) -> tuple[Part, ...]:
    """Those whose neighbours are searched apart, the one that is evaluated last."""
    if setting.held_out.scatters is None:
        return (setting.held_out,)
    return (*setting.training, setting.held_out)


def _first_problems(setting: Setting) -> Problems:
    return tuple(part.problem for part in _parts(setting))


def _refreshed(setting: Setting, problems: Problems, learned: Learned) -> Problems:
    raw = setting.start._replace(**learned)
    k = min(setting.config.k, problems[0].edges.num_nodes)
    found = [
        refresh(problem, resolve(raw, part.scatters, dim=setting.config.dim), k=k)
        for part, problem in zip(_parts(setting), problems, strict=True)
    ]
    # One shape for all, so that one program serves them.
    sizes = [max(each) for each in zip(*map(places, found), strict=True)]
    return tuple(with_places(each, sizes) for each in found)


def advance(
    setting: Setting, state: State, current: Problems
) -> tuple[State, Problems]:
    """Goes on to the next evaluation, which for a new start is at step 0.

    Args:
        setting: What stays the same.
        state: Where learning stands.
        current: The collections, with the neighbours of that state.

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
        state = begin(setting, state._replace(progress=numbers))
        current = _first_problems(setting)
    return state, current


def _chunk(setting, state, current) -> tuple[State, Ending | None]:
    """Runs the steps to the next evaluation, and looks for trouble in them."""
    config, numbers = setting.config, state.progress
    key = jax.random.fold_in(jax.random.key(config.seed), numbers.restart)
    turn = numbers.step // config.evaluate_every % len(setting.training)
    part = setting.training[turn]
    part = part._replace(problem=current[min(turn, len(current) - 1)])
    carry, trace = run_steps(
        Carry(
            step=jnp.asarray(numbers.step, jnp.int32),
            learned=state.learned,
            optimizer=state.optimizer,
        ),
        # Apart from the numbers that starts are drawn with.
        jax.random.fold_in(key, len(Parameters._fields)),
        setting.start,
        part,
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
    queries = np.sort(np.asarray(part.table.numbers)[trace.batch[trouble.step]])
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


def _maybe_refresh(setting, state, current) -> tuple[State, Problems]:
    """Searches neighbours anew where it is time for it."""
    every, step = setting.config.refresh_every, state.progress.step
    numbers, scatters = state.progress, setting.held_out.scatters
    moves = "projection" in setting.names or {"shrinkage", "emphasis"} & {
        *setting.names
    }
    due = moves and every is not None and step % every == 0
    # What the collection came with are not the neighbours of a closed form.
    if not due and (scatters is None or step):
        return state, current
    current = _refreshed(setting, current, state.learned)
    rows = {
        "refreshed_restart": np.array([numbers.restart]),
        "refreshed_step": np.array([numbers.step]),
    }
    state = state._replace(
        progress=numbers._replace(places=tuple(places(current[-1]))),
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
        setting.held_out._replace(problem=current[-1]),
        batch=setting.config.batch,
        chain=setting.searching,
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
        num_solves=numbers.num_solves + setting.held_out.table.rows.shape[0],
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
    part: Part,
    *,
    batch: int,
    chain: Chain,
) -> float:
    """Mean average precision of the real rankings of all queries of a part.

    Args:
        learned: Unconstrained numbers of what is learned.
        start: The numbers of all parameters.
        part: The collection, and the queries.
        batch: Most queries that are scored at once.
        chain: What scoring is compiled for.
    """
    count = part.table.rows.shape[0]
    batch = min(batch, count)
    chosen = np.pad(np.arange(count), (0, -count % batch), constant_values=-1)
    scores: list[Array] = [
        batch_scores(
            learned,
            start,
            part,
            jnp.asarray(each, jnp.int32),
            chain=chain,
        )
        for each in chosen.reshape(-1, batch)
    ]
    rankings = rank(jnp.concatenate(scores, axis=1)[:, :count])
    report = evaluate(
        np.asarray(rankings), answers(part.table), num_images=chain.num_images
    )
    return report.mean_average_precision
