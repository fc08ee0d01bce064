"""Methods of learning that are compared, by their names in the tables."""

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

from ._mined_queries import mine_queries
from ._parameter_search import SEARCH_RANGES, grid_search, random_search
from ._task import LearningTask

_SCALARS = "alpha", "gamma", "lam"
_WHITENED = (*_SCALARS, "shrinkage", "emphasis")


class LearnedParameters(NamedTuple):
    """Outcome of a method of learning.

    Attributes:
        parameters: The learned parameters.
        solves: Number of diffusions that were solved.
        history: History of `fit`; empty for other methods.
    """

    parameters: Parameters
    solves: int
    history: Mapping[str, np.ndarray] = MappingProxyType({})


LearningMethod = Callable[[LearningTask], LearnedParameters]
MakeParameters = Callable[[LearningTask], Parameters]


def paper_parameters(_: LearningTask, /) -> Parameters:
    """Makes the paper's parameters."""
    return parameters()


def five_parameters(_: LearningTask, /) -> Parameters:
    """Makes the paper's parameters with an exponent of the query and a bias."""
    return parameters((*_SCALARS, "query_gamma", "bias"))


def mixture_parameters(_: LearningTask, /) -> Parameters:
    """Makes a mixed whitening with equal weights of all kinds of differences."""
    return parameters(_WHITENED)


def first_dimensions(task: LearningTask, /) -> Parameters:
    """Makes a projection to the first whitened dimensions: PCA-whitening."""
    return _with_projection(jnp.eye(min(task.config.rank, task.dim), task.dim))


def closed_form(task: LearningTask, /) -> Parameters:
    """Fits a supervised whitening to all training objects."""
    shrinkage = task.config.shrinkage
    return _with_projection(
        task.fit_supervised_projection(task.is_training, shrinkage=shrinkage)
    )


def closed_form_of_training(task: LearningTask, /) -> Parameters:
    """Fits a supervised whitening without the objects held out for stopping."""
    shrinkage = task.config.shrinkage
    return _with_projection(
        task.fit_supervised_projection(task.split.train, shrinkage=shrinkage)
    )


def without_labels(task: LearningTask, /) -> Parameters:
    """Fits a whitening that shrinks the differences between regions of one image."""
    start = parameters(("shrinkage",), kinds=2)
    return replace_shrinkage_by_projection(
        start, scatter_matrices(task.training_graphs), dim=task.config.rank
    )


def mixed_closed_form(task: LearningTask, /) -> Parameters:
    """Fits the mixed whitening that learning through the diffusion starts from."""
    images = task.images_of(task.is_training)
    return replace_shrinkage_by_projection(
        mixture_parameters(task),
        scatter_matrices(task.training_graphs, images),
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
    """Learns parameters by gradient, with early stopping on held-out objects.

    Without labels both use queries that `mine_queries` finds in the database.
    """
    initial, config, training_graphs = start(task), task.config, task.training_graphs
    settings = dataclasses.replace(config.fit, k=config.k, refresh_every=None)
    if initial.shrinkage is not None:
        settings = dataclasses.replace(config.whitening, k=config.k, dim=config.rank)
    elif initial.projection is not None:
        training_graphs = refresh_neighbors(training_graphs, initial, k=config.k)
        if "projection" in learned:
            settings = dataclasses.replace(config.fit, k=config.k)
    if objective is not None:
        settings = dataclasses.replace(settings, objective=objective)
    split = task.split
    training, held_out = (
        mine_queries(task.collection, seed=config.seed)
        if unlabelled
        else (task.labelled(split.train), task.labelled(split.held_out))
    )
    result = fit(
        training_graphs, training, held_out, initial, learned=learned, config=settings
    )
    return LearnedParameters(result.parameters, result.num_solves, result.history)


def fit_by_search(
    task: LearningTask, /, *, search: Callable[..., Any]
) -> LearnedParameters:
    """Searches the best setting on the held-out objects, at the gradient's cost."""
    held_out = task.split.held_out
    solves = int(held_out.sum())
    outcome = search(
        lambda trial: float(np.nanmean(task.precision(trial, held_out))),
        parameters(),
        budget=max(1, GRADIENT_SCALARS(task).solves // solves),
        solves_per_setting=solves,
    )
    return LearnedParameters(outcome.parameters, outcome.solves)


def fit_by_shrinkage(task: LearningTask, /) -> LearnedParameters:
    """Fits a supervised whitening with the best shrinkage on held-out objects."""
    split = task.split
    values = {}
    for shrinkage in task.config.shrinkages:
        whitened = _with_projection(
            task.fit_supervised_projection(split.train, shrinkage=shrinkage)
        )
        values[shrinkage] = np.nanmean(task.precision(whitened, split.held_out))
    best = max(values, key=lambda shrinkage: values[shrinkage])
    solves = len(values) * int(split.held_out.sum())
    return LearnedParameters(
        _with_projection(
            task.fit_supervised_projection(task.is_training, shrinkage=best)
        ),
        solves,
    )


def fit_by_random_mixtures(task: LearningTask, /) -> LearnedParameters:
    """Searches random settings of a mixed whitening on the held-out objects.

    There are as many trials as searches for neighbours in learning by gradient, where
    these cost more than solves. Weights are uniform on the simplex, other parameters
    in the logarithm. The start is a trial, too; held-out objects are searched by a
    projection of the other training labels.
    """
    split, rank = task.split, task.config.rank
    searches = len(GRADIENT_MIXTURE(task).history["refreshed_step"])
    trials = searches * (task.config.whitening.folds + 1)
    solves = int(split.held_out.sum())
    train = scatter_matrices(task.training_graphs, task.images_of(split.train))
    draw = np.random.default_rng(task.seed)
    best, value = mixture_parameters(task), -1.0
    for number in range(trials):
        trial = _draw_parameters(draw) if number else mixture_parameters(task)
        precision = task.precision(
            replace_shrinkage_by_projection(trial, train, dim=rank), split.held_out
        )
        if np.nanmean(precision) > value:
            best, value = trial, float(np.nanmean(precision))
    scatter = scatter_matrices(task.training_graphs, task.images_of(task.is_training))
    return LearnedParameters(
        replace_shrinkage_by_projection(best, scatter, dim=rank), trials * solves
    )


def once_per_split(name: str, method: LearningMethod) -> LearningMethod:
    """Computes a method, which others use again, once for each split."""
    return lambda task: task.compute_once(name, lambda: method(task))


def once_for_all(name: str, method: LearningMethod) -> LearningMethod:
    """Computes a method that does not depend on the split once for all splits."""
    return lambda task: task.collection.compute_once(
        f"learned, {name}", lambda: method(task)
    )


def without_learning(start: MakeParameters) -> LearningMethod:
    """Makes a method that solves nothing of parameters in closed form."""
    return lambda task: LearnedParameters(start(task), 0)


def _draw_parameters(draw: np.random.Generator) -> Parameters:
    ranges = {**SEARCH_RANGES, "emphasis": (0.01, 1.0)}

    def between(low: float, high: float) -> float:
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))

    values: dict[str, Any] = {
        name: 1 - between(1 - high, 1 - low) if name == "alpha" else between(low, high)
        for name, (low, high) in ranges.items()
    }
    template = parameters(_WHITENED)
    values["shrinkage"] = draw.dirichlet(np.ones(4)) * (1 - 4e-6) + 1e-6
    dtype = template.alpha.dtype
    return template._replace(
        **{name: jnp.asarray(value, dtype) for name, value in values.items()}
    )


def _with_projection(projection: Float[Array, "p d"]) -> Parameters:
    names = (*_SCALARS, "projection")
    template = parameters(names, dim=projection.shape[1], rank=projection.shape[0])
    return template._replace(projection=projection.astype(template.alpha.dtype))


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
