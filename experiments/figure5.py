"""The paper's figure 5: `python -m experiments figure5 --benchmark scenes-small`."""

import dataclasses
import pathlib
from typing import Any

from configs import figure5 as card
from configs.figure5 import Figure5Config
from diffjax.report import Chart, Level, write_chart
from experiments._benchmarks import load
from experiments._collections import Collection, Outcome, seconds
from experiments._curves import line, milliseconds, percent
from experiments._main import Findings, recorded, run_card
from experiments._methods import PAPER, outcome_of

_TIMED = 8  # Queries whose time is taken together.


def measure(
    config: Figure5Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Diffuses short lists, draws `figure5_BENCHMARK`.

    Args:
        config: Which lengths on which benchmark.
        workdir: Keeps pictures and index.
        records: Folder of the record files and charts.

    Returns:
        What was found.
    """
    collection = load(config, workdir)
    settings = {"k": config.k, "query_k": config.k}
    found, whole = _search("the whole database", collection, settings)
    against = whole["method"], found.precision
    m = collection.index.num_images
    lengths = sorted({max(1, round(share * m)) for share in config.shares})
    entries = [
        _search(
            f"the best {length}",
            collection,
            {**settings, "shortlist": length},
            against=against,
            length=length,
        )[1]
        for length in lengths
    ]
    chart = Chart(
        title=f"Short lists, {config.label}",
        x_label="images in the short list",
        y_label="mAP, %",
        lines=[
            line(
                "diffusion on the short list",
                entries,
                "length",
                labels=[milliseconds(e["seconds_per_query"]) for e in entries],
            )
        ],
        levels=[
            Level(
                "on the whole database, "
                f"{milliseconds(whole['seconds_per_query'])} a query",
                percent(whole["mean_ap"]),
            )
        ],
    )
    write_chart(records / f"figure5_{config.label}", chart)
    return Findings(collection, [whole, *entries])


def _search(
    name: str, collection: Collection, settings: dict[str, int], **more: Any
) -> tuple[Outcome, dict[str, Any]]:
    """Searches at some settings: what is found, and the entry of a record."""
    found = outcome_of("regional diffusion", collection, **settings)
    index = collection.built(dataclasses.replace(PAPER["regional"], **settings))
    few = collection.query_ids < _TIMED
    some = collection.regions[few], collection.query_ids[few]
    (took,) = seconds(lambda: index.search(*some, top=10).scores)
    each = took / int(some[1][-1] + 1)
    return found, collection.entry(name, found, seconds_per_query=each, **more)


run = recorded("figure5", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_card("figure5", card, run)
