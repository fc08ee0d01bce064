"""The paper's figure 5: `python -m experiments figure5 --benchmark scenes-small`."""

import dataclasses
import pathlib
from typing import Any

from configs import figure5 as card
from configs.figure5 import Figure5Config
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection, Outcome, time_calls
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments.reporting._charts import (
    Chart,
    HorizontalLine,
    format_milliseconds,
    mean_ap_line,
    to_percent,
    write_chart,
)

from ._methods import PAPER_SETTINGS, method_outcome

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
    collection = load_benchmark(config, workdir)
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
            mean_ap_line(
                "diffusion on the short list",
                entries,
                "length",
                labels=[format_milliseconds(e["seconds_per_query"]) for e in entries],
            )
        ],
        levels=[
            HorizontalLine(
                "on the whole database, "
                f"{format_milliseconds(whole['seconds_per_query'])} a query",
                to_percent(whole["mean_ap"]),
            )
        ],
    )
    write_chart(records / f"figure5_{config.label}", chart)
    return Findings(collection, [whole, *entries])


def _search(
    name: str, collection: Collection, settings: dict[str, int], **more: Any
) -> tuple[Outcome, dict[str, Any]]:
    """Searches at some settings: what is found, and the entry of a record."""
    found = method_outcome("regional diffusion", collection, **settings)
    index = collection.build_index(
        dataclasses.replace(PAPER_SETTINGS["regional"], **settings)
    )
    few = collection.query_ids < _TIMED
    some = collection.regions[few], collection.query_ids[few]
    (took,) = time_calls(lambda: index.search(*some, top=10).scores)
    each = took / int(some[1][-1] + 1)
    return found, collection.make_entry(name, found, seconds_per_query=each, **more)


run = make_recorded_run("figure5", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure5", card, run)
