"""Fit of a diffusion's parameters: folds, restarts, evaluations and early stopping."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from diffjax.evaluation import evaluate
from diffjax.ranking import rank

from ._checkpoint import FitProgress, FitState, fingerprint_fit, load_state, save_state
from ._config import FitConfig
from ._gradient_steps import (
    LearnedArrays,
    QueryFold,
    ScoringChain,
    StepCarry,
    StepSettings,
    StepTrace,
    find_divergence,
    optimizer,
    resolve_parameters,
    run_steps,
    score_batch,
)
from ._labels import (
    LabelledQueries,
    QueryTable,
    images_of_objects,
    make_query_table,
    relevance_lists,
    split_query_table,
)
from ._learned_whitening import replace_shrinkage_by_projection, scatter_matrices
from ._objectives import OBJECTIVES, Objective
from ._parameters import Parameters, constrain, present_parts, unconstrain
from ._problem import (
    LearningProblem,
    edge_capacities,
    edges_with_similarities,
    project_vectors,
    refresh_neighbors,
    with_edge_capacities,
)


class TrainingFolds(NamedTuple):
    """A collection as parts of its training queries see it, and the held-out ones.

    Attributes:
        training: One for every part.
        held_out: Of the held-out queries.
    """

    training: tuple[QueryFold, ...]
    held_out: QueryFold


def split_into_folds(
    problem: LearningProblem,
    training: LabelledQueries,
    tables: list[QueryTable],
    *,
    config: FitConfig,
) -> TrainingFolds:
    """Splits the training objects and measures the scatters of each part's others.

    Object i of those that ask something, sorted by name, is in part i modulo
    `config.folds`.

    Args:
        problem: The collection.
        training: Queries to learn from, with objects.
        tables: Those that ask something, of training and held out.
        config: Settings.

    Returns:
        The parts; the held-out queries see the scatters of all training objects.

    Raises:
        ValueError: If a query has no object, or there are fewer than two objects that
            two images or more show.
    """
    own, held_out = tables
    if not training.objects:
        raise ValueError("training.objects must name what queries show for shrinkage.")
    images = images_of_objects(training)
    shown = [training.objects[number] for number in np.asarray(own.numbers)]
    names = sorted(set(shown))
    count = min(config.folds, len(names))
    if count < 2:
        raise ValueError(
            f"training must be of two objects or more for shrinkage, got {names}."
        )
    turns = {name: number % count for number, name in enumerate(names)}
    split = split_query_table(own, np.array([turns[name] for name in shown]))

    def measured(left_out):
        # An object of which no query asks anything has no turn and is always seen.
        seen = [name for name in images if turns.get(name, -1) != left_out]
        if not seen:
            raise ValueError(
                "training must have two objects that two images or more show for "
                f"shrinkage, got {sorted(images)}."
            )
        return scatter_matrices(problem, [images[name] for name in seen])

    parts = [
        QueryFold(problem, table, measured(number))
        for number, table in enumerate(split)
    ]
    return TrainingFolds(tuple(parts), QueryFold(problem, held_out, measured(count)))


# The collection with its neighbours: one, or one a part and the one that is evaluated.
FoldProblems = tuple[LearningProblem, ...]
StopReason = Literal["steps", "no gain", "diverged"]


class FitSetup(NamedTuple):
    """What stays the same while learning.

    Attributes:
        start: Unconstrained numbers of all parameters.
        names: Parts that are learned.
        config: Settings.
        training: The collection, with the neighbours it came with, and queries to learn
            from: all of them, or parts that take turns.
        held_out: The same of the queries to choose by.
        step_settings: What programs are compiled for.
        evaluation_chain: How held-out queries are ranked.
        fingerprint: Of all that.
    """

    start: Parameters
    names: tuple[str, ...]
    config: FitConfig
    training: tuple[QueryFold, ...]
    held_out: QueryFold
    step_settings: StepSettings
    evaluation_chain: ScoringChain
    fingerprint: str


def begin_restart(setup: FitSetup, previous: FitState | None = None) -> FitState:
    """Makes the state at the first start, or at the next one.

    Args:
        setup: What stays the same.
        previous: The state in which the start before ended; None for the first.

    Returns:
        The state, at step 0.
    """
    config = setup.config
    numbers = FitProgress() if previous is None else previous.progress
    key = jax.random.fold_in(jax.random.key(config.seed), numbers.restart)
    learned = {name: present_parts(setup.start)[name] for name in setup.names}
    if numbers.restart:
        for place, (name, value) in enumerate(learned.items()):
            noise = jax.random.normal(
                jax.random.fold_in(key, place), value.shape, value.dtype
            )
            size = jnp.asarray(config.restart_spread, value.dtype)
            if name == "projection":
                size *= jnp.sqrt(jnp.mean(value**2)) / 10
            learned[name] = value + size * noise
    return FitState(
        progress=numbers,
        learned=learned,
        optimizer=optimizer(config).init(learned),
        learned_at_refresh=learned,
        best=learned if previous is None else previous.best,
        history={} if previous is None else previous.history,
    )


def restore_problems(setup: FitSetup, state: FitState) -> FoldProblems:
    """Finds the neighbours again that there were when a state was written.

    Args:
        setup: What stays the same.
        state: The state.

    Returns:
        The collections, in the same shapes, too.
    """
    first = _initial_problems(setup)
    if not state.progress.edge_capacities:
        return first
    roomy = tuple(
        with_edge_capacities(each, state.progress.edge_capacities) for each in first
    )
    return _refresh_problems(setup, roomy, state.learned_at_refresh)


def _searched_folds(setup: FitSetup) -> tuple[QueryFold, ...]:
    """Those whose neighbours are searched apart, the one that is evaluated last."""
    if setup.held_out.scatter_matrices is None:
        return (setup.held_out,)
    return (*setup.training, setup.held_out)


def _initial_problems(setup: FitSetup) -> FoldProblems:
    return tuple(fold.problem for fold in _searched_folds(setup))


def _refresh_problems(
    setup: FitSetup, problems: FoldProblems, learned: LearnedArrays
) -> FoldProblems:
    raw = setup.start._replace(**learned)
    k = min(setup.config.k, problems[0].edges.num_nodes)
    found = [
        refresh_neighbors(
            problem,
            resolve_parameters(raw, fold.scatter_matrices, dim=setup.config.dim),
            k=k,
        )
        for fold, problem in zip(_searched_folds(setup), problems, strict=True)
    ]
    # One shape for all, so that one program serves them.
    sizes = [max(each) for each in zip(*map(edge_capacities, found), strict=True)]
    return tuple(with_edge_capacities(each, sizes) for each in found)


def advance_to_evaluation(
    setup: FitSetup, state: FitState, problems: FoldProblems
) -> tuple[FitState, FoldProblems]:
    """Goes on to the next evaluation, which for a new start is at step 0.

    Args:
        setup: What stays the same.
        state: Where learning stands.
        problems: The collections, with the neighbours of that state.

    Returns:
        Both after it; after the last one of a start, at the next start.
    """
    config, numbers = setup.config, state.progress
    ending: StopReason | None = None
    if numbers.restart_best >= 0:
        state, ending = _run_steps_to_evaluation(setup, state, problems)
    if ending is None:
        state, problems = _refresh_if_due(setup, state, problems)
        state = _evaluate_held_out(setup, state, problems)
        if state.progress.evaluations_without_gain >= config.patience:
            ending = "no gain"
        elif state.progress.step >= config.steps:
            ending = "steps"
    if ending is not None:
        numbers = state.progress
        numbers = numbers._replace(
            restart=numbers.restart + 1,
            step=0,
            evaluations_without_gain=0,
            restart_best=-1.0,
            ended=(*numbers.ended, ending),
            edge_capacities=(),
        )
        state = begin_restart(setup, state._replace(progress=numbers))
        problems = _initial_problems(setup)
    return state, problems


def _run_steps_to_evaluation(
    setup, state, problems
) -> tuple[FitState, StopReason | None]:
    """Runs the steps to the next evaluation, and looks for trouble in them."""
    config, numbers = setup.config, state.progress
    key = jax.random.fold_in(jax.random.key(config.seed), numbers.restart)
    turn = numbers.step // config.evaluate_every % len(setup.training)
    fold = setup.training[turn]
    fold = fold._replace(problem=problems[min(turn, len(problems) - 1)])
    carry, trace = run_steps(
        StepCarry(
            step=jnp.asarray(numbers.step, jnp.int32),
            learned=state.learned,
            optimizer=state.optimizer,
        ),
        # Apart from the numbers that starts are drawn with.
        jax.random.fold_in(key, len(Parameters._fields)),
        setup.start,
        fold,
        step_settings=setup.step_settings,
    )
    trace = jax.tree.map(np.asarray, trace)
    first = state.history.get("loss", trace.loss)[0]
    trouble = find_divergence(trace, first_loss=float(first))
    taken = config.evaluate_every if trouble is None else trouble.step + 1
    state = state._replace(
        learned=carry.learned,
        optimizer=carry.optimizer,
        history=_record_steps(state.history, trace, numbers, taken=taken),
        progress=numbers._replace(
            step=numbers.step + taken,
            num_solves=numbers.num_solves + 2 * taken * trace.batch.shape[1],
        ),
    )
    if trouble is None:
        return state, None
    queries = np.sort(np.asarray(fold.table.numbers)[trace.batch[trouble.step]])
    warnings.warn(
        f"learning stopped in step {numbers.step + trouble.step} (queries "
        f"{', '.join(map(str, queries))}): {trouble.reason}. The best parameters "
        f"so far "
        f"are given, of step {numbers.best_step}: lower learning_rate.",
        stacklevel=4,
    )
    return state, "diverged"


def _record_steps(history, trace: StepTrace, numbers: FitProgress, *, taken: int):
    steps = np.arange(numbers.step, numbers.step + taken)
    rows = {
        "restart": np.full(taken, numbers.restart),
        "step": steps,
        "loss": trace.loss[:taken],
        "gradient_norm": trace.gradient_norm[:taken],
        "learning_rate": trace.learning_rate[:taken],
        **{name: each[:taken] for name, each in trace.values.items()},
    }
    return _append_history(history, rows)


def _append_history(history, rows):
    """The history with more rows in some of its columns."""
    added = {
        name: np.concatenate([history[name], each]) if name in history else each
        for name, each in rows.items()
    }
    return history | added


def _refresh_if_due(setup, state, problems) -> tuple[FitState, FoldProblems]:
    """Searches neighbours anew where it is time for it."""
    every, step = setup.config.refresh_every, state.progress.step
    numbers, scatter_matrices = state.progress, setup.held_out.scatter_matrices
    moves = "projection" in setup.names or {"shrinkage", "emphasis"} & {*setup.names}
    due = moves and every is not None and step % every == 0
    # What the collection came with are not the neighbours of a closed form.
    if not due and (scatter_matrices is None or step):
        return state, problems
    problems = _refresh_problems(setup, problems, state.learned)
    rows = {
        "refreshed_restart": np.array([numbers.restart]),
        "refreshed_step": np.array([numbers.step]),
    }
    state = state._replace(
        progress=numbers._replace(edge_capacities=tuple(edge_capacities(problems[-1]))),
        learned_at_refresh=state.learned,
        history=_append_history(state.history, rows),
    )
    return state, problems


def _evaluate_held_out(setup, state, problems) -> FitState:
    """Ranks the held-out queries and keeps the best."""
    numbers = state.progress
    value = held_out_precision(
        state.learned,
        setup.start,
        setup.held_out._replace(problem=problems[-1]),
        batch=setup.config.batch,
        chain=setup.evaluation_chain,
    )
    rows = {
        "evaluated_restart": np.array([numbers.restart]),
        "evaluated_step": np.array([numbers.step]),
        "held_out": np.array([value]),
    }
    gain = value > numbers.restart_best
    numbers = numbers._replace(
        restart_best=max(value, numbers.restart_best),
        evaluations_without_gain=0 if gain else numbers.evaluations_without_gain + 1,
        num_solves=numbers.num_solves + setup.held_out.table.rows.shape[0],
    )
    best = state.best
    if value > numbers.best:
        best = state.learned
        numbers = numbers._replace(
            best=value, best_step=numbers.step, best_restart=numbers.restart
        )
    return state._replace(
        progress=numbers, best=best, history=_append_history(state.history, rows)
    )


def held_out_precision(
    learned: LearnedArrays,
    start: Parameters,
    fold: QueryFold,
    *,
    batch: int,
    chain: ScoringChain,
) -> float:
    """Mean average precision of the real rankings of all queries of a part.

    Args:
        learned: Unconstrained numbers of what is learned.
        start: The numbers of all parameters.
        fold: The collection, and the queries.
        batch: Most queries that are scored at once.
        chain: What scoring is compiled for.
    """
    count = fold.table.rows.shape[0]
    batch = min(batch, count)
    chosen = np.pad(np.arange(count), (0, -count % batch), constant_values=-1)
    scores: list[Array] = [
        score_batch(
            learned,
            start,
            fold,
            jnp.asarray(each, jnp.int32),
            chain=chain,
        )
        for each in chosen.reshape(-1, batch)
    ]
    rankings = rank(jnp.concatenate(scores, axis=1)[:, :count])
    report = evaluate(
        np.asarray(rankings), relevance_lists(fold.table), num_images=chain.num_images
    )
    return report.mean_average_precision


class FitResult(NamedTuple):
    """What learning found.

    Attributes:
        parameters: The best on the held-out queries, the start among them.
        history: Arrays by name. One entry a step: `restart`, `step`, `loss`,
            `gradient_norm`, `learning_rate` and each learned parameter (of the
            projection how far it went, |P - P_0| / |P_0|), all before the step. One an
            evaluation: `evaluated_restart`, `evaluated_step`, `held_out` (mean average
            precision). One a search for neighbours: `refreshed_restart`,
            `refreshed_step`.
        best_step: Steps after which they were best; 0 is the start.
        stop_reason: How the start that gave them ended.
        num_solves: Right-hand sides that were solved: two for every query of a step,
            there and back, and one for every query of an evaluation.
    """

    parameters: Parameters
    history: dict[str, Shaped[np.ndarray, "..."]]
    best_step: int
    stop_reason: StopReason
    num_solves: int


def fit(
    problem: LearningProblem,
    training: LabelledQueries,
    held_out: LabelledQueries,
    start: Parameters,
    *,
    learned: Sequence[str] = ("alpha", "gamma", "lam"),
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen.
    objective: Objective | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FitResult:
    """Learns parameters by gradient through graph, solve and pooling.

    Adam moves the unconstrained numbers, on batches of training queries, and every few
    steps the held-out queries are ranked and evaluated. What is best there is given
    back, so it is never worse there than the start. With the same seed it is the same,
    also after it was interrupted and goes on from its checkpoint.

    Where the start has `shrinkage`, the projection is in closed form, of labels; see
    `replace_shrinkage_by_projection`. A projection made of an object's own images says
    nothing about others, so training objects are in `config.folds` parts that take
    turns, evaluation by
    evaluation: a part's queries see the projection that is made of the others' labels,
    with neighbours to match. The held-out queries see that of all training labels. What
    is given back is that of all labels, training and held out, at the numbers found.

    Args:
        problem: The collection.
        training: Queries to learn from.
        held_out: Queries to choose by, of other objects.
        start: Parameters to start from; parts that are not learned stay.
        learned: Parts that are learned.
        config: Settings; for `shrinkage` the dimensions, too.
        objective: What is made smaller; None is the one that the settings name.
        progress: Is told what is done, how far it is, and of how many steps.
        checkpoint: File to write after every evaluation, and to go on from if it is
            there; None for none.

    Returns:
        The best parameters and how they were found. Where a loss or a gradient is not
        finite, a loss explodes or a parameter runs to the end of its range, learning
        stops with a warning, and `stop_reason` is "diverged".

    Raises:
        ValueError: If a part that is to be learned is not there, labels contradict the
            collection, no query asks anything, an object is in both halves, a
            parameter is outside its range, or `shrinkage` is there and a query has no
            object or fewer than two objects, each of two images or more, are to learn
            from.
            `CheckpointError`, one of them, if the checkpoint is that of another
            learning.
        OSError: If the checkpoint can't be read or written.
    """
    names = tuple(learned)
    missing = [name for name in names if name not in present_parts(start)]
    if missing or not names:
        raise ValueError(
            f"learned must name parts that are there, "
            f"{tuple(present_parts(start))}, got "
            f"{names}."
        )
    both = sorted(set(training.objects) & set(held_out.objects))
    if both:
        raise ValueError(
            f"held_out must be of other objects than training, got {both[0]!r} in both."
        )
    setup = _prepare_fit(
        problem, training, held_out, start, names=names, config=config, loss=objective
    )
    state = begin_restart(setup)
    if checkpoint is not None and pathlib.Path(checkpoint).exists():
        state = load_state(checkpoint, state, fingerprint=setup.fingerprint)
    problems = restore_problems(setup, state)
    while state.progress.restart < config.restarts:
        state, problems = advance_to_evaluation(setup, state, problems)
        if checkpoint is not None:
            save_state(checkpoint, state, fingerprint=setup.fingerprint)
        if progress is not None:
            numbers = state.progress
            done = numbers.restart * config.steps + numbers.step
            progress("learning", done, config.restarts * config.steps)
    labels = images_of_objects(training, held_out)
    return _collect_result(start, setup, state, problem, labels)


def _prepare_fit(
    problem, training, held_out, start, *, names, config, loss
) -> FitSetup:
    """Checks everything and makes it ready for compiled code."""
    raw = unconstrain(start)
    tables = [
        make_query_table(name, labelled, problem)
        for name, labelled in (("training", training), ("held_out", held_out))
    ]
    if start.projection is not None and "projection" not in names:
        # What does not move is done once.
        problem, tables = _apply_projection(problem, tables, start.projection)
        raw = raw._replace(projection=None)
    ids = np.asarray(problem.image_ids)
    chain = ScoringChain(
        query_k=min(config.query_k, problem.edges.num_nodes),
        max_steps=config.max_steps,
        rtol=config.rtol,
        num_images=int(ids[-1]) + 1,
        max_regions=int(np.bincount(ids).max()),
        dim=config.dim,
    )
    step_settings = StepSettings(
        # What steps do not depend on asks for no other program.
        config=dataclasses.replace(
            config,
            refresh_every=None,
            patience=1,
            restarts=1,
            seed=0,
            folds=2,
            search_steps=None,
        ),
        chain=chain,
        objective=OBJECTIVES[config.objective] if loss is None else loss,
        max_positives=int(np.asarray(tables[0].positives).sum(1).max()),
    )
    if start.shrinkage is None:
        parts = (QueryFold(problem, tables[0], None),)
        last = QueryFold(problem, tables[1], None)
    else:
        parts, last = split_into_folds(problem, training, tables, config=config)
    named = (list(names), getattr(step_settings.objective, "__name__", ""))
    content = fingerprint_fit(config, named, raw, parts, last)
    return FitSetup(
        start=raw,
        names=names,
        config=config,
        training=parts,
        held_out=last,
        step_settings=step_settings,
        evaluation_chain=chain._replace(
            max_steps=config.search_steps or config.max_steps
        ),
        fingerprint=content,
    )


def _apply_projection(problem, tables, projection):
    views = []
    for view in problem.views:
        vectors = project_vectors(view.vectors, projection)
        edges = edges_with_similarities(view.edges, vectors)
        views.append(view._replace(vectors=vectors, edges=edges))
    total = views[0].edges if problem.union_positions is None else problem.edges
    tables = [
        table._replace(
            vectors=tuple(project_vectors(v, projection) for v in table.vectors)
        )
        for table in tables
    ]
    return problem._replace(views=tuple(views), edges=total), tables


def _collect_result(
    start: Parameters,
    setup: FitSetup,
    state: FitState,
    problem: LearningProblem,
    labels: Mapping[str, Int[np.ndarray, " _"]],
) -> FitResult:
    numbers, found = state.progress, start
    # The maps there and back round: what did not move is given as it came.
    if numbers.best_step or numbers.best_restart:
        made = present_parts(constrain(setup.start._replace(**state.best)))
        found = start._replace(**{name: made[name] for name in setup.names})
    if found.shrinkage is not None:
        measured = scatter_matrices(problem, tuple(labels.values()))
        found = replace_shrinkage_by_projection(found, measured, dim=setup.config.dim)
    ended: StopReason = numbers.ended[numbers.best_restart]  # pyright: ignore[reportAssignmentType] - JSON keeps no Literal.
    return FitResult(found, state.history, numbers.best_step, ended, numbers.num_solves)
