"""Learning on the pictures of an index from labels: what `diffjax learn` does."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from diffjax.data import GroundTruth
from diffjax.index import Index
from diffjax.learning import (
    FitConfig,
    Fitted,
    Labelled,
    Queries,
    fit,
    parameters,
    problem,
    save_parameters,
)

_HELD_OUT_ONE_IN = 4


class LearnedOnLabels(NamedTuple):
    """What was learned from labels.

    Attributes:
        fitted: The parameters, and how they were found.
        before: mAP on the held-out queries at the index's own settings.
        after: The same with the parameters, which were chosen there.
        held_out: Objects that were held out.
    """

    fitted: Fitted
    before: float
    after: float
    held_out: tuple[str, ...]


def learn_on_labels(
    index: Index,
    truth: GroundTruth,
    *,
    learned: Sequence[str] = ("alpha", "gamma", "lam"),
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen.
    weights: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> LearnedOnLabels:
    """Learns parameters for an index of pictures from boxes and labels in them.

    Every row of the labels is a query; right are the pictures with its label, its own
    does not count, and pictures that are not named count as wrong. A quarter of the
    objects, drawn by the seed, is held out and tells when to stop.

    Args:
        index: The index, of pictures.
        truth: Labels of pictures of the index, see `data.read_labels`.
        learned: Parts of `learning.Parameters` that are learned, of one graph without
            weights of scales. With shrinkage the labelled pictures also make the
            projection, in closed form.
        config: Settings; k and query_k are the index's.
        weights: Where the network's file of weights lies now; see `Index.describe`.
        checkpoint: As for `learning.fit`.
        progress: Is told what is done, how far it is, and of how many.

    Returns:
        The parameters, for `Index.with_parameters` and `learning.save_parameters`.

    Raises:
        ValueError: If the labels name pictures that the index does not hold, all of
            them listed; if there are fewer than two objects with two pictures; or as
            `learning.fit`.
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
    held_out = _hold_out(truth, seed=config.seed)
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
        _labelled(
            Queries((regions,), described.query_ids),
            here,
            np.flatnonzero(part),
            num_images=index.num_images,
        )
        for part in (~held_out, held_out)
    )
    start = parameters(
        tuple(learned),
        alpha=index.config.alpha,
        gamma=index.config.gamma,
        lam=index.config.lam,
        dim=int(index.vectors.shape[1]),
    )
    found = fit(
        problem(index.vectors, index.image_ids, k=index.neighbors.indices.shape[1]),
        train,
        chosen,
        start,
        learned=tuple(learned),
        config=config,
        progress=progress,
        checkpoint=checkpoint,
    )
    scores = found.history["held_out"]
    return LearnedOnLabels(
        fitted=found,
        before=float(scores[0]),
        after=float(np.nanmax(scores)),
        held_out=tuple(sorted(set(chosen.objects))),
    )


def learn_to_file(
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
        weights: As for `learn_on_labels`.
        progress: As for `learn_on_labels`.

    Returns:
        What to tell the user, line by line.
    """
    config = FitConfig(
        steps=steps,
        seed=seed,
        k=index.neighbors.indices.shape[1],
        query_k=min(index.config.query_k, len(index.vectors)),
        **_pace(learned),
    )
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    found = learn_on_labels(
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
        found.fitted.parameters,
        fingerprint=index.fingerprint,
        notes={"steps": steps, "seed": seed, "held_out": list(found.held_out)},
    )
    checkpoint.unlink(missing_ok=True)
    values = {
        name: value
        for name, value in found.fitted.parameters._asdict().items()
        if value is not None and np.ndim(value) == 0
    }
    before, after = (f"{100 * share:.1f} %" for share in (found.before, found.after))
    steps_taken = f"{found.fitted.best_step} steps, which were chosen there"
    return [
        f"held out: {', '.join(found.held_out)}",
        f"mAP there: {before} before, {after} after {steps_taken}",
        ", ".join(f"{name} {float(value):.4g}" for name, value in values.items()),
        f"Search with them: diffjax search INDEX PICTURE --params {out}",
    ]


def _pace(learned: Sequence[str]) -> dict[str, Any]:
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


def _hold_out(truth: GroundTruth, *, seed: int) -> Bool[np.ndarray, " q"]:
    """Draws a quarter of the objects that have an answer, at least one of two."""
    names = sorted(
        {
            label
            for label, own in zip(truth.objects, truth.positives, strict=True)
            if len(own)
        }
    )
    if len(names) < 2:
        raise ValueError(
            "labels must be of two objects or more that several pictures show, one to "
            f"learn from and one to stop by, got {len(names)}."
        )
    drawn = np.random.default_rng(seed).permutation(len(names))
    away = {names[i] for i in drawn[: max(1, len(names) // _HELD_OUT_ONE_IN)]}
    return np.array([label in away for label in truth.objects])


def _labelled(
    queries: Queries,
    truth: GroundTruth,
    chosen: Int[np.ndarray, " c"],
    *,
    num_images: int,
) -> Labelled:
    """Some of the queries, with right answers by number of the index's pictures."""
    ids = np.asarray(queries.query_ids)
    rows = np.isin(ids, chosen)
    positives = np.zeros((num_images, len(chosen)), bool)
    used = np.ones_like(positives)
    for column, query in enumerate(chosen):
        positives[truth.positives[query], column] = True
        used[truth.junk[query], column] = False
    return Labelled(
        Queries(
            tuple(np.asarray(view)[rows] for view in queries.vectors),
            np.searchsorted(chosen, ids[rows]).astype(np.int32),
        ),
        positives,
        used,
        tuple(truth.objects[query] for query in chosen),
    )
