"""Objects in parts, so that no query sees a projection of its own object's labels."""

from typing import NamedTuple

import numpy as np

from ._config import FitConfig
from ._labelled import Labelled, Table, images_of_objects, split_table
from ._problem import Problem
from ._steps import Part
from ._whitened import scatters


class Folded(NamedTuple):
    """A collection as parts of its training queries see it, and the held-out ones.

    Attributes:
        training: One for every part.
        held_out: Of the held-out queries.
    """

    training: tuple[Part, ...]
    held_out: Part


def fold(
    problem: Problem,
    training: Labelled,
    tables: list[Table],
    *,
    config: FitConfig,
) -> Folded:
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
    split = split_table(own, np.array([turns[name] for name in shown]))

    def measured(left_out):
        # An object of which no query asks anything has no turn and is always seen.
        seen = [name for name in images if turns.get(name, -1) != left_out]
        if not seen:
            raise ValueError(
                "training must have two objects that two images or more show for "
                f"shrinkage, got {sorted(images)}."
            )
        return scatters(problem, [images[name] for name in seen])

    parts = [
        Part(problem, table, measured(number)) for number, table in enumerate(split)
    ]
    return Folded(tuple(parts), Part(problem, held_out, measured(count)))
