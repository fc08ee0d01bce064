"""`diffjax learn`: the settings of a search, from labels in its pictures."""

import pathlib
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diffjax import caches
from diffjax.data import read_labels
from diffjax.index import Index
from diffjax.learn import learn_to_file
from diffjax.progress import progress_bars

from ._usage import check_writable, say

Part = Literal[
    "alpha",
    "gamma",
    "lam",
    "query_gamma",
    "bias",
    "projection",
    "shrinkage",
    "emphasis",
]


def learn(
    index: Positional[Annotated[pathlib.Path, arg(metavar="INDEX")]],
    *,
    queries: Annotated[pathlib.Path, arg(metavar="CSV")],
    out: Annotated[pathlib.Path, arg(metavar="FILE")],
    parts: tuple[Part, ...] = ("alpha", "gamma", "lam"),
    steps: int = 200,
    seed: int = 0,
    weights: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None,
) -> None:
    """Learn the settings of a search from boxes and labels in pictures of its index.

    The file names pictures of the index, what each shows and where, in columns
    picture,x0,y0,x1,y1,label. Each row is a query, right are the pictures of its label.
    A quarter of the labels is held out and tells when to stop. What was learned is used
    by `diffjax search --params`. Learning that was stopped goes on where it was.

    Args:
        index: Folder that `diffjax index` made.
        queries: The labels.
        out: Where the parameters go.
        parts: What is learned; shrinkage and emphasis whiten vectors by the labels.
        steps: Most steps, a multiple of 20.
        seed: Of the batches and of what is held out.
        weights: Where the network's weights lie now, if they were moved.
    """
    caches.keep_compiled_programs()
    check_writable(out)
    with progress_bars() as progress:
        lines = learn_to_file(
            Index.load(index),
            read_labels(queries),
            out,
            learned=parts,
            steps=steps,
            seed=seed,
            weights=weights,
            progress=progress,
        )
    say("\n".join(lines))
