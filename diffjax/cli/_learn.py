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
    Parameters,
    QueryDescriptors,
    RelevanceLists,
    TrainingGraphs,
    fit,
    hold_out_objects,
    parameters,
    save_parameters,
    score_images,
    training_graphs,
)
from diffjax.progress import progress_bars
from diffjax.ranking import rank

from ._console import check_writable, say

# Settings that a search must have, as the differentiated search has them.
_REQUIRED_SETTINGS = {"pooling": "gmp", "rule": "paper"}
_LEARNED_SETTINGS = "alpha", "gamma", "lam", "query_gamma", "bias"
_UNSUPPORTED_SETTINGS = "shortlist", "offline_neighbors", "local_nodes"


class LearnedFromLabels(NamedTuple):
    """Parameters learned from labels, with the precision before and after.

    Attributes:
        fit_result: Parameters, and the history of the fit.
        precision_before: Mean average precision on the held-out queries, with the
            settings of the index.
        precision_after: The same with the learned parameters, which are chosen on these
            queries; with shrinkage the projection is that of the other labels alone.
        held_out: Held-out objects.
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

    Every row of the labels is a query; the pictures with its label are positives, its
    own picture does not count, and unlabelled pictures are negatives. A quarter of the
    objects, drawn by the seed, is held out, to choose the stopping step. Regions of the
    query's own picture stay in the graph, as in a search for a picture of the index.
    Where the settings of the index are best on the held-out objects, they are the
    result.

    Args:
        index: Index of pictures.
        truth: Labels of pictures of the index, see `datasets.read_labels`.
        learned: Names of learned parameters of `learning.Parameters`, for one graph
            without weights of scales. With shrinkage the labelled pictures also give
            the projection, in closed form.
        config: Settings; k, query_k and search_steps must be those of the index.
        weights: Path of the network's weights file; see `Index.describe`.
        checkpoint: As for `learning.fit`.
        progress: Called with the task, the number of steps done, and of how many.

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
    number_of_picture = {
        name: number for number, name in enumerate(index.pictures.names)
    }
    unknown_pictures = [
        name for name in truth.database if name not in number_of_picture
    ]
    if unknown_pictures:
        raise ValueError(
            f"labels must be of pictures in the index, got {len(unknown_pictures)} of "
            f"{len(truth.database)} that it does not hold: "
            f"{', '.join(unknown_pictures)}."
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
    image_numbers = np.array([number_of_picture[name] for name in truth.database])
    positives, junk = (
        tuple(image_numbers[np.asarray(positions, int)] for positions in lists)
        for lists in (truth.positives, truth.junk)
    )
    numbered_truth = truth._replace(positives=positives, junk=junk)
    training_queries, held_out_queries = (
        _select_labelled_queries(
            QueryDescriptors((regions,), described.query_ids),
            numbered_truth,
            np.flatnonzero(mask),
            num_images=index.num_images,
        )
        for mask in (~held_out, held_out)
    )
    settings = index.config.by_name()
    # Settings of the index that are not learned are kept, too.
    is_set = {
        "query_gamma": settings["query_gamma"] is not None,
        "bias": settings["bias"] != 0,
    }
    start = parameters(
        (*learned, *(name for name, is_present in is_set.items() if is_present)),
        **{name: settings[name] for name in _LEARNED_SETTINGS},
        dim=int(index.vectors.shape[1]),
    )
    collection = training_graphs(
        index.vectors, index.image_ids, k=index.neighbors.indices.shape[1]
    )
    fit_result = fit(
        collection,
        training_queries,
        held_out_queries,
        start,
        learned=tuple(learned),
        config=config,
        progress=progress,
        checkpoint=checkpoint,
    )
    scores = fit_result.history["held_out"]
    precision_before, precision_after = float(scores[0]), float(np.nanmax(scores))
    if start.shrinkage is not None:
        # That start has a projection; compare with the index without one.
        plain = start._replace(shrinkage=None, emphasis=None)
        precision_before = _mean_average_precision(
            plain, collection, held_out_queries, config
        )
        if precision_before >= precision_after:
            fit_result = fit_result._replace(parameters=plain, best_step=0)
            precision_after = precision_before
    return LearnedFromLabels(
        fit_result=fit_result,
        precision_before=precision_before,
        precision_after=precision_after,
        held_out=tuple(sorted(set(held_out_queries.objects))),
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
    """Learns parameters and writes them to a file, with a checkpoint beside it.

    Args:
        index: The index.
        truth: The labels.
        out: File of the parameters.
        learned: Names of learned parameters.
        steps: Most steps.
        seed: Seed of batches and held-out objects.
        weights: As for `learn_from_labels`.
        progress: As for `learn_from_labels`.

    Returns:
        Lines of text about the result.
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
    result = learn_from_labels(
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
        result.fit_result.parameters,
        fingerprint=index.fingerprint,
        notes={"steps": steps, "seed": seed, "held_out": list(result.held_out)},
    )
    checkpoint.unlink(missing_ok=True)
    values = {
        name: value
        for name, value in result.fit_result.parameters._asdict().items()
        if value is not None and np.ndim(value) == 0
    }
    precision_before, precision_after = (
        f"{100 * share:.1f} %"
        for share in (result.precision_before, result.precision_after)
    )
    steps_taken = f"{result.fit_result.best_step} steps, which were chosen there"
    return [
        f"held out: {', '.join(result.held_out)}",
        f"mAP there: {precision_before} before, {precision_after} after {steps_taken}",
        ", ".join(f"{name} {float(value):.4g}" for name, value in values.items()),
        f"Search with them: diffjax search INDEX PICTURE --params {out}",
    ]


def _schedule_settings(learned: Sequence[str]) -> dict[str, Any]:
    """Settings of evaluation and refresh intervals, by the learned parameters."""
    default_interval = FitConfig().evaluate_every
    if "shrinkage" in learned:
        # Few parameters, and intervals short enough for the folds to agree.
        interval = default_interval // 4
        return {
            "evaluate_every": interval,
            "refresh_every": interval,
            "patience": 6,
            "learning_rate": 0.1,
            "batch": 16,
        }
    return {"refresh_every": default_interval if "projection" in learned else None}


def _check_search_settings(config: IndexConfig) -> None:
    """Refuses an index with search settings that learning does not support."""
    settings = config.by_name()
    unsupported = [
        f"{name} {settings[name]}"
        for name in (*_REQUIRED_SETTINGS, *_UNSUPPORTED_SETTINGS)
        if (settings[name] or None) != _REQUIRED_SETTINGS.get(name)
    ]
    if unsupported:
        raise ValueError(
            "learning follows a search of the whole graph with the paper's rule and "
            "generalised max pooling, got an index with "
            f"{', '.join(unsupported)}: build one without."
        )


def _mean_average_precision(
    parameters: Parameters,
    training_graphs: TrainingGraphs,
    labelled: LabelledQueries,
    config: FitConfig,
) -> float:
    """Mean average precision of labelled queries at some parameters."""
    scores = score_images(
        parameters,
        training_graphs,
        labelled.queries,
        query_k=min(config.query_k, len(training_graphs.image_ids)),
        max_steps=config.search_steps or config.max_steps,
        rtol=config.rtol,
    )
    positives, used = np.asarray(labelled.positives), np.asarray(labelled.used)
    truth = RelevanceLists(
        [np.flatnonzero(column) for column in positives.T],
        [np.flatnonzero(~column) for column in used.T],
    )
    report = evaluate(rank(scores), truth, num_images=len(positives))
    return report.mean_average_precision


def _hold_out_labels(truth: GroundTruth, *, seed: int) -> Bool[np.ndarray, " q"]:
    """Draws the held-out objects among those with a positive; mask of their queries."""
    pairs = zip(truth.objects, truth.positives, strict=True)
    names = sorted({label for label, positives in pairs if len(positives)})
    if len(names) < 2:
        raise ValueError(
            "labels must be of two objects or more that several pictures show, one to "
            f"learn from and one to stop by, got {len(names)}."
        )
    held_out_mask = hold_out_objects(names, seed=seed)
    held_out = {
        name
        for name, is_held_out in zip(names, held_out_mask, strict=True)
        if is_held_out
    }
    return np.array([label in held_out for label in truth.objects])


def _select_labelled_queries(
    queries: QueryDescriptors,
    truth: GroundTruth,
    query_numbers: Int[np.ndarray, " c"],
    *,
    num_images: int,
) -> LabelledQueries:
    """Selects queries, with positives as image numbers of the index."""
    ids = np.asarray(queries.query_ids)
    rows = np.isin(ids, query_numbers)
    positives = np.zeros((num_images, len(query_numbers)), bool)
    used = np.ones_like(positives)
    for column, query in enumerate(query_numbers):
        positives[truth.positives[query], column] = True
        used[truth.junk[query], column] = False
    return LabelledQueries(
        QueryDescriptors(
            tuple(np.asarray(view)[rows] for view in queries.vectors),
            np.searchsorted(query_numbers, ids[rows]).astype(np.int32),
        ),
        positives,
        used,
        tuple(truth.objects[query] for query in query_numbers),
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
