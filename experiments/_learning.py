"""One split of a benchmark's objects, and every way to learn on it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from configs.learn import LearnConfig
from diffjax.evaluation import evaluate
from diffjax.learning import (
    Labelled,
    Parameters,
    Problem,
    Queries,
    Split,
    fit,
    grid_search,
    parameters,
    problem,
    random_search,
    refresh,
    score_images,
)
from diffjax.ranking import rank
from diffjax.regions import fit_supervised_whitening, pairs_of_labels
from experiments._collections import Collection

_AT_ONCE = 64  # Queries that are scored together, so that one program serves all.
_SCALARS = "alpha", "gamma", "lam"


@dataclasses.dataclass(frozen=True)
class Task:
    """A split of a benchmark to learn on.

    Attributes:
        collection: The benchmark.
        split: Which queries learn, choose and test.
        config: Settings.
    """

    collection: Collection
    split: Split
    config: LearnConfig

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return int(self.collection.index.vectors.shape[1])

    @functools.cached_property
    def problem(self) -> Problem:
        """The collection with its graph."""
        return self.collection.made(
            f"problem, k {self.config.k}",
            lambda: problem(
                self.collection.index.vectors,
                self.collection.index.image_ids,
                k=self.config.k,
            ),
        )

    @functools.cached_property
    def scalars(self) -> "Learned":
        """alpha, gamma and lambda by gradient; what searches may cost as much as."""
        return by_gradient(self)

    def labelled(self, chosen: Bool[np.ndarray, " q"]) -> Labelled:
        """Some of the queries with their answers."""
        own, truth = self.collection, self.collection.truth
        numbers = np.flatnonzero(chosen)
        rows = chosen[own.query_ids]
        positives = np.zeros((own.index.num_images, len(numbers)), bool)
        used = np.ones_like(positives)
        for place, query in enumerate(numbers):
            positives[np.asarray(truth.positives[query], int), place] = True
            used[np.asarray(truth.junk[query], int), place] = False
        ids = np.searchsorted(numbers, own.query_ids[rows]).astype(np.int32)
        return Labelled(
            Queries((np.asarray(own.regions)[rows],), ids),
            positives,
            used,
            tuple(str(truth.objects[query]) for query in numbers),
        )

    def precision(
        self, learned: Parameters, chosen: Bool[np.ndarray, " q"]
    ) -> Float[np.ndarray, " q"]:
        """Average precision of some queries; NaN for the others."""
        where = self.problem
        if learned.projection is not None:
            where = refresh(where, learned, k=self.config.k)
        numbers = np.flatnonzero(chosen)
        scores = _score(learned, where, self.collection, numbers, self.config)
        truth = self.collection.truth
        own = {
            name: [getattr(truth, name)[query] for query in numbers]
            for name in ("positives", "junk")
        }
        found = evaluate(
            rank(scores),
            _Answers(**own),
            num_images=self.collection.index.num_images,
        )
        everywhere = np.full(len(chosen), np.nan)
        everywhere[numbers] = np.asarray(found.average_precision)
        return everywhere

    def supervised(self) -> Float[Array, "p d"]:
        """The closed form: directions in which pictures of one object differ least."""
        truth = self.collection.truth
        learns = self.split.train | self.split.held_out
        names = sorted({str(truth.objects[query]) for query in np.flatnonzero(learns)})
        labels = np.full(self.collection.index.num_images, -1)
        for query in np.flatnonzero(learns):
            own = np.asarray(truth.positives[query], int)
            labels[own] = names.index(str(truth.objects[query]))
        known = np.flatnonzero(labels >= 0)
        fitted = fit_supervised_whitening(
            self.collection.whole,
            known[pairs_of_labels(labels[known])],
            dim=self.config.rank,
            shrinkage=self.config.shrinkage,
        )
        projection = jnp.asarray(fitted.projection).T
        # Lengths are made 1 after it; entries as large as identity's learn as fast.
        return projection * jnp.sqrt(self.config.rank / jnp.sum(projection**2))


class _Answers(NamedTuple):
    positives: list[Any]
    junk: list[Any]


class Learned(NamedTuple):
    """What a way of learning found.

    Attributes:
        parameters: The parameters.
        solves: Diffusions that were solved for it.
    """

    parameters: Parameters
    solves: int


def default(task: Task, /) -> Learned:
    """The paper's parameters."""
    del task
    return Learned(parameters(), 0)


def by_gradient(
    task: Task,
    /,
    *,
    learned: tuple[str, ...] = _SCALARS,
    start: Callable[[Task], Parameters] = lambda _: parameters(),
) -> Learned:
    """Parameters by gradient, stopped on the held-out objects."""
    first = start(task)
    where, settings = task.problem, task.config.fit
    if first.projection is not None:
        where = refresh(where, first, k=task.config.k)
    if "projection" not in learned:
        settings = dataclasses.replace(settings, refresh_every=None)
    found = fit(
        where,
        task.labelled(task.split.train),
        task.labelled(task.split.held_out),
        first,
        learned=learned,
        config=dataclasses.replace(settings, k=task.config.k),
    )
    return Learned(found.parameters, found.num_solves)


def by_search(task: Task, /, *, search: Callable[..., Any]) -> Learned:
    """The best of some settings on all objects to learn on, at the gradient's cost."""
    learns = task.split.train | task.split.held_out
    cost = task.scalars.solves
    each = int(learns.sum())
    found = search(
        lambda one: float(np.nanmean(task.precision(one, learns))),
        parameters(),
        budget=max(2, cost // each),
        solves_per_setting=each,
    )
    return Learned(found.parameters, found.solves)


def _with(projection: Float[Array, "p d"]) -> Parameters:
    names = (*_SCALARS, "projection")
    made = parameters(names, dim=projection.shape[1], rank=projection.shape[0])
    return made._replace(projection=projection.astype(made.alpha.dtype))


def first_dimensions(task: Task, /) -> Parameters:
    """The first dimensions of the whitened vectors: PCA-whitening to fewer."""
    return _with(jnp.eye(min(task.config.rank, task.dim), task.dim))


def closed_form(task: Task, /) -> Parameters:
    """Supervised whitening of as many dimensions."""
    return _with(task.supervised())


def _plain(start: Callable[[Task], Parameters]) -> Callable[[Task], Learned]:
    return lambda task: Learned(start(task), 0)


def _more(task: Task, /) -> Parameters:
    del task
    return parameters((*_SCALARS, "query_gamma", "bias"))


# What is compared, by what the tables call it.
WAYS: Mapping[str, Callable[[Task], Learned]] = MappingProxyType(
    {
        "defaults": default,
        "grid": functools.partial(by_search, search=grid_search),
        "random": functools.partial(by_search, search=random_search),
        "gradient": lambda task: task.scalars,
        "gradient, five parameters": functools.partial(
            by_gradient, learned=(*_SCALARS, "query_gamma", "bias"), start=_more
        ),
        "PCA-whitening": _plain(first_dimensions),
        "supervised whitening": _plain(closed_form),
        "supervised whitening, gradient": functools.partial(
            by_gradient, start=closed_form
        ),
        "projection from PCA-whitening": functools.partial(
            by_gradient, learned=(*_SCALARS, "projection"), start=first_dimensions
        ),
        "projection from supervised whitening": functools.partial(
            by_gradient, learned=(*_SCALARS, "projection"), start=closed_form
        ),
    }
)


def _score(
    learned: Parameters,
    where: Problem,
    collection: Collection,
    numbers: np.ndarray,
    config: LearnConfig,
) -> Float[Array, "m q"]:
    """Scores all images for some queries, in blocks of one shape."""
    counts = np.bincount(collection.query_ids, minlength=collection.num_queries)
    starts = np.cumsum(counts) - counts
    most = int(counts.max())
    ids = np.asarray(collection.index.image_ids)
    regions = np.asarray(collection.regions)
    parts = []
    for begin in range(0, len(numbers), _AT_ONCE):
        some = numbers[begin : begin + _AT_ONCE]
        slots = np.arange(most)
        real = np.zeros((_AT_ONCE, most), bool)
        real[: len(some)] = slots < counts[some, None]
        rows = np.zeros((_AT_ONCE, most), int)
        rows[: len(some)] = np.minimum(starts[some, None] + slots, len(regions) - 1)
        owner = np.where(real, np.arange(_AT_ONCE)[:, None], _AT_ONCE)
        asked = Queries((regions[rows.ravel()],), owner.ravel().astype(np.int32))
        scores = score_images(
            learned,
            where,
            asked,
            query_k=config.fit.query_k,
            max_steps=20,
            num_images=collection.index.num_images,
            num_queries=_AT_ONCE,
            max_regions=int(np.bincount(ids).max()),
        )
        parts.append(jax.block_until_ready(scores)[:, : len(some)])
    return jnp.concatenate(parts, axis=1)
