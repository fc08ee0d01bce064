"""Commands `diffjax index` and `diffjax extract`: pictures described, and indexed."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from diffjax import caches
from diffjax.images import DescriptorConfig, read_boxes_csv
from diffjax.index import (
    PRESETS,
    GraphConfig,
    Index,
    IndexConfig,
    Preset,
    extract_folder,
    index_folder,
    pictures_config,
    read_vector_file,
)
from diffjax.progress import progress_bars
from diffjax.retrieve import SearchConfig

from ._parser import settings_from
from ._usage import UsageError, say, warn


def index(
    *,
    source: pathlib.Path,
    out: pathlib.Path | None,
    ids: str | None,
    regions: pathlib.Path | None,
    strict: bool,
    workers: int,
    preset: Preset | None,
    **settings: Any,
) -> None:
    """Makes the index of a folder of pictures, or of vectors."""
    of_vectors = source.is_file()
    path = out or pathlib.Path(f"{source.resolve().with_suffix('').name}.diffjax")
    descriptor = settings_from(settings, DescriptorConfig)
    config = _config(
        settings, preset, IndexConfig() if of_vectors else pictures_config()
    )
    caches.enable_compilation_cache()
    if of_vectors:
        for name, value in (("--regions", regions), ("--strict", strict)):
            if value:
                raise UsageError(f"{name} is for pictures, got the vectors {source}.")
        if descriptor:
            option = "--" + min(descriptor).replace("_", "-")
            raise UsageError(f"{option} is for pictures, got the vectors {source}.")
        _index_vectors(source, path, ids, config)
        return
    if ids is not None:
        raise UsageError(f"--ids is for vectors, got the folder {source}.")
    with progress_bars() as progress:
        made = index_folder(
            source,
            path,
            config=config,
            descriptor=DescriptorConfig(**descriptor),
            workers=workers,
            strict=strict,
            regions=None if regions is None else read_boxes_csv(regions),
            progress=progress,
        )
    _warn_of_skipped(made.pictures.skipped if made.pictures else {})
    say(
        f"{path}: {made.num_images} pictures, {made.num_regions} regions. "
        f"Search it with: diffjax search {path} PICTURE"
    )


def _index_vectors(
    source: pathlib.Path,
    path: pathlib.Path,
    ids: str | None,
    config: IndexConfig,
) -> None:
    with progress_bars() as progress:
        made = Index.build(
            *read_vector_file(source, ids),
            config=config,
            path=path,
            log=lambda line: print(line, file=sys.stderr),  # noqa: T201  # Its voice.
            progress=progress,
        )
    share = made.recall
    found = "" if share is None else f", {share:.1%} of the true neighbours on a sample"
    say(f"{path}: {made}{found}.")
    say(f"Search it with: diffjax search {path} QUERIES.npy")


def _config(
    settings: dict[str, Any], preset: Preset | None, default: IndexConfig
) -> IndexConfig:
    """Settings of the command line, or of a preset with these dimensions."""
    graph = settings_from(settings, GraphConfig)
    search = settings_from(settings, SearchConfig)
    if "dim" in graph:
        graph["dim"] = graph["dim"] or None
    try:
        if preset is None:
            return default.replace(**graph, **search)
        others = sorted({*graph, *search} - {"dim"})
        if others:
            raise UsageError(
                f"--preset must go without other settings of the graph and search, got "
                f"{preset!r} and {others[0]}: leave out one or the other."
            )
        return PRESETS[preset].replace(dim=graph.get("dim", default.graph.dim))
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error


def extract(
    *,
    folder: pathlib.Path,
    out: pathlib.Path | None,
    regions: pathlib.Path | None,
    strict: bool,
    workers: int,
    **settings: Any,
) -> None:
    """Describes the pictures of a folder, without making an index of them."""
    try:
        config = DescriptorConfig(**settings_from(settings, DescriptorConfig))
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error
    caches.enable_compilation_cache()
    path = out or pathlib.Path(f"{folder.resolve().name}.diffjax")
    with progress_bars() as progress:
        extracted = extract_folder(
            folder,
            path,
            config=config,
            workers=workers,
            strict=strict,
            regions=None if regions is None else read_boxes_csv(regions),
            progress=progress,
        )
    _warn_of_skipped(extracted.skipped)
    counts = extracted.counts
    say(f"{path}: {len(extracted.names)} pictures, {sum(counts)} regions.")


def _warn_of_skipped(skipped: Mapping[str, str]) -> None:
    if skipped:
        lines = [f"  {name}: {why}" for name, why in skipped.items()]
        warn(f"pictures skipped: {len(lines)}\n" + "\n".join(lines))
