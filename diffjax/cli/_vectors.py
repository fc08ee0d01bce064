"""Commands for vectors of your own, on the disk: index and search."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Any

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional, arg

from diffjax import caches
from diffjax.index import MappedConfig, MappedIndex, MappedResult
from diffjax.progress import progress_bars
from diffjax.report import text_table

from ._usage import say


def index_vectors(
    vectors: Positional[Annotated[pathlib.Path, arg(metavar="VECTORS.npy")]],
    out: Positional[Annotated[pathlib.Path, arg(metavar="PATH")]],
    *,
    image_ids: Annotated[pathlib.Path | None, arg(metavar="IDS.npy")] = None,
    config: Annotated[OmitArgPrefixes[MappedConfig], arg(name="")] = MappedConfig(),  # noqa: B008  # Frozen.
) -> None:
    """Make an index of vectors, on the disk: for millions that need not fit in memory.

    Says what it will take before it begins, and refuses what can't fit. A build that
    was stopped goes on where it was.

    Args:
        vectors: Region vectors [n, d] of float32 or float16, in NumPy's format.
        out: Folder of the index.
        image_ids: Image of each: 0, 1, 2, ... without going back; default: its own.
        config: Settings.
    """
    caches.enable_compilation_cache()
    ids = None if image_ids is None else _read(image_ids)
    with progress_bars() as progress:
        made = MappedIndex.build(
            out, _read(vectors), ids, config=config, log=_tell, progress=progress
        )
    say(f"{out}: {made}, {made.recall:.1%} of the true neighbours on a sample.")
    say(f"Search it with: diffjax search-vectors {out} QUERIES.npy")


def search_vectors(
    index: Positional[Annotated[pathlib.Path, arg(metavar="INDEX")]],
    queries: Positional[Annotated[pathlib.Path, arg(metavar="QUERIES.npy")]],
    *,
    query_ids: Annotated[pathlib.Path | None, arg(metavar="IDS.npy")] = None,
    top: int = 10,
    query_probes: int | None = None,
    reach: int | None = None,
    alpha: float | None = None,
    max_steps: int | None = None,
    json_: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Find the images of an index of vectors that are best for some queries.

    Settings of the search are those of the build, where no others are given.

    Args:
        index: Folder that `diffjax index-vectors` made.
        queries: Region vectors of the queries, float32, in NumPy's format.
        query_ids: Query of each: 0, 1, 2, ...; default: each is a query.
        top: Answers wanted.
        query_probes: Clusters that each region of a query is compared with.
        reach: Diffuse over so many regions.
        alpha: How far scores spread over the graph, in [0, 1).
        max_steps: Most iterations of the solver.
        json_: Print JSON, a line for each query.
    """
    caches.enable_compilation_cache()
    ids = None if query_ids is None else _read(query_ids)
    opened = _with_settings(
        MappedIndex.open(index),
        of_all={"query_probes": query_probes},
        of_index={"reach": reach, "alpha": alpha, "max_steps": max_steps},
    )
    found = opened.search(_read(queries), ids, top=top)
    if json_:
        for query, answers in enumerate(_answers(found)):
            say(json.dumps({"query": query, "answers": answers}))
        return
    rows = [
        (str(query), str(rank), *map(_shown, answer.values()))
        for query, answers in enumerate(_answers(found))
        for rank, answer in enumerate(answers, start=1)
    ]
    say(text_table(("query", "rank", "image", "score", "region"), rows).rstrip())


def _with_settings(
    index: MappedIndex, *, of_all: dict[str, Any], of_index: dict[str, Any]
) -> MappedIndex:
    """Changes settings that are given, those of `MappedConfig` and of its `index`."""
    given, own = (
        {name: value for name, value in part.items() if value is not None}
        for part in (of_all, of_index)
    )
    inner = dataclasses.replace(index.config.index, **own)
    config = dataclasses.replace(index.config, index=inner, **given)
    return dataclasses.replace(index, config=config)


def _answers(found: MappedResult) -> list[list[dict[str, float | int]]]:
    """Answers of each query, best first, without empty places."""
    each = zip(
        found.images.tolist(),
        found.scores.tolist(),
        found.regions.tolist(),
        strict=True,
    )
    return [
        [
            {"image": image, "score": score, "region": region}
            for image, score, region in zip(*answers, strict=True)
            if image >= 0
        ]
        for answers in each
    ]


def _shown(value: float) -> str:
    """A number as the table shows it; whole ones name images and regions."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _read(path: pathlib.Path) -> np.ndarray:
    """Maps an array; what is not looked at is not read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} must be an array in NumPy's format (numpy.save), got another "
            f"file ({error})."
        ) from error


def _tell(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201  # The program's voice.
