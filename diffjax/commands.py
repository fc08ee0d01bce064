"""The commands of the program `diffjax`."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from diffjax.answers import places_of, write_answers
from diffjax.caches import cache_folder, keep_compiled_programs
from diffjax.data import (
    DATASETS,
    Box,
    fetch_dataset,
    picture_folder,
    read_labels,
    read_regions,
)
from diffjax.demo import run_demo, write_demo_page
from diffjax.index import (
    PRESETS,
    DescriptorConfig,
    FolderConfig,
    Index,
    Preset,
    describe_file,
    extract_folder,
    index_folder,
    verify,
)
from diffjax.native import find_library
from diffjax.progress import progress_bars
from diffjax.report import caption, difference_table, mean_ap_table, text_table
from diffjax.vector_commands import index_vectors, search_vectors

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


class UsageError(ValueError):
    """A command line that can't be meant.

    Attributes:
        exit_code: What the program ends with.
    """

    exit_code = 2


def run() -> None:
    """Reads the command line and runs the command that it names."""
    each = demo, index, extract, search, learn, info, fetch
    of_vectors = index_vectors, search_vectors
    commands = {c.__name__.replace("_", "-"): c for c in (*each, *of_vectors)}
    try:
        chosen = tyro.extras.subcommand_cli_from_dict(
            {name: _put_off(command) for name, command in commands.items()},
            prog="diffjax",
            description=(
                "Searches pictures for small objects, by diffusion on the graph of "
                "picture regions. Start with: diffjax demo"
            ),
            config=(FlagCreatePairsOff,),
        )
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error
    chosen()


def _put_off(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Makes what binds a command's arguments: they are all read before it runs."""

    @functools.wraps(command)
    def bind(*args: object, **kwargs: object) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bind


def demo(out: pathlib.Path = pathlib.Path("diffjax-demo.html")) -> None:
    """Show what diffusion finds, on scenes composed here and now.

    Composes 680 cluttered scenes with small objects and 80 queries, indexes them,
    answers every query by five methods, prints a table and writes a page of answers.
    Takes a minute or three the first time, seconds later: scenes and index are kept in
    the cache folder ($DIFFJAX_CACHE).

    Args:
        out: The page to write.
    """
    keep_compiled_programs()
    _check_writable(out)
    with progress_bars() as progress:
        found = run_demo(cache_folder() / "demo", progress=progress)
        write_demo_page(out, found)
    results = found.record["results"]
    _say(text_table(*mean_ap_table(results)))
    _say(text_table(*difference_table(results)))
    _say(f"{caption(found.record)}")
    _say(f"\nThe answers, side by side: {out.resolve().as_uri()}")


def index(
    folder: Positional[Annotated[pathlib.Path, arg(metavar="FOLDER")]],
    *,
    out: Annotated[pathlib.Path | None, arg(metavar="PATH")] = None,
    regions: Annotated[pathlib.Path | None, arg(metavar="CSV")] = None,
    strict: bool = False,
    preset: Preset | None = None,
    config: Annotated[OmitArgPrefixes[FolderConfig], arg(name="")] = FolderConfig(),  # noqa: B008  # Frozen.
) -> None:
    """Make the index of a folder of pictures.

    Pictures that can't be read are listed and left out. A build that was stopped goes
    on where it was; pictures that are already in the index are not described again.

    Args:
        folder: Pictures, also in folders in it.
        out: Folder of the index; default: the name of FOLDER with .diffjax added, here.
        regions: Regions of your own instead of the grid: picture,x0,y0,x1,y1 per line.
        strict: Refuse the folder if a picture can't be read.
        preset: Settings of a published program instead of those below.
        config: Settings.
    """
    config = _with_preset(config, preset)
    keep_compiled_programs()
    path = out or pathlib.Path(f"{folder.resolve().name}.diffjax")
    with progress_bars() as progress:
        made = index_folder(
            folder,
            path,
            config=config,
            strict=strict,
            regions=None if regions is None else read_regions(regions),
            progress=progress,
        )
    _warn_of_skipped(made.pictures.skipped if made.pictures else {})
    _say(
        f"{path}: {made.num_images} pictures, {len(made.image_ids)} regions. "
        f"Search it with: diffjax search {path} PICTURE"
    )


def extract(
    folder: Positional[Annotated[pathlib.Path, arg(metavar="FOLDER")]],
    *,
    out: Annotated[pathlib.Path | None, arg(metavar="PATH")] = None,
    regions: Annotated[pathlib.Path | None, arg(metavar="CSV")] = None,
    strict: bool = False,
    workers: int = 2,
    config: Annotated[OmitArgPrefixes[DescriptorConfig], arg(name="")] = (
        DescriptorConfig()  # noqa: B008  # Frozen.
    ),
) -> None:
    """Describe the pictures of a folder, without making an index of them.

    Writes the region vectors as files of the safetensors format, which Python reads
    with diffjax.index.read_folder_regions; `diffjax index` with the same --out and the
    same network makes the index of them. A run that was stopped goes on where it was.

    Args:
        folder: Pictures, also in folders in it.
        out: Folder of the vectors; default: the name of FOLDER with .diffjax added,
            here.
        regions: Regions of your own instead of the grid: picture,x0,y0,x1,y1 per line.
        strict: Refuse the folder if a picture can't be read.
        workers: Processes that read pictures.
        config: Settings.
    """
    keep_compiled_programs()
    path = out or pathlib.Path(f"{folder.resolve().name}.diffjax")
    with progress_bars() as progress:
        found = extract_folder(
            folder,
            path,
            config=config,
            workers=workers,
            strict=strict,
            regions=None if regions is None else read_regions(regions),
            progress=progress,
        )
    _warn_of_skipped(found.skipped)
    _say(f"{path}: {len(found.names)} pictures, {sum(found.counts)} regions.")


def _warn_of_skipped(skipped: Mapping[str, str]) -> None:
    if skipped:
        lines = [f"  {name}: {why}" for name, why in skipped.items()]
        _warn(f"pictures skipped: {len(lines)}\n" + "\n".join(lines))


def _with_preset(config: FolderConfig, preset: Preset | None) -> FolderConfig:
    """Takes the graph's settings from a preset, all but the dimensions."""
    if preset is None:
        return config
    if dataclasses.replace(FolderConfig().index, dim=config.index.dim) != config.index:
        raise UsageError(
            f"--preset must go without other settings of the graph, got {preset!r} and "
            "some: leave out one or the other."
        )
    chosen = dataclasses.replace(PRESETS[preset], dim=config.index.dim)
    return dataclasses.replace(config, index=chosen)


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
    """
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}.")
    wanted = None if box is None else _parse_box(box)
    keep_compiled_programs()
    if html is not None:
        _check_writable(html)
    loaded = _load(index, params)
    found = loaded.search_picture(picture, box=wanted, top=top, weights=weights)
    names = loaded.pictures.names if loaded.pictures else ()
    places = places_of(loaded, found)
    answers = [
        {"rank": rank, "score": float(score), "picture": names[image], "box": place}
        for rank, (image, score, place) in enumerate(
            zip(found.images[0].tolist(), found.scores[0], places, strict=True), start=1
        )
    ]
    if json_:
        _say(json.dumps({"query": str(picture), "box": wanted, "answers": answers}))
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
        _say(text_table(("rank", "score", "box", "picture"), rows).rstrip())
    if html is not None:
        write_answers(html, loaded, picture, wanted, found)
        if not json_:
            _say(f"\nThe answers as pictures: {html.resolve().as_uri()}")


def _load(path: pathlib.Path, params: pathlib.Path | None) -> Index:
    loaded = Index.load(path)
    if params is None:
        return loaded
    # Learning takes optax and rax along, which other commands do without.
    from diffjax.learning import load_parameters  # noqa: PLC0415

    stored = load_parameters(params, fingerprint=loaded.fingerprint)
    return loaded.with_parameters(stored.parameters)


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
    from diffjax.learn import learn_to_file  # noqa: PLC0415 - See `_load`.

    keep_compiled_programs()
    _check_writable(out)
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
    _say("\n".join(lines))


def info(
    index: Positional[Annotated[pathlib.Path, arg(metavar="INDEX")]],
    *,
    verify_: Annotated[bool, arg(name="verify")] = False,
) -> None:
    """Say what is in an index, and what computes here: native kernels or JAX's own.

    Args:
        index: Folder that `diffjax index` or `index-vectors` made.
        verify_: Also compare every byte with its hash.
    """
    if verify_:
        verify(index)
    rows = list(describe_file(index).items())
    rows += [("verified", "every byte")] if verify_ else []
    rows.append(("products here", find_library().description))
    width = max(len(name) for name, _ in rows)
    _say("\n".join(f"{name:<{width}}  {value}" for name, value in rows))


def fetch(
    name: Positional[Annotated[str, arg(metavar="NAME")]],
    *,
    out: Annotated[pathlib.Path, arg(metavar="FOLDER")] = pathlib.Path("datasets"),
) -> None:
    """Fetch a public data set of the evaluation, checked and unpacked.

    Names: oxford5k, paris6k, roxford5k, rparis6k, flickr100k, revisitop1m, instre and
    the released descriptors, such as oxford5k-siamac; an unknown one lists them all. A
    fetch that was stopped goes on where it was. What can't be fetched any more is named
    with where to put it.

    Args:
        name: Of the data set.
        out: Where the data sets lie, each in a folder of its name.
    """
    if name not in DATASETS:
        raise UsageError(f"NAME must be one of {', '.join(DATASETS)}, got {name!r}.")
    with progress_bars() as progress:
        home = fetch_dataset(name, out, progress=progress)
    pictures = picture_folder(name, out)
    told = f", pictures in {pictures}" if pictures.is_dir() else ""
    _say(f"{home}{told}.")


def _parse_box(text: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            f"--box must be x0,y0,x1,y1 in pixels, such as 10,20,110,220, got {text!r}."
        ) from None
    return x0, y0, x1, y1


def _check_writable(path: pathlib.Path) -> None:
    """Refuses a page that can't be written before minutes are spent on it."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"{path} must be a file in a folder that exists.")


def _say(text: str) -> None:
    print(text)  # noqa: T201  # The program's answer.


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201  # The program's voice.
