"""Learning the parameters of a diffusion from queries with answers."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from ._config import FitConfig
from ._folds import fold
from ._labelled import Labelled, images_of_objects, make_table
from ._loop import Ending, Setting, advance, begin, problems_of
from ._objectives import OBJECTIVES, Objective
from ._parameters import Parameters, constrain, present, unconstrain
from ._problem import Problem, project, similarities
from ._state import State, fingerprint_of, load_state, save_state
from ._steps import Chain, Part, Static
from ._whitened import scatters, whiten


class Fitted(NamedTuple):
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
        stopped: How the start that gave them ended.
        num_solves: Right-hand sides that were solved: two for every query of a step,
            there and back, and one for every query of an evaluation.
    """

    parameters: Parameters
    history: dict[str, Shaped[np.ndarray, "..."]]
    best_step: int
    stopped: Ending
    num_solves: int


def fit(
    problem: Problem,
    training: Labelled,
    held_out: Labelled,
    start: Parameters,
    *,
    learned: Sequence[str] = ("alpha", "gamma", "lam"),
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen.
    objective: Objective | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Fitted:
    """Learns parameters by gradient through graph, solve and pooling.

    Adam moves the unconstrained numbers, on batches of training queries, and every few
    steps the held-out queries are ranked and evaluated. What is best there is given
    back, so it is never worse there than the start. With the same seed it is the same,
    also after it was interrupted and goes on from its checkpoint.

    Where the start has `shrinkage`, the projection is in closed form, of labels; see
    `whiten`. A projection made of an object's own images says nothing about others, so
    training objects are in `config.folds` parts that take turns, evaluation by
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
        stops with a warning, and `stopped` is "diverged".

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
    missing = [name for name in names if name not in present(start)]
    if missing or not names:
        raise ValueError(
            f"learned must name parts that are there, {tuple(present(start))}, got "
            f"{names}."
        )
    both = sorted(set(training.objects) & set(held_out.objects))
    if both:
        raise ValueError(
            f"held_out must be of other objects than training, got {both[0]!r} in both."
        )
    setting = _prepare(
        problem, training, held_out, start, names=names, config=config, loss=objective
    )
    state = begin(setting)
    if checkpoint is not None and pathlib.Path(checkpoint).exists():
        state = load_state(checkpoint, state, fingerprint=setting.fingerprint)
    current = problems_of(setting, state)
    while state.progress.restart < config.restarts:
        state, current = advance(setting, state, current)
        if checkpoint is not None:
            save_state(checkpoint, state, fingerprint=setting.fingerprint)
        if progress is not None:
            numbers = state.progress
            done = numbers.restart * config.steps + numbers.step
            progress("learning", done, config.restarts * config.steps)
    labels = images_of_objects(training, held_out)
    return _finish(start, setting, state, problem, labels)


def _prepare(problem, training, held_out, start, *, names, config, loss) -> Setting:
    """Checks everything and makes it ready for compiled code."""
    raw = unconstrain(start)
    tables = [
        make_table(name, labelled, problem)
        for name, labelled in (("training", training), ("held_out", held_out))
    ]
    if start.projection is not None and "projection" not in names:
        # What does not move is done once.
        problem, tables = _moved(problem, tables, start.projection)
        raw = raw._replace(projection=None)
    ids = np.asarray(problem.image_ids)
    chain = Chain(
        query_k=min(config.query_k, problem.edges.num_nodes),
        max_steps=config.max_steps,
        rtol=config.rtol,
        num_images=int(ids[-1]) + 1,
        max_regions=int(np.bincount(ids).max()),
        dim=config.dim,
    )
    static = Static(
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
        parts = (Part(problem, tables[0], None),)
        last = Part(problem, tables[1], None)
    else:
        parts, last = fold(problem, training, tables, config=config)
    named = (list(names), getattr(static.objective, "__name__", ""))
    content = fingerprint_of(config, named, raw, parts, last)
    return Setting(
        start=raw,
        names=names,
        config=config,
        training=parts,
        held_out=last,
        static=static,
        searching=chain._replace(max_steps=config.search_steps or config.max_steps),
        fingerprint=content,
    )


def _moved(problem, tables, projection):
    views = []
    for view in problem.views:
        vectors = project(view.vectors, projection)
        edges = similarities(view.edges, vectors)
        views.append(view._replace(vectors=vectors, edges=edges))
    total = views[0].edges if problem.slots is None else problem.edges
    tables = [
        table._replace(vectors=tuple(project(v, projection) for v in table.vectors))
        for table in tables
    ]
    return problem._replace(views=tuple(views), edges=total), tables


def _finish(
    start: Parameters,
    setting: Setting,
    state: State,
    problem: Problem,
    labels: Mapping[str, Int[np.ndarray, " _"]],
) -> Fitted:
    numbers, found = state.progress, start
    # The maps there and back round: what did not move is given as it came.
    if numbers.best_step or numbers.best_restart:
        made = present(constrain(setting.start._replace(**state.best)))
        found = start._replace(**{name: made[name] for name in setting.names})
    if found.shrinkage is not None:
        measured = scatters(problem, tuple(labels.values()))
        found = whiten(found, measured, dim=setting.config.dim)
    ended: Ending = numbers.ended[numbers.best_restart]  # pyright: ignore[reportAssignmentType] - JSON keeps no Literal.
    return Fitted(found, state.history, numbers.best_step, ended, numbers.num_solves)
