"""Command `diffjax learn`: settings of a search learned from labelled boxes."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from diffjax import caches
from diffjax.datasets import GroundTruth, read_labels
from diffjax.evaluation import evaluate
from diffjax.index import Index, IndexConfig
from diffjax.learning import (
    FitConfig,
    FitResult,
    LabelledQueries,
    LearningProblem,
    Parameters,
    QueryDescriptors,
    RelevanceLists,
    fit,
    hold_out_objects,
    parameters,
    problem,
    save_parameters,
    score_images,
)
from diffjax.progress import progress_bars
from diffjax.ranking import rank

from ._usage import check_writable, say

# Settings that make a search another one than what is differentiated.
_REQUIRED_SETTINGS = {"pooling": "gmp", "rule": "paper"}
_LEARNED_SETTINGS = "alpha", "gamma", "lam", "query_gamma", "bias"
_UNSUPPORTED_SETTINGS = "shortlist", "offline_neighbors", "local_nodes"


class LearnedFromLabels(NamedTuple):
    """What was learned from labels.

    Attributes:
        fit_result: The parameters, and how they were found.
        precision_before: mAP on the held-out queries at the index's own settings.
        precision_after: The same at the numbers that were learned, which were chosen
            there; with shrinkage the projection there is that of the other labels
            alone.
        held_out: Objects that were held out.
    """

    fit_result: FitResult
    precision_before: float
    precision_after: float
    held_out: tuple[str, ...]


def learn_from_labels(
    index: Index,
    truth: GroundTruth,
    *,
    learned: Sequence[str] = ("alpha", "gamma", "lam"),
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen.
    weights: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LearnedFromLabels:
    """Learns parameters for an index of pictures from boxes and labels in them.

    Every row of the labels is a query; right are the pictures with its label, its own
    does not count, and pictures that are not named count as wrong. A quarter of the
    objects, drawn by the seed, is held out and tells when to stop. Regions of the
    query's own picture stay in the graph, as in a search for what is in the index.
    Where nothing is better on the held-out objects than the index's own settings, these
    are what is given.

    Args:
        index: The index, of pictures.
        truth: Labels of pictures of the index, see `data.read_labels`.
        learned: Parts of `learning.Parameters` that are learned, of one graph without
            weights of scales. With shrinkage the labelled pictures also make the
            projection, in closed form.
        config: Settings; k, query_k and search_steps are to be the index's.
        weights: Where the network's file of weights lies now; see `Index.describe`.
        checkpoint: As for `learning.fit`.
        progress: Is told what is done, how far it is, and of how many.

    Returns:
        The parameters, for `Index.with_parameters` and `learning.save_parameters`.

    Raises:
        ValueError: If the labels name pictures that the index does not hold, all of
            them listed; if there are fewer than two objects with two pictures; if the
            index searches in a way that learning does not follow; or as `learning.fit`.
    """
    if index.pictures is None:
        raise ValueError(
            "the index must be one of pictures, got one of vectors: learn with "
            "learning.fit."
        )
    numbers = {name: number for number, name in enumerate(index.pictures.names)}
    absent = [name for name in truth.database if name not in numbers]
    if absent:
        raise ValueError(
            f"labels must be of pictures in the index, got {len(absent)} of "
            f"{len(truth.database)} that it does not hold: {', '.join(absent)}."
        )
    _check_search_settings(index.config)
    held_out = _hold_out_labels(truth, seed=config.seed)
    folder = pathlib.Path(index.pictures.folder)
    described = index.describe(
        [folder / name for name in truth.queries],
        boxes=truth.boxes,
        weights=weights,
        progress=progress,
    )
    regions = np.asarray(index.prepare(described.vectors))
    places = np.array([numbers[name] for name in truth.database])
    right, junk = (
        tuple(places[np.asarray(own, int)] for own in lists)
        for lists in (truth.positives, truth.junk)
    )
    here = truth._replace(positives=right, junk=junk)
    train, chosen = (
        _select_labelled_queries(
            QueryDescriptors((regions,), described.query_ids),
            here,
            np.flatnonzero(part),
            num_images=index.num_images,
        )
        for part in (~held_out, held_out)
    )
    settings = index.config.by_name()
    # Parts of the index's search that are not learned stay as they are, too.
    given = {
        "query_gamma": settings["query_gamma"] is not None,
        "bias": settings["bias"] != 0,
    }
    start = parameters(
        (*learned, *(name for name, there in given.items() if there)),
        **{name: settings[name] for name in _LEARNED_SETTINGS},
        dim=int(index.vectors.shape[1]),
    )
    collection = problem(
        index.vectors, index.image_ids, k=index.neighbors.indices.shape[1]
    )
    found = fit(
        collection,
        train,
        chosen,
        start,
        learned=tuple(learned),
        config=config,
        progress=progress,
        checkpoint=checkpoint,
    )
    scores = found.history["held_out"]
    precision_before, precision_after = float(scores[0]), float(np.nanmax(scores))
    if start.shrinkage is not None:
        # Where that starts is no longer the index as it is.
        plain = start._replace(shrinkage=None, emphasis=None)
        precision_before = _mean_average_precision(plain, collection, chosen, config)
        if precision_before >= precision_after:
            found = found._replace(parameters=plain, best_step=0)
            precision_after = precision_before
    return LearnedFromLabels(
        fit_result=found,
        precision_before=precision_before,
        precision_after=precision_after,
        held_out=tuple(sorted(set(chosen.objects))),
    )


def learn_and_save(
    index: Index,
    truth: GroundTruth,
    out: pathlib.Path,
    *,
    learned: Sequence[str],
    steps: int,
    seed: int,
    weights: pathlib.Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> list[str]:
    """Learns, keeps what was reached beside the file, and writes it; see above.

    Args:
        index: The index.
        truth: The labels.
        out: The file of parameters.
        learned: Parts that are learned.
        steps: Most steps.
        seed: Of batches and held-out objects.
        weights: As for `learn_from_labels`.
        progress: As for `learn_from_labels`.

    Returns:
        What to tell the user, line by line.
    """
    config = FitConfig(
        steps=steps,
        seed=seed,
        k=index.neighbors.indices.shape[1],
        query_k=min(index.config.search.query_k, index.num_regions),
        search_steps=index.config.search.max_steps,
        **_schedule_settings(learned),
    )
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    found = learn_from_labels(
        index,
        truth,
        learned=learned,
        config=config,
        weights=weights,
        checkpoint=checkpoint,
        progress=progress,
    )
    save_parameters(
        out,
        found.fit_result.parameters,
        fingerprint=index.fingerprint,
        notes={"steps": steps, "seed": seed, "held_out": list(found.held_out)},
    )
    checkpoint.unlink(missing_ok=True)
    values = {
        name: value
        for name, value in found.fit_result.parameters._asdict().items()
        if value is not None and np.ndim(value) == 0
    }
    precision_before, precision_after = (
        f"{100 * share:.1f} %"
        for share in (found.precision_before, found.precision_after)
    )
    steps_taken = f"{found.fit_result.best_step} steps, which were chosen there"
    return [
        f"held out: {', '.join(found.held_out)}",
        f"mAP there: {precision_before} before, {precision_after} after {steps_taken}",
        ", ".join(f"{name} {float(value):.4g}" for name, value in values.items()),
        f"Search with them: diffjax search INDEX PICTURE --params {out}",
    ]


def _schedule_settings(learned: Sequence[str]) -> dict[str, Any]:
    """How often to look: neighbours move with the vectors, parts take turns."""
    usual = FitConfig().evaluate_every
    if "shrinkage" in learned:
        # A few numbers, and turns that are short enough for the parts to agree.
        turn = usual // 4
        return {
            "evaluate_every": turn,
            "refresh_every": turn,
            "patience": 6,
            "learning_rate": 0.1,
            "batch": 16,
        }
    return {"refresh_every": usual if "projection" in learned else None}


def _check_search_settings(config: IndexConfig) -> None:
    """Refuses an index that searches in another way than what learning follows."""
    settings = config.by_name()
    other = [
        f"{name} {settings[name]}"
        for name in (*_REQUIRED_SETTINGS, *_UNSUPPORTED_SETTINGS)
        if (settings[name] or None) != _REQUIRED_SETTINGS.get(name)
    ]
    if other:
        raise ValueError(
            "learning follows a search of the whole graph with the paper's rule and "
            f"generalised max pooling, got an index with {', '.join(other)}: build one "
            "without."
        )


def _mean_average_precision(
    parameters: Parameters,
    problem: LearningProblem,
    asked: LabelledQueries,
    config: FitConfig,
) -> float:
    """Mean average precision of labelled queries at some parameters."""
    scores = score_images(
        parameters,
        problem,
        asked.queries,
        query_k=min(config.query_k, len(problem.image_ids)),
        max_steps=config.search_steps or config.max_steps,
        rtol=config.rtol,
    )
    positives, used = np.asarray(asked.positives), np.asarray(asked.used)
    truth = RelevanceLists(
        [np.flatnonzero(column) for column in positives.T],
        [np.flatnonzero(~column) for column in used.T],
    )
    report = evaluate(rank(scores), truth, num_images=len(positives))
    return report.mean_average_precision


def _hold_out_labels(truth: GroundTruth, *, seed: int) -> Bool[np.ndarray, " q"]:
    """Draws the objects to stop by among those that have an answer."""
    pairs = zip(truth.objects, truth.positives, strict=True)
    names = sorted({label for label, own in pairs if len(own)})
    if len(names) < 2:
        raise ValueError(
            "labels must be of two objects or more that several pictures show, one to "
            f"learn from and one to stop by, got {len(names)}."
        )
    chosen = hold_out_objects(names, seed=seed)
    away = {name for name, drawn in zip(names, chosen, strict=True) if drawn}
    return np.array([label in away for label in truth.objects])


def _select_labelled_queries(
    queries: QueryDescriptors,
    truth: GroundTruth,
    chosen: Int[np.ndarray, " c"],
    *,
    num_images: int,
) -> LabelledQueries:
    """Some of the queries, with right answers by number of the index's pictures."""
    ids = np.asarray(queries.query_ids)
    rows = np.isin(ids, chosen)
    positives = np.zeros((num_images, len(chosen)), bool)
    used = np.ones_like(positives)
    for column, query in enumerate(chosen):
        positives[truth.positives[query], column] = True
        used[truth.junk[query], column] = False
    return LabelledQueries(
        QueryDescriptors(
            tuple(np.asarray(view)[rows] for view in queries.vectors),
            np.searchsorted(chosen, ids[rows]).astype(np.int32),
        ),
        positives,
        used,
        tuple(truth.objects[query] for query in chosen),
    )


def learn(
    *,
    index: pathlib.Path,
    queries: pathlib.Path,
    out: pathlib.Path,
    parts: Sequence[str],
    steps: int,
    seed: int,
    weights: pathlib.Path | None,
) -> None:
    """Learns the settings of a search from labelled boxes in pictures of its index."""
    caches.enable_compilation_cache()
    check_writable(out)
    with progress_bars() as progress:
        lines = learn_and_save(
            Index.open(index),
            read_labels(queries),
            out,
            learned=tuple(parts),
            steps=steps,
            seed=seed,
            weights=weights,
            progress=progress,
        )
    say("\n".join(lines))
