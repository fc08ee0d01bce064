"""Command `diffjax search`: answers as a table, as JSON, or as a page of pictures."""

import dataclasses
import json as json_format
import pathlib
from typing import Any

import jax
import numpy as np

from diffjax import caches
from diffjax.images import Box, read_picture, read_pixels
from diffjax.index import (
    VECTOR_SUFFIXES,
    ImageId,
    Index,
    read_array,
    read_vector_file,
)
from diffjax.report import Answer, Comparison, Ranking, text_table, write_page
from diffjax.retrieve import SearchConfig
from diffjax.timing import stopwatch
from diffjax.types import SearchResult

from ._console import UsageError, check_writable, say
from ._parser import settings_from

PixelBox = tuple[int, int, int, int]


def answer_boxes(index: Index, result: SearchResult) -> list[PixelBox | None]:
    """Boxes of the regions that contribute most to the answers to the first query.

    Args:
        index: Index that was searched.
        result: Answers of the search.

    Returns:
        Boxes in whole pixels; None without boxes in the index or without a region.
    """
    if index.boxes is None:
        return [None] * result.regions.shape[1]
    regions = np.asarray(result.regions)[0]
    boxes = np.rint(index.boxes[np.maximum(regions, 0)]).astype(int).tolist()
    pairs = zip(regions.tolist(), boxes, strict=True)
    return [(x0, y0, x1, y1) if r >= 0 else None for r, (x0, y0, x1, y1) in pairs]


def write_answer_page(
    path: pathlib.Path,
    index: Index,
    picture: pathlib.Path,
    box: Box | None,
    result: SearchResult,
) -> None:
    """Writes the answers to a query picture as an HTML page.

    Args:
        path: The page.
        index: Index that was searched.
        picture: Query picture.
        box: Box of the query in it; None for all of it.
        result: Answers of the search.

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
            box=answer_box,
        )
        for image, score, answer_box in zip(
            result.images[0], result.scores[0], answer_boxes(index, result), strict=True
        )
        if int(image) >= 0  # A local solve may reach fewer pictures.
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
    *,
    index: pathlib.Path,
    query: pathlib.Path,
    box: str | None,
    query_ids: pathlib.Path | None,
    top: int,
    html: pathlib.Path | None,
    json: bool,
    timing: bool,
    weights: pathlib.Path | None,
    params: pathlib.Path | None,
    **settings: Any,
) -> None:
    """Searches an index for a picture, a box in it, or vectors; prints the answers."""
    has_vectors = query.suffix in VECTOR_SUFFIXES
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}.")
    _check_options(query, has_vectors, query_ids, box=box, html=html, weights=weights)
    query_box = None if box is None else _parse_box(box)
    _check_index(index)
    caches.enable_compilation_cache()
    with stopwatch() as watch:
        loaded = _open_index(index, params)
        config = _search_config(loaded, settings)
        watch.step("index")
        if has_vectors:
            ids = None if query_ids is None else read_array(query_ids)
            regions = read_vector_file(query).vectors, ids
        else:
            regions = loaded.describe([query], boxes=[query_box], weights=weights)
            watch.step("network")
        result = jax.block_until_ready(loaded.search(*regions, top=top, config=config))
        watch.step("search")
    steps = [step._asdict() for step in watch.steps]
    if has_vectors:
        _print_images(result, as_json=json)
    else:
        query_record = {"query": str(query), "box": query_box}
        _print_pictures(
            loaded, result, query_record | ({"timing": steps} if timing else {}), json
        )
    if timing and not json:
        say("\n" + text_table(*watch.table()).rstrip())
    if html is not None:
        write_answer_page(html, loaded, query, query_box, result)
        if not json:
            say(f"\nThe answers as pictures: {html.resolve().as_uri()}")


def _check_options(
    query: pathlib.Path,
    has_vectors: bool,
    query_ids: pathlib.Path | None,
    **picture_options: Any,
) -> None:
    """Refuses options of the other kind of query: of pictures, or of vectors."""
    for name, value in picture_options.items():
        if has_vectors and value is not None:
            raise UsageError(f"--{name} is for a picture, got the vectors {query}.")
    if query_ids is not None and not has_vectors:
        raise UsageError(f"--query-ids is for vectors, got the picture {query}.")
    if picture_options["html"] is not None:
        check_writable(picture_options["html"])


def _check_index(path: pathlib.Path) -> None:
    """Refuses a folder of pictures; names the index beside it, if there is one."""
    sibling_index = path.with_name(f"{path.resolve().name}.diffjax")
    if path.is_dir() and not (path / "index.json").exists() and sibling_index.is_dir():
        raise UsageError(
            f"{path} holds no index, but {sibling_index} beside it may: "
            f"diffjax search {sibling_index} PICTURE"
        )


def _open_index(path: pathlib.Path, params: pathlib.Path | None) -> Index:
    loaded = Index.open(path)
    if params is None:
        return loaded
    # Learning imports optax, which other commands do not need.
    from diffjax.learning import load_parameters  # noqa: PLC0415

    stored = load_parameters(params, fingerprint=loaded.fingerprint)
    return loaded.with_parameters(stored.parameters)


def _search_config(index: Index, settings: dict[str, Any]) -> SearchConfig:
    """Search settings: those of the index, replaced by the command line's."""
    overrides = settings_from(settings, SearchConfig)
    try:
        return dataclasses.replace(index.config.search, **overrides)
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error


def _print_pictures(
    index: Index, result: SearchResult, query_record: dict[str, Any], as_json: bool
) -> None:
    """Prints the answers to a picture: rank, score, box and name."""
    names = index.pictures.names if index.pictures else ()
    # Iterating over JAX's arrays would compile programs that take them apart.
    images, scores = np.asarray(result.images)[0], np.asarray(result.scores)[0]
    boxes = answer_boxes(index, result)
    answers = [
        {"rank": rank, "score": score, "picture": names[image], "box": box}
        for rank, (image, score, box) in enumerate(
            zip(images.tolist(), scores.tolist(), boxes, strict=True), start=1
        )
        if image >= 0
    ]
    if as_json:
        timing = {
            name: query_record.pop(name) for name in ["timing"] if name in query_record
        }
        say(json_format.dumps({**query_record, "answers": answers, **timing}))
        return
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


def _print_images(result: SearchResult, *, as_json: bool) -> None:
    """Prints the answers to vectors: images, scores and regions of each query."""
    arrays = (result.images, result.scores, result.regions)
    lists = [np.asarray(array).tolist() for array in arrays]
    # Images that a local solve does not reach have no id, and come last.
    answers = [
        [
            {"id": _id_text(image_id), "image": image, "score": score, "region": region}
            for image_id, image, score, region in zip(*columns, strict=False)
        ]
        for columns in zip(result.ids, *lists, strict=True)
    ]
    if as_json:
        for query, ranked in enumerate(answers):
            say(json_format.dumps({"query": query, "answers": ranked}))
        return
    rows = [
        (
            str(query),
            str(rank),
            str(answer["id"]),
            f"{answer['score']:.4g}",
            str(answer["region"]),
        )
        for query, ranked in enumerate(answers)
        for rank, answer in enumerate(ranked, start=1)
    ]
    say(text_table(("query", "rank", "id", "score", "region"), rows).rstrip())


def _id_text(image_id: ImageId) -> int | str:
    return image_id if isinstance(image_id, int) else str(image_id)


def _parse_box(text: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"--box must be x0,y0,x1,y1 in pixels, such as 10,20,110,220, got {text!r}."
        ) from None
    return x0, y0, x1, y1
