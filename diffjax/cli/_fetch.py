"""`diffjax fetch`: public data sets of the evaluation."""

import pathlib
from typing import Annotated

from tyro.conf import Positional, arg

from diffjax.datasets import DATASETS, fetch_dataset, picture_folder
from diffjax.progress import progress_bars

from ._usage import UsageError, say


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
    say(f"{home}{told}.")
