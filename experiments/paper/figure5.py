"""Figure 5 of the paper: `python -m experiments figure5 --benchmark scenes-small`."""

import pathlib
from typing import Any, NamedTuple

from configs import figure5 as card
from configs.figure5 import Figure5Config
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection, Outcome
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments._timing import time_calls
from experiments.reporting._charts import (
    Chart,
    HorizontalLine,
    format_milliseconds,
    mean_ap_line,
    to_percent,
    write_chart,
)

from ._methods import PAPER_SETTINGS, method_outcome

_BATCH = 8  # Queries that are timed together.


def measure(
    config: Figure5Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Restricts diffusion to short lists and draws `figure5_BENCHMARK`.

    Args:
        config: Lengths of short lists, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and charts.

    Returns:
        The findings.
    """
    collection = load_benchmark(config, workdir)
    settings = {"k": config.k, "query_k": config.k}
    whole = _search("the whole database", collection, settings)
    baseline = "the whole database", whole.outcome.precision
    m = collection.index.num_images
    lengths = sorted({max(1, round(share * m)) for share in config.shares})
    entries = [
        _search(
            f"the best {length}",
            collection,
            {**settings, "shortlist": length},
            against=[baseline],
            length=length,
        ).entry
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
                f"{format_milliseconds(whole.entry['seconds_per_query'])} a query",
                to_percent(whole.entry["mean_ap"]),
            )
        ],
    )
    write_chart(records / f"figure5_{config.label}", chart)
    return Findings(collection, [whole.entry, *entries])


class _Search(NamedTuple):
    """Search at some settings.

    Attributes:
        outcome: Quality of the answers.
        entry: Entry of the record, with the seconds per query.
    """

    outcome: Outcome
    entry: dict[str, Any]


def _search(
    name: str, collection: Collection, settings: dict[str, int], **facts: Any
) -> _Search:
    """Searches at some settings and times a batch of queries."""
    outcome = method_outcome("regional diffusion", collection, **settings)
    index = collection.build_index(PAPER_SETTINGS["regional"].replace(**settings))
    is_in_batch = collection.query_ids < _BATCH
    batch = collection.regions[is_in_batch], collection.query_ids[is_in_batch]
    (seconds,) = time_calls(lambda: index.search(*batch, top=10).scores)
    facts["seconds_per_query"] = seconds / int(batch[1][-1] + 1)
    return _Search(outcome, collection.make_entry(name, outcome, **facts))


run = make_recorded_run("figure5", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure5", card, run)
