"""Every way to learn that is compared, by what the tables call it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.learning import (
    Parameters,
    fit,
    parameters,
    refresh_neighbors,
    replace_shrinkage_by_projection,
    scatter_matrices,
)
from experiments._parameter_search import SEARCH_RANGES, grid_search, random_search

from ._mined_queries import mine_queries
from ._task import LearningTask

_SCALARS = "alpha", "gamma", "lam"
_WHITENED = (*_SCALARS, "shrinkage", "emphasis")


class LearnedParameters(NamedTuple):
    """What a way of learning found.

    Attributes:
        parameters: The parameters.
        solves: Diffusions that were solved for it.
        history: What `fit` noted; empty otherwise.
    """

    parameters: Parameters
    solves: int
    history: Mapping[str, np.ndarray] = MappingProxyType({})


LearningMethod = Callable[[LearningTask], LearnedParameters]
MakeParameters = Callable[[LearningTask], Parameters]


def paper_parameters(_: LearningTask, /) -> Parameters:
    """The paper's parameters."""
    return parameters()


def five_parameters(_: LearningTask, /) -> Parameters:
    """The paper's, with an exponent of the query and a bias to learn."""
    return parameters((*_SCALARS, "query_gamma", "bias"))


def mixture_parameters(_: LearningTask, /) -> Parameters:
    """Equal weights of all differences to shrink."""
    return parameters(_WHITENED)


def first_dimensions(task: LearningTask, /) -> Parameters:
    """The first dimensions of the whitened vectors: PCA-whitening to fewer."""
    return _with_projection(jnp.eye(min(task.config.rank, task.dim), task.dim))


def closed_form(task: LearningTask, /) -> Parameters:
    """Supervised whitening of as many dimensions."""
    shrinkage = task.config.shrinkage
    return _with_projection(
        task.fit_supervised_projection(task.learns, shrinkage=shrinkage)
    )


def closed_form_of_training(task: LearningTask, /) -> Parameters:
    """The same of the objects that do not tell when to stop."""
    shrinkage = task.config.shrinkage
    return _with_projection(
        task.fit_supervised_projection(task.split.train, shrinkage=shrinkage)
    )


def without_labels(task: LearningTask, /) -> Parameters:
    """What differs between regions of one image is shrunken."""
    start = parameters(("shrinkage",), kinds=2)
    return replace_shrinkage_by_projection(
        start, scatter_matrices(task.problem), dim=task.config.rank
    )


def mixed_closed_form(task: LearningTask, /) -> Parameters:
    """What learning through the diffusion starts from."""
    images = task.images_of(task.learns)
    return replace_shrinkage_by_projection(
        mixture_parameters(task),
        scatter_matrices(task.problem, images),
        dim=task.config.rank,
    )


def fit_by_gradient(
    task: LearningTask,
    /,
    *,
    start: MakeParameters = paper_parameters,
    learned: tuple[str, ...] = _SCALARS,
    objective: str | None = None,
    unlabelled: bool = False,
) -> LearnedParameters:
    """Parameters by gradient, stopped on the held-out objects.

    Without labels these are queries that `mine_queries` finds in the database.
    """
    first, own, where = start(task), task.config, task.problem
    settings = dataclasses.replace(own.fit, k=own.k, refresh_every=None)
    if first.shrinkage is not None:
        settings = dataclasses.replace(own.whitening, k=own.k, dim=own.rank)
    elif first.projection is not None:
        where = refresh_neighbors(where, first, k=own.k)
        if "projection" in learned:
            settings = dataclasses.replace(own.fit, k=own.k)
    if objective is not None:
        settings = dataclasses.replace(settings, objective=objective)
    split = task.split
    training, held_out = (
        mine_queries(task.collection, seed=own.seed)
        if unlabelled
        else (task.labelled(split.train), task.labelled(split.held_out))
    )
    found = fit(where, training, held_out, first, learned=learned, config=settings)
    return LearnedParameters(found.parameters, found.num_solves, found.history)


def fit_by_search(
    task: LearningTask, /, *, search: Callable[..., Any]
) -> LearnedParameters:
    """The best of some settings on the held-out objects, at the gradient's cost."""
    asked = task.split.held_out
    each = int(asked.sum())
    found = search(
        lambda one: float(np.nanmean(task.precision(one, asked))),
        parameters(),
        budget=max(1, GRADIENT_SCALARS(task).solves // each),
        solves_per_setting=each,
    )
    return LearnedParameters(found.parameters, found.solves)


def fit_by_shrinkage(task: LearningTask, /) -> LearnedParameters:
    """Supervised whitening with the shrinkage that is best on the held-out objects."""
    split = task.split
    values = {}
    for shrinkage in task.config.shrinkages:
        own = _with_projection(
            task.fit_supervised_projection(split.train, shrinkage=shrinkage)
        )
        values[shrinkage] = np.nanmean(task.precision(own, split.held_out))
    best = max(values, key=lambda shrinkage: values[shrinkage])
    solves = len(values) * int(split.held_out.sum())
    return LearnedParameters(
        _with_projection(task.fit_supervised_projection(task.learns, shrinkage=best)),
        solves,
    )


def fit_by_random_mixtures(task: LearningTask, /) -> LearnedParameters:
    """Random settings of what is learned through the diffusion.

    As many as there are searches for neighbours in that learning, which cost more than
    solves there. Weights are uniform among shares, the others in the logarithm. The
    start is tried, too; the held-out objects choose, and see a projection of the
    training labels.
    """
    split, rank = task.split, task.config.rank
    searches = len(GRADIENT_MIXTURE(task).history["refreshed_step"])
    tried = searches * (task.config.whitening.folds + 1)
    each = int(split.held_out.sum())
    train = scatter_matrices(task.problem, task.images_of(split.train))
    draw = np.random.default_rng(task.seed)
    best, value = mixture_parameters(task), -1.0
    for number in range(tried):
        one = _draw_parameters(draw) if number else mixture_parameters(task)
        found = task.precision(
            replace_shrinkage_by_projection(one, train, dim=rank), split.held_out
        )
        if np.nanmean(found) > value:
            best, value = one, float(np.nanmean(found))
    everything = scatter_matrices(task.problem, task.images_of(task.learns))
    return LearnedParameters(
        replace_shrinkage_by_projection(best, everything, dim=rank), tried * each
    )


def once_per_split(name: str, way: LearningMethod) -> LearningMethod:
    """A way that others ask for again, done once for each split."""
    return lambda task: task.compute_once(name, lambda: way(task))


def once_for_all(name: str, way: LearningMethod) -> LearningMethod:
    """A way that does not depend on the split, done once for all."""
    return lambda task: task.collection.compute_once(
        f"learned, {name}", lambda: way(task)
    )


def without_learning(start: MakeParameters) -> LearningMethod:
    """Nothing is learned by a solve."""
    return lambda task: LearnedParameters(start(task), 0)


def _draw_parameters(draw: np.random.Generator) -> Parameters:
    ranges = {**SEARCH_RANGES, "emphasis": (0.01, 1.0)}

    def between(low: float, high: float) -> float:
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))

    values: dict[str, Any] = {
        name: 1 - between(1 - high, 1 - low) if name == "alpha" else between(low, high)
        for name, (low, high) in ranges.items()
    }
    made = parameters(_WHITENED)
    values["shrinkage"] = draw.dirichlet(np.ones(4)) * (1 - 4e-6) + 1e-6
    kind = made.alpha.dtype
    return made._replace(**{name: jnp.asarray(x, kind) for name, x in values.items()})


def _with_projection(projection: Float[Array, "p d"]) -> Parameters:
    names = (*_SCALARS, "projection")
    made = parameters(names, dim=projection.shape[1], rank=projection.shape[0])
    return made._replace(projection=projection.astype(made.alpha.dtype))


GRADIENT_SCALARS = once_per_split("scalars", fit_by_gradient)
_MIXED = functools.partial(fit_by_gradient, start=mixture_parameters, learned=_WHITENED)
GRADIENT_MIXTURE = once_per_split("mixture_parameters", _MIXED)
_FREE = (*_SCALARS, "projection")

LEARNING_METHODS: Mapping[str, LearningMethod] = MappingProxyType(
    {
        "defaults": without_learning(paper_parameters),
        "grid": functools.partial(fit_by_search, search=grid_search),
        "random": lambda task: fit_by_search(
            task, search=functools.partial(random_search, seed=task.seed)
        ),
        "gradient": GRADIENT_SCALARS,
        "gradient, no labels": once_for_all(
            "scalars", functools.partial(fit_by_gradient, unlabelled=True)
        ),
        "gradient, five parameters": functools.partial(
            fit_by_gradient,
            start=five_parameters,
            learned=(*_SCALARS, "query_gamma", "bias"),
        ),
        "PCA-whitening": without_learning(first_dimensions),
        "whitening of regions, no labels": without_learning(without_labels),
        "supervised whitening": without_learning(closed_form),
        "supervised whitening, shrinkage chosen": fit_by_shrinkage,
        "mixed whitening": without_learning(mixed_closed_form),
        "mixed whitening, random": fit_by_random_mixtures,
        "mixed whitening, gradient": GRADIENT_MIXTURE,
        "mixed whitening, softmax": functools.partial(_MIXED, objective="softmax"),
        "mixed whitening, hinge": functools.partial(_MIXED, objective="hinge"),
        "free projection, gradient": functools.partial(
            fit_by_gradient, start=closed_form_of_training, learned=_FREE
        ),
    }
)
