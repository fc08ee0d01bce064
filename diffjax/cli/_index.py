"""`diffjax index` and `diffjax extract`: the pictures of a folder, described."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from diffjax import caches
from diffjax.images import DescriptorConfig, read_boxes_csv
from diffjax.index import PRESETS, FolderConfig, Preset, extract_folder, index_folder
from diffjax.progress import progress_bars

from ._usage import UsageError, say, warn


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
    caches.enable_compilation_cache()
    path = out or pathlib.Path(f"{folder.resolve().name}.diffjax")
    with progress_bars() as progress:
        made = index_folder(
            folder,
            path,
            config=config,
            strict=strict,
            regions=None if regions is None else read_boxes_csv(regions),
            progress=progress,
        )
    _warn_of_skipped(made.pictures.skipped if made.pictures else {})
    say(
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
    caches.enable_compilation_cache()
    path = out or pathlib.Path(f"{folder.resolve().name}.diffjax")
    with progress_bars() as progress:
        found = extract_folder(
            folder,
            path,
            config=config,
            workers=workers,
            strict=strict,
            regions=None if regions is None else read_boxes_csv(regions),
            progress=progress,
        )
    _warn_of_skipped(found.skipped)
    say(f"{path}: {len(found.names)} pictures, {sum(found.counts)} regions.")


def _warn_of_skipped(skipped: Mapping[str, str]) -> None:
    if skipped:
        lines = [f"  {name}: {why}" for name, why in skipped.items()]
        warn(f"pictures skipped: {len(lines)}\n" + "\n".join(lines))


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
