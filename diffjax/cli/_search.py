"""Command `diffjax search`, and its page of answers with pictures."""

import json
import pathlib
from typing import Annotated

import jax
import numpy as np
from tyro.conf import Positional, arg

from diffjax import caches
from diffjax.images import Box, read_picture, read_pixels
from diffjax.index import Index
from diffjax.report import Answer, Comparison, Ranking, text_table, write_page
from diffjax.timing import stopwatch
from diffjax.types import SearchResult

from ._usage import UsageError, check_writable, say

Place = tuple[int, int, int, int]


def answer_boxes(index: Index, found: SearchResult) -> list[Place | None]:
    """Boxes of the regions that add most to the answers to the first query.

    Args:
        index: What was searched.
        found: What was found.

    Returns:
        Boxes in whole pixels; None where the index knows none or no region adds.
    """
    if index.boxes is None:
        return [None] * found.regions.shape[1]
    regions = np.asarray(found.regions)[0]
    boxes = np.rint(index.boxes[np.maximum(regions, 0)]).astype(int).tolist()
    pairs = zip(regions.tolist(), boxes, strict=True)
    return [(x0, y0, x1, y1) if r >= 0 else None for r, (x0, y0, x1, y1) in pairs]


def write_answer_page(
    path: pathlib.Path,
    index: Index,
    picture: pathlib.Path,
    box: Box | None,
    found: SearchResult,
) -> None:
    """Writes the page of answers; pictures that have gone since are named.

    Args:
        path: The page.
        index: What was searched.
        picture: The query.
        box: What of it was asked for.
        found: What was found.

    Raises:
        ValueError: If a picture can't be read any more.
        OSError: If the page can't be written.
    """
    if index.pictures is None:
        return
    folder = pathlib.Path(index.pictures.folder)
    answers = tuple(
        Answer(
            picture=read_picture(folder / index.pictures.names[int(image)]),
            name=index.pictures.names[int(image)],
            score=float(score),
            box=place,
        )
        for image, score, place in zip(
            found.images[0], found.scores[0], answer_boxes(index, found), strict=True
        )
    )
    write_page(
        path,
        title=f"diffjax: {picture.name}",
        intro=f"The best of {index.num_images} pictures in {folder.name}.",
        comparisons=[
            Comparison(
                picture=read_pixels(picture),
                name=picture.name,
                box=box,
                rankings=(Ranking("regional diffusion", None, answers),),
            )
        ],
    )


def search(
    index: Positional[Annotated[pathlib.Path, arg(metavar="INDEX")]],
    picture: Positional[Annotated[pathlib.Path, arg(metavar="PICTURE")]],
    *,
    box: Annotated[str | None, arg(metavar="X0,Y0,X1,Y1")] = None,
    top: int = 10,
    html: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None,
    weights: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None,
    params: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None,
    json_: Annotated[bool, arg(name="json")] = False,
    timing: bool = False,
) -> None:
    """Find the pictures of an index that show what a picture, or a box in it, shows.

    Args:
        index: Folder that `diffjax index` made.
        picture: The query.
        box: What is asked for, in pixels, right and bottom not included.
        top: Answers wanted.
        html: Also write the answers as a page with pictures.
        weights: Where the network's weights lie now, if they were moved.
        params: Search with parameters that `diffjax learn` wrote for this index.
        json_: Print JSON.
        timing: Also say how many seconds each step took from the start of the program,
            and how many programs were compiled or taken from the cache.
    """
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}.")
    wanted = None if box is None else _parse_box(box)
    caches.enable_compilation_cache()
    if html is not None:
        check_writable(html)
    with stopwatch() as watch:
        loaded = _load(index, params)
        watch.step("index")
        asked = loaded.describe([picture], boxes=[wanted], weights=weights)
        watch.step("network")
        found = jax.block_until_ready(loaded.search(*asked, top=top))
        watch.step("search")
    names = loaded.pictures.names if loaded.pictures else ()
    places = answer_boxes(loaded, found)
    # Iterating over JAX's arrays would compile programs that take them apart.
    best, scores = np.asarray(found.images)[0], np.asarray(found.scores)[0]
    answers = [
        {"rank": rank, "score": score, "picture": names[image], "box": place}
        for rank, (image, score, place) in enumerate(
            zip(best.tolist(), scores.tolist(), places, strict=True), start=1
        )
    ]
    if json_:
        told = {"query": str(picture), "box": wanted, "answers": answers}
        if timing:
            told["timing"] = [step._asdict() for step in watch.steps]
        say(json.dumps(told))
    else:
        rows = [
            (
                str(answer["rank"]),
                f"{answer['score']:.4g}",
                ",".join(map(str, answer["box"] or ())),
                answer["picture"],
            )
            for answer in answers
        ]
        say(text_table(("rank", "score", "box", "picture"), rows).rstrip())
        if timing:
            say("\n" + text_table(*watch.table()).rstrip())
    if html is not None:
        write_answer_page(html, loaded, picture, wanted, found)
        if not json_:
            say(f"\nThe answers as pictures: {html.resolve().as_uri()}")


def _load(path: pathlib.Path, params: pathlib.Path | None) -> Index:
    loaded = Index.load(path)
    if params is None:
        return loaded
    # Learning takes optax and rax along, which other commands do without.
    from diffjax.learning import load_parameters  # noqa: PLC0415

    stored = load_parameters(params, fingerprint=loaded.fingerprint)
    return loaded.with_parameters(stored.parameters)


def _parse_box(text: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"--box must be x0,y0,x1,y1 in pixels, such as 10,20,110,220, got {text!r}."
        ) from None
    return x0, y0, x1, y1
