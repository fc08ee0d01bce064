"""Answers to a picture as a page with pictures, and where in them they were found."""

import pathlib

import numpy as np

from diffjax.data import Box, as_picture, read_picture
from diffjax.index import Index
from diffjax.report import Answer, Comparison, Ranking, write_page
from diffjax.types import SearchResult

Place = tuple[int, int, int, int]


def places_of(index: Index, found: SearchResult) -> list[Place | None]:
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


def write_answers(
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
            found.images[0], found.scores[0], places_of(index, found), strict=True
        )
    )
    write_page(
        path,
        title=f"diffjax: {picture.name}",
        intro=f"The best of {index.num_images} pictures in {folder.name}.",
        comparisons=[
            Comparison(
                picture=as_picture(picture),
                name=picture.name,
                box=box,
                rankings=(Ranking("regional diffusion", None, answers),),
            )
        ],
    )
