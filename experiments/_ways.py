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
    RANGES,
    Parameters,
    fit,
    grid_search,
    parameters,
    random_search,
    refresh,
    scatters,
    whiten,
)
from experiments._learning import Task
from experiments._mined import mine

_SCALARS = "alpha", "gamma", "lam"
_WHITENED = (*_SCALARS, "shrinkage", "emphasis")


class Learned(NamedTuple):
    """What a way of learning found.

    Attributes:
        parameters: The parameters.
        solves: Diffusions that were solved for it.
        history: What `fit` noted; empty otherwise.
    """

    parameters: Parameters
    solves: int
    history: Mapping[str, np.ndarray] = MappingProxyType({})


Way = Callable[[Task], Learned]
Start = Callable[[Task], Parameters]


def default(_: Task, /) -> Parameters:
    """The paper's parameters."""
    return parameters()


def five(_: Task, /) -> Parameters:
    """The paper's, with an exponent of the query and a bias to learn."""
    return parameters((*_SCALARS, "query_gamma", "bias"))


def mixed(_: Task, /) -> Parameters:
    """Equal weights of all differences to shrink."""
    return parameters(_WHITENED)


def first_dimensions(task: Task, /) -> Parameters:
    """The first dimensions of the whitened vectors: PCA-whitening to fewer."""
    return _with(jnp.eye(min(task.config.rank, task.dim), task.dim))


def closed_form(task: Task, /) -> Parameters:
    """Supervised whitening of as many dimensions."""
    shrinkage = task.config.shrinkage
    return _with(task.supervised(task.learns, shrinkage=shrinkage))


def closed_form_of_training(task: Task, /) -> Parameters:
    """The same of the objects that do not tell when to stop."""
    shrinkage = task.config.shrinkage
    return _with(task.supervised(task.split.train, shrinkage=shrinkage))


def without_labels(task: Task, /) -> Parameters:
    """What differs between regions of one image is shrunken."""
    start = parameters(("shrinkage",), kinds=2)
    return whiten(start, scatters(task.problem), dim=task.config.rank)


def mixed_closed_form(task: Task, /) -> Parameters:
    """What learning through the diffusion starts from."""
    images = task.images_of(task.learns)
    return whiten(mixed(task), scatters(task.problem, images), dim=task.config.rank)


def by_gradient(
    task: Task,
    /,
    *,
    start: Start = default,
    learned: tuple[str, ...] = _SCALARS,
    objective: str | None = None,
    unlabelled: bool = False,
) -> Learned:
    """Parameters by gradient, stopped on the held-out objects.

    Without labels these are queries that `mine` finds in the database.
    """
    first, own, where = start(task), task.config, task.problem
    settings = dataclasses.replace(own.fit, k=own.k, refresh_every=None)
    if first.shrinkage is not None:
        settings = dataclasses.replace(own.whitening, k=own.k, dim=own.rank)
    elif first.projection is not None:
        where = refresh(where, first, k=own.k)
        if "projection" in learned:
            settings = dataclasses.replace(own.fit, k=own.k)
    if objective is not None:
        settings = dataclasses.replace(settings, objective=objective)
    split = task.split
    training, held_out = (
        mine(task.collection, seed=own.seed)
        if unlabelled
        else (task.labelled(split.train), task.labelled(split.held_out))
    )
    found = fit(where, training, held_out, first, learned=learned, config=settings)
    return Learned(found.parameters, found.num_solves, found.history)


def by_search(task: Task, /, *, search: Callable[..., Any]) -> Learned:
    """The best of some settings on the held-out objects, at the gradient's cost."""
    asked = task.split.held_out
    each = int(asked.sum())
    found = search(
        lambda one: float(np.nanmean(task.precision(one, asked))),
        parameters(),
        budget=max(1, SCALARS(task).solves // each),
        solves_per_setting=each,
    )
    return Learned(found.parameters, found.solves)


def by_shrinkage(task: Task, /) -> Learned:
    """Supervised whitening with the shrinkage that is best on the held-out objects."""
    split = task.split
    values = {}
    for shrinkage in task.config.shrinkages:
        own = _with(task.supervised(split.train, shrinkage=shrinkage))
        values[shrinkage] = np.nanmean(task.precision(own, split.held_out))
    best = max(values, key=lambda shrinkage: values[shrinkage])
    solves = len(values) * int(split.held_out.sum())
    return Learned(_with(task.supervised(task.learns, shrinkage=best)), solves)


def by_mixed_search(task: Task, /) -> Learned:
    """Random settings of what is learned through the diffusion.

    As many as there are searches for neighbours in that learning, which cost more than
    solves there. Weights are uniform among shares, the others in the logarithm. The
    start is tried, too; the held-out objects choose, and see a projection of the
    training labels.
    """
    split, rank = task.split, task.config.rank
    searches = len(MIXED(task).history["refreshed_step"])
    tried = searches * (task.config.whitening.folds + 1)
    each = int(split.held_out.sum())
    train = scatters(task.problem, task.images_of(split.train))
    draw = np.random.default_rng(task.seed)
    best, value = mixed(task), -1.0
    for number in range(tried):
        one = _drawn(draw) if number else mixed(task)
        found = task.precision(whiten(one, train, dim=rank), split.held_out)
        if np.nanmean(found) > value:
            best, value = one, float(np.nanmean(found))
    everything = scatters(task.problem, task.images_of(task.learns))
    return Learned(whiten(best, everything, dim=rank), tried * each)


def once_a_split(name: str, way: Way) -> Way:
    """A way that others ask for again, done once for each split."""
    return lambda task: task.made(name, lambda: way(task))


def once(name: str, way: Way) -> Way:
    """A way that does not depend on the split, done once for all."""
    return lambda task: task.collection.made(f"learned, {name}", lambda: way(task))


def at(start: Start) -> Way:
    """Nothing is learned by a solve."""
    return lambda task: Learned(start(task), 0)


def _drawn(draw: np.random.Generator) -> Parameters:
    ranges = {**RANGES, "emphasis": (0.01, 1.0)}

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


def _with(projection: Float[Array, "p d"]) -> Parameters:
    names = (*_SCALARS, "projection")
    made = parameters(names, dim=projection.shape[1], rank=projection.shape[0])
    return made._replace(projection=projection.astype(made.alpha.dtype))


SCALARS = once_a_split("scalars", by_gradient)
_MIXED = functools.partial(by_gradient, start=mixed, learned=_WHITENED)
MIXED = once_a_split("mixed", _MIXED)
_FREE = (*_SCALARS, "projection")

WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "defaults": at(default),
        "grid": functools.partial(by_search, search=grid_search),
        "random": lambda task: by_search(
            task, search=functools.partial(random_search, seed=task.seed)
        ),
        "gradient": SCALARS,
        "gradient, no labels": once(
            "scalars", functools.partial(by_gradient, unlabelled=True)
        ),
        "gradient, five parameters": functools.partial(
            by_gradient, start=five, learned=(*_SCALARS, "query_gamma", "bias")
        ),
        "PCA-whitening": at(first_dimensions),
        "whitening of regions, no labels": at(without_labels),
        "supervised whitening": at(closed_form),
        "supervised whitening, shrinkage chosen": by_shrinkage,
        "mixed whitening": at(mixed_closed_form),
        "mixed whitening, random": by_mixed_search,
        "mixed whitening, gradient": MIXED,
        "mixed whitening, softmax": functools.partial(_MIXED, objective="softmax"),
        "mixed whitening, hinge": functools.partial(_MIXED, objective="hinge"),
        "free projection, gradient": functools.partial(
            by_gradient, start=closed_form_of_training, learned=_FREE
        ),
    }
)
