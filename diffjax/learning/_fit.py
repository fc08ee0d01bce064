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
from ._parameters import Parameters, constrain, present_parameters, unconstrain
from ._training_graphs import (
    TrainingGraphs,
    edge_capacities,
    edges_with_similarities,
    project_vectors,
    refresh_neighbors,
    with_edge_capacities,
)


class TrainingFolds(NamedTuple):
    """Training folds of a collection, and the fold of the held-out queries.

    Attributes:
        training: Folds of the training queries, split by object.
        held_out: Fold of the held-out queries.
    """

    training: tuple[QueryFold, ...]
    held_out: QueryFold


def split_into_folds(
    training_graphs: TrainingGraphs,
    training: LabelledQueries,
    tables: list[QueryTable],
    *,
    config: FitConfig,
) -> TrainingFolds:
    """Splits training objects into folds, and measures the scatters outside each fold.

    Object i of those with a usable query, sorted by name, is in fold i modulo
    `config.folds`.

    Args:
        training_graphs: The collection with its graphs.
        training: Training queries, with objects.
        tables: Tables of usable queries: training, then held out.
        config: Settings.

    Returns:
        The folds; the held-out queries use the scatters of all training objects.

    Raises:
        ValueError: If a query has no object, or there are fewer than two objects that
            two images or more show.
    """
    training_table, held_out = tables
    if not training.objects:
        raise ValueError("training.objects must name what queries show for shrinkage.")
    images_by_object = images_of_objects(training)
    query_objects = [
        training.objects[number] for number in np.asarray(training_table.numbers)
    ]
    object_names = sorted(set(query_objects))
    count = min(config.folds, len(object_names))
    if count < 2:
        raise ValueError(
            "training must be of two objects or more for shrinkage, got "
            f"{object_names}."
        )
    fold_of_object = {name: number % count for number, name in enumerate(object_names)}
    fold_tables = split_query_table(
        training_table, np.array([fold_of_object[name] for name in query_objects])
    )

    def measure_scatter(fold_number):
        # An object without a usable query is in no fold and always counts.
        scatter_objects = [
            name
            for name in images_by_object
            if fold_of_object.get(name, -1) != fold_number
        ]
        if not scatter_objects:
            raise ValueError(
                "training must have two objects that two images or more show for "
                f"shrinkage, got {sorted(images_by_object)}."
            )
        return scatter_matrices(
            training_graphs, [images_by_object[name] for name in scatter_objects]
        )

    folds = [
        QueryFold(training_graphs, table, measure_scatter(number))
        for number, table in enumerate(fold_tables)
    ]
    return TrainingFolds(
        tuple(folds), QueryFold(training_graphs, held_out, measure_scatter(count))
    )


# The collection with its neighbours: one, or one per fold and the held-out one last.
FoldGraphs = tuple[TrainingGraphs, ...]
StopReason = Literal["steps", "no gain", "diverged"]


class FitSetup(NamedTuple):
    """Constants of a fit: start, settings, folds, and static arguments of programs.

    Attributes:
        start: Unconstrained values of all parameters.
        names: Names of the parameters that are learned.
        config: Settings.
        training: Folds of the training queries, used in rotation; one fold without
            shrinkage. Neighbours are those that the collection was given with.
        held_out: Fold of the held-out queries.
        step_settings: Static arguments of the compiled gradient steps.
        evaluation_chain: Static arguments of the ranking of held-out queries.
        fingerprint: Hash of all of the above.
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
    """Initial state of a restart, with noise on the start after the first.

    Args:
        setup: Constants of the fit.
        previous: Final state of the restart before; None for the first.

    Returns:
        The state, at step 0.
    """
    config = setup.config
    fit_progress = FitProgress() if previous is None else previous.progress
    key = jax.random.fold_in(jax.random.key(config.seed), fit_progress.restart)
    learned = {name: present_parameters(setup.start)[name] for name in setup.names}
    if fit_progress.restart:
        for position, (name, value) in enumerate(learned.items()):
            noise = jax.random.normal(
                jax.random.fold_in(key, position), value.shape, value.dtype
            )
            size = jnp.asarray(config.restart_spread, value.dtype)
            if name == "projection":
                size *= jnp.sqrt(jnp.mean(value**2)) / 10
            learned[name] = value + size * noise
    return FitState(
        progress=fit_progress,
        learned=learned,
        optimizer=optimizer(config).init(learned),
        learned_at_refresh=learned,
        best=learned if previous is None else previous.best,
        history={} if previous is None else previous.history,
    )


def restore_fold_graphs(setup: FitSetup, state: FitState) -> FoldGraphs:
    """Recomputes the neighbours that a fit had when a state was written.

    Args:
        setup: Constants of the fit.
        state: The state.

    Returns:
        The collections, with arrays of the same shapes.
    """
    initial = _initial_fold_graphs(setup)
    if not state.progress.edge_capacities:
        return initial
    padded = tuple(
        with_edge_capacities(training_graphs, state.progress.edge_capacities)
        for training_graphs in initial
    )
    return _refresh_fold_graphs(setup, padded, state.learned_at_refresh)


def _searched_folds(setup: FitSetup) -> tuple[QueryFold, ...]:
    """Folds with neighbours of their own; the held-out fold comes last."""
    if setup.held_out.scatter_matrices is None:
        return (setup.held_out,)
    return (*setup.training, setup.held_out)


def _initial_fold_graphs(setup: FitSetup) -> FoldGraphs:
    return tuple(fold.training_graphs for fold in _searched_folds(setup))


def _refresh_fold_graphs(
    setup: FitSetup, fold_graphs: FoldGraphs, learned: LearnedArrays
) -> FoldGraphs:
    raw = setup.start._replace(**learned)
    k = min(setup.config.k, fold_graphs[0].edges.num_nodes)
    refreshed = [
        refresh_neighbors(
            training_graphs,
            resolve_parameters(raw, fold.scatter_matrices, dim=setup.config.dim),
            k=k,
        )
        for fold, training_graphs in zip(
            _searched_folds(setup), fold_graphs, strict=True
        )
    ]
    # One shape for all, so that one program serves them.
    capacities = zip(*map(edge_capacities, refreshed), strict=True)
    sizes = [max(counts) for counts in capacities]
    return tuple(
        with_edge_capacities(training_graphs, sizes) for training_graphs in refreshed
    )


def advance_to_evaluation(
    setup: FitSetup, state: FitState, fold_graphs: FoldGraphs
) -> tuple[FitState, FoldGraphs]:
    """Advances a fit to its next evaluation, which for a new restart is at step 0.

    Args:
        setup: Constants of the fit.
        state: State of the fit.
        fold_graphs: The collections, with the neighbours of that state.

    Returns:
        State and collections after the evaluation; after the last evaluation of a
        restart, those at the beginning of the next.
    """
    config, fit_progress = setup.config, state.progress
    ending: StopReason | None = None
    if fit_progress.restart_best >= 0:
        state, ending = _run_steps_to_evaluation(setup, state, fold_graphs)
    if ending is None:
        state, fold_graphs = _refresh_if_due(setup, state, fold_graphs)
        state = _evaluate_held_out(setup, state, fold_graphs)
        if state.progress.evaluations_without_gain >= config.patience:
            ending = "no gain"
        elif state.progress.step >= config.steps:
            ending = "steps"
    if ending is not None:
        fit_progress = state.progress
        fit_progress = fit_progress._replace(
            restart=fit_progress.restart + 1,
            step=0,
            evaluations_without_gain=0,
            restart_best=-1.0,
            ended=(*fit_progress.ended, ending),
            edge_capacities=(),
        )
        state = begin_restart(setup, state._replace(progress=fit_progress))
        fold_graphs = _initial_fold_graphs(setup)
    return state, fold_graphs


def _run_steps_to_evaluation(
    setup, state, fold_graphs
) -> tuple[FitState, StopReason | None]:
    """Runs the gradient steps to the next evaluation, and checks for divergence."""
    config, fit_progress = setup.config, state.progress
    key = jax.random.fold_in(jax.random.key(config.seed), fit_progress.restart)
    fold_number = fit_progress.step // config.evaluate_every % len(setup.training)
    fold = setup.training[fold_number]
    fold = fold._replace(
        training_graphs=fold_graphs[min(fold_number, len(fold_graphs) - 1)]
    )
    carry, trace = run_steps(
        StepCarry(
            step=jnp.asarray(fit_progress.step, jnp.int32),
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
    first_loss = state.history.get("loss", trace.loss)[0]
    divergence = find_divergence(trace, first_loss=float(first_loss))
    num_steps = config.evaluate_every if divergence is None else divergence.step + 1
    state = state._replace(
        learned=carry.learned,
        optimizer=carry.optimizer,
        history=_append_steps(state.history, trace, fit_progress, num_steps=num_steps),
        progress=fit_progress._replace(
            step=fit_progress.step + num_steps,
            num_solves=fit_progress.num_solves + 2 * num_steps * trace.batch.shape[1],
        ),
    )
    if divergence is None:
        return state, None
    queries = np.sort(np.asarray(fold.table.numbers)[trace.batch[divergence.step]])
    warnings.warn(
        f"learning stopped in step {fit_progress.step + divergence.step} (queries "
        f"{', '.join(map(str, queries))}): {divergence.reason}. The best parameters "
        f"so far "
        f"are given, of step {fit_progress.best_step}: lower learning_rate.",
        stacklevel=4,
    )
    return state, "diverged"


def _append_steps(
    history, trace: StepTrace, fit_progress: FitProgress, *, num_steps: int
):
    step_numbers = np.arange(fit_progress.step, fit_progress.step + num_steps)
    rows = {
        "restart": np.full(num_steps, fit_progress.restart),
        "step": step_numbers,
        "loss": trace.loss[:num_steps],
        "gradient_norm": trace.gradient_norm[:num_steps],
        "learning_rate": trace.learning_rate[:num_steps],
        **{name: values[:num_steps] for name, values in trace.values.items()},
    }
    return _append_history(history, rows)


def _append_history(history, rows):
    """History with rows appended to some of its columns."""
    extended = {
        name: np.concatenate([history[name], values]) if name in history else values
        for name, values in rows.items()
    }
    return history | extended


def _refresh_if_due(setup, state, fold_graphs) -> tuple[FitState, FoldGraphs]:
    """Searches neighbours again, if this step is due for it."""
    refresh_every, step = setup.config.refresh_every, state.progress.step
    fit_progress, scatter_matrices = state.progress, setup.held_out.scatter_matrices
    vectors_move = "projection" in setup.names or {"shrinkage", "emphasis"} & {
        *setup.names
    }
    is_due = vectors_move and refresh_every is not None and step % refresh_every == 0
    # The given neighbours are not those of a projection in closed form.
    if not is_due and (scatter_matrices is None or step):
        return state, fold_graphs
    fold_graphs = _refresh_fold_graphs(setup, fold_graphs, state.learned)
    rows = {
        "refreshed_restart": np.array([fit_progress.restart]),
        "refreshed_step": np.array([fit_progress.step]),
    }
    state = state._replace(
        progress=fit_progress._replace(
            edge_capacities=tuple(edge_capacities(fold_graphs[-1]))
        ),
        learned_at_refresh=state.learned,
        history=_append_history(state.history, rows),
    )
    return state, fold_graphs


def _evaluate_held_out(setup, state, fold_graphs) -> FitState:
    """Evaluates the held-out queries, and keeps the best parameters so far."""
    fit_progress = state.progress
    precision = held_out_precision(
        state.learned,
        setup.start,
        setup.held_out._replace(training_graphs=fold_graphs[-1]),
        batch=setup.config.batch,
        chain=setup.evaluation_chain,
    )
    rows = {
        "evaluated_restart": np.array([fit_progress.restart]),
        "evaluated_step": np.array([fit_progress.step]),
        "held_out": np.array([precision]),
    }
    improved = precision > fit_progress.restart_best
    fit_progress = fit_progress._replace(
        restart_best=max(precision, fit_progress.restart_best),
        evaluations_without_gain=0
        if improved
        else fit_progress.evaluations_without_gain + 1,
        num_solves=fit_progress.num_solves + setup.held_out.table.rows.shape[0],
    )
    best = state.best
    if precision > fit_progress.best:
        best = state.learned
        fit_progress = fit_progress._replace(
            best=precision,
            best_step=fit_progress.step,
            best_restart=fit_progress.restart,
        )
    return state._replace(
        progress=fit_progress, best=best, history=_append_history(state.history, rows)
    )


def held_out_precision(
    learned: LearnedArrays,
    start: Parameters,
    fold: QueryFold,
    *,
    batch: int,
    chain: ScoringChain,
) -> float:
    """Mean average precision of the rankings of all queries of a fold.

    Args:
        learned: Unconstrained values of the learned parameters.
        start: Unconstrained values of all parameters.
        fold: The collection, and the queries.
        batch: Most queries that are scored at once.
        chain: Static arguments of scoring.

    Returns:
        Mean average precision, in [0, 1].
    """
    num_queries = fold.table.rows.shape[0]
    batch = min(batch, num_queries)
    query_rows = np.pad(
        np.arange(num_queries), (0, -num_queries % batch), constant_values=-1
    )
    scores: list[Array] = [
        score_batch(
            learned,
            start,
            fold,
            jnp.asarray(rows, jnp.int32),
            chain=chain,
        )
        for rows in query_rows.reshape(-1, batch)
    ]
    rankings = rank(jnp.concatenate(scores, axis=1)[:, :num_queries])
    report = evaluate(
        np.asarray(rankings), relevance_lists(fold.table), num_images=chain.num_images
    )
    return report.mean_average_precision


class FitResult(NamedTuple):
    """Learned parameters, and the history of the fit.

    Attributes:
        parameters: The best on the held-out queries, the start among them.
        history: Arrays by name. One entry per step: `restart`, `step`, `loss`,
            `gradient_norm`, `learning_rate` and each learned parameter (for the
            projection its distance from the start, |P - P_0| / |P_0|), all before the
            step. One per evaluation: `evaluated_restart`, `evaluated_step`, `held_out`
            (mean average precision). One per search of neighbours:
            `refreshed_restart`, `refreshed_step`.
        best_step: Number of steps before the best evaluation; 0 is the start.
        stop_reason: Why the restart of the best parameters ended.
        num_solves: Number of solved right-hand sides: two per query of a step, forward
            and backward, and one per query of an evaluation.
    """

    parameters: Parameters
    history: dict[str, Shaped[np.ndarray, "..."]]
    best_step: int
    stop_reason: StopReason
    num_solves: int


def fit(
    training_graphs: TrainingGraphs,
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
    """Learns parameters by gradient descent through graph, solve and pooling.

    Adam updates the unconstrained values on batches of training queries, and every few
    steps the held-out queries are ranked and evaluated. The best parameters on them are
    returned, so they are never worse there than the start. The same seed gives the same
    result, also for a fit that was interrupted and continued from its checkpoint.

    Where the start has `shrinkage`, the projection is computed in closed form from
    labels; see `replace_shrinkage_by_projection`. A projection computed from an
    object's own images says nothing about other objects. So the training objects are
    split into `config.folds` folds, which are used in rotation, evaluation by
    evaluation: the queries of a fold use the projection computed from the labels of the
    other folds, with its neighbours. The held-out queries use that of all training
    labels. The result uses that of all labels, training and held out.

    Args:
        training_graphs: The collection with its graphs.
        training: Training queries.
        held_out: Held-out queries, of other objects, on which the best is chosen.
        start: Parameters to start from; those that are not learned stay.
        learned: Names of the parameters that are learned.
        config: Settings; for `shrinkage` the dimensions, too.
        objective: Loss that is minimised; None is the one that the settings name.
        progress: Called with the task, the number of steps done, and of how many.
        checkpoint: File that is written after every evaluation, and that a fit
            continues from if it exists; None for none.

    Returns:
        The best parameters and the history. Where a loss or a gradient is not finite, a
        loss explodes or a parameter reaches the end of its range, the fit stops with a
        warning, and `stop_reason` is "diverged".

    Raises:
        ValueError: If a learned parameter is None in the start, labels contradict the
            collection, no query is usable, an object is in both halves, a parameter is
            outside its range, or `shrinkage` is given and a query has no object, or
            fewer than two training objects have two images or more.
            `CheckpointError`, a subclass, if the checkpoint is that of another fit.
        OSError: If the checkpoint can't be read or written.
    """
    names = tuple(learned)
    missing = [name for name in names if name not in present_parameters(start)]
    if missing or not names:
        raise ValueError(
            f"learned must name parts that are there, "
            f"{tuple(present_parameters(start))}, got "
            f"{names}."
        )
    shared_objects = sorted(set(training.objects) & set(held_out.objects))
    if shared_objects:
        raise ValueError(
            "held_out must be of other objects than training, got "
            f"{shared_objects[0]!r} in both."
        )
    setup = _prepare_fit(
        training_graphs,
        training,
        held_out,
        start,
        names=names,
        config=config,
        loss=objective,
    )
    state = begin_restart(setup)
    if checkpoint is not None and pathlib.Path(checkpoint).exists():
        state = load_state(checkpoint, state, fingerprint=setup.fingerprint)
    fold_graphs = restore_fold_graphs(setup, state)
    while state.progress.restart < config.restarts:
        state, fold_graphs = advance_to_evaluation(setup, state, fold_graphs)
        if checkpoint is not None:
            save_state(checkpoint, state, fingerprint=setup.fingerprint)
        if progress is not None:
            fit_progress = state.progress
            done = fit_progress.restart * config.steps + fit_progress.step
            progress("learning", done, config.restarts * config.steps)
    labels = images_of_objects(training, held_out)
    return _collect_result(start, setup, state, training_graphs, labels)


def _prepare_fit(
    training_graphs, training, held_out, start, *, names, config, loss
) -> FitSetup:
    """Validates the arguments of `fit`, and prepares them for compiled code."""
    raw = unconstrain(start)
    tables = [
        make_query_table(name, labelled, training_graphs)
        for name, labelled in (("training", training), ("held_out", held_out))
    ]
    if start.projection is not None and "projection" not in names:
        # A fixed projection is applied once.
        training_graphs, tables = _apply_projection(
            training_graphs, tables, start.projection
        )
        raw = raw._replace(projection=None)
    image_ids = np.asarray(training_graphs.image_ids)
    chain = ScoringChain(
        query_k=min(config.query_k, training_graphs.edges.num_nodes),
        max_steps=config.max_steps,
        rtol=config.rtol,
        num_images=int(image_ids[-1]) + 1,
        max_regions=int(np.bincount(image_ids).max()),
        dim=config.dim,
    )
    step_settings = StepSettings(
        # Settings that steps do not depend on: no other program is compiled for them.
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
        training_folds = (QueryFold(training_graphs, tables[0], None),)
        held_out_fold = QueryFold(training_graphs, tables[1], None)
    else:
        training_folds, held_out_fold = split_into_folds(
            training_graphs, training, tables, config=config
        )
    names_and_objective = (
        list(names),
        getattr(step_settings.objective, "__name__", ""),
    )
    fingerprint = fingerprint_fit(
        config, names_and_objective, raw, training_folds, held_out_fold
    )
    return FitSetup(
        start=raw,
        names=names,
        config=config,
        training=training_folds,
        held_out=held_out_fold,
        step_settings=step_settings,
        evaluation_chain=chain._replace(
            max_steps=config.search_steps or config.max_steps
        ),
        fingerprint=fingerprint,
    )


def _apply_projection(training_graphs, tables, projection):
    views = []
    for view in training_graphs.views:
        vectors = project_vectors(view.vectors, projection)
        edges = edges_with_similarities(view.edges, vectors)
        views.append(view._replace(vectors=vectors, edges=edges))
    total = (
        views[0].edges
        if training_graphs.union_positions is None
        else training_graphs.edges
    )
    tables = [
        table._replace(
            vectors=tuple(project_vectors(v, projection) for v in table.vectors)
        )
        for table in tables
    ]
    return training_graphs._replace(views=tuple(views), edges=total), tables


def _collect_result(
    start: Parameters,
    setup: FitSetup,
    state: FitState,
    training_graphs: TrainingGraphs,
    labels: Mapping[str, Int[np.ndarray, " _"]],
) -> FitResult:
    fit_progress, best = state.progress, start
    # The maps to unconstrained values and back round: an unchanged start is kept as is.
    if fit_progress.best_step or fit_progress.best_restart:
        constrained = present_parameters(constrain(setup.start._replace(**state.best)))
        best = start._replace(**{name: constrained[name] for name in setup.names})
    if best.shrinkage is not None:
        scatter = scatter_matrices(training_graphs, tuple(labels.values()))
        best = replace_shrinkage_by_projection(best, scatter, dim=setup.config.dim)
    stop_reason: StopReason = fit_progress.ended[fit_progress.best_restart]  # pyright: ignore[reportAssignmentType] - JSON keeps no Literal.
    return FitResult(
        best,
        state.history,
        fit_progress.best_step,
        stop_reason,
        fit_progress.num_solves,
    )
