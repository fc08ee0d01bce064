"""Commands `diffjax index` and `diffjax extract`: build an index, extract regions."""

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

from ._console import UsageError, say, warn
from ._parser import settings_from


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
    """Builds the index of a folder of pictures, or of vectors."""
    has_vectors = source.is_file()
    path = out or default_path(source)
    descriptor = settings_from(settings, DescriptorConfig)
    config = _index_config(
        settings, preset, IndexConfig() if has_vectors else pictures_config()
    )
    caches.enable_compilation_cache()
    if has_vectors:
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
        built = index_folder(
            source,
            path,
            config=config,
            descriptor=DescriptorConfig(**descriptor),
            workers=workers,
            strict=strict,
            regions=None if regions is None else read_boxes_csv(regions),
            progress=progress,
        )
    _warn_of_skipped(built.pictures.skipped if built.pictures else {})
    say(
        f"{path}: {built.num_images} pictures, {built.num_regions} regions. "
        f"Search it with: diffjax search {path} PICTURE"
    )


def default_path(source: pathlib.Path) -> pathlib.Path:
    """Folder of the index of a source: its name, without a file's suffix, and .diffjax.

    The dot in the name of a folder, such as photos.2023, begins no suffix.
    """
    name = source.stem if source.is_file() else source.resolve().name
    return pathlib.Path(f"{name}.diffjax")


def _index_vectors(
    source: pathlib.Path,
    path: pathlib.Path,
    ids: str | None,
    config: IndexConfig,
) -> None:
    with progress_bars() as progress:
        built = Index.build(
            *read_vector_file(source, ids),
            config=config,
            path=path,
            log=lambda line: print(line, file=sys.stderr),  # noqa: T201  # Its voice.
            progress=progress,
        )
    recall = built.recall
    recall_text = (
        "" if recall is None else f", {recall:.1%} of the true neighbours on a sample"
    )
    say(f"{path}: {built}{recall_text}.")
    say(f"Search it with: diffjax search {path} QUERIES.npy")


def _index_config(
    settings: dict[str, Any], preset: Preset | None, default: IndexConfig
) -> IndexConfig:
    """Index settings of the command line, or of a preset with the given dimensions."""
    graph = settings_from(settings, GraphConfig)
    search = settings_from(settings, SearchConfig)
    if "dim" in graph:
        graph["dim"] = graph["dim"] or None
    try:
        if preset is None:
            return default.replace(**graph, **search)
        conflicting = sorted({*graph, *search} - {"dim"})
        if conflicting:
            raise UsageError(
                f"--preset must go without other settings of the graph and search, got "
                f"{preset!r} and {conflicting[0]}: leave out one or the other."
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
    """Extracts the region vectors of a folder of pictures, without an index."""
    try:
        config = DescriptorConfig(**settings_from(settings, DescriptorConfig))
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error
    caches.enable_compilation_cache()
    path = out or default_path(folder)
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
        lines = [f"  {name}: {reason}" for name, reason in skipped.items()]
        warn(f"pictures skipped: {len(lines)}\n" + "\n".join(lines))
