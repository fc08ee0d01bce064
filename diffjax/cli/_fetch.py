"""Command `diffjax fetch`: downloads public data sets of the evaluation."""

import pathlib

from diffjax.datasets import DATASETS, fetch_dataset, picture_folder
from diffjax.progress import progress_bars

from ._console import UsageError, say


def fetch(*, name: str, out: pathlib.Path) -> None:
    """Downloads, checks and unpacks a public data set of the evaluation."""
    if name not in DATASETS:
        raise UsageError(f"NAME must be one of {', '.join(DATASETS)}, got {name!r}.")
    with progress_bars() as progress:
        home = fetch_dataset(name, out, progress=progress)
    pictures = picture_folder(name, out)
    picture_text = f", pictures in {pictures}" if pictures.is_dir() else ""
    say(f"{home}{picture_text}.")
