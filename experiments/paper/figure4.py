"""Figure 4 of the paper: `python -m experiments figure4 --benchmark scenes-small`."""

import pathlib
from typing import Any

import numpy as np

from configs import figure4 as card
from configs.figure4 import Figure4Config
from diffjax.diffusion import diffuse, query_vectors
from diffjax.index import Index
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments._timing import time_calls
from experiments.reporting._charts import (
    Chart,
    MarkedPoint,
    format_milliseconds,
    mean_ap_line,
    to_percent,
    write_chart,
)

from ._methods import PAPER_SETTINGS, index_of_means, method_outcome


def measure(
    config: Figure4Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Searches mixtures of every size and draws `figure4_BENCHMARK`.

    Args:
        config: Mixtures and graphs, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and charts.

    Returns:
        The findings.
    """
    collection = load_benchmark(config, workdir)
    all_k = {"k": config.all_k, "query_k": config.all_k}
    all_regions = method_outcome("regional diffusion", collection, **all_k)
    by_image = method_outcome("global diffusion", collection)
    against = [
        ("all regions", all_regions.precision),
        ("global diffusion", by_image.precision),
    ]
    entries = []
    for components in config.components:
        settings = {"components": components, "k": config.k, "query_k": config.k}
        index = index_of_means(collection, **settings)
        outcome = method_outcome("regional diffusion, 5 means", collection, **settings)
        entries.append(
            collection.make_entry(
                f"{components} means",
                outcome,
                against=against,
                regions=components,
                **_cost(index, collection, config.batch),
            )
        )
    of_regions = collection.build_index(PAPER_SETTINGS["regional"].replace(**all_k))
    counts = np.bincount(np.asarray(of_regions.image_ids))
    of_images = collection.build_index(PAPER_SETTINGS["global"], of_images=True)
    marked = [
        collection.make_entry(
            "all regions",
            all_regions,
            against=against[1:],
            regions=float(counts.mean()),
            **_cost(of_regions, collection, config.batch),
        ),
        collection.make_entry(
            "global diffusion",
            by_image,
            regions=1.0,
            **_cost(of_images, collection, config.batch, of_images=True),
        ),
    ]
    chart = Chart(
        title=f"Regions of an image, {config.label}",
        x_label="regions of an image",
        y_label="mAP, %",
        lines=[
            mean_ap_line(
                "means of a mixture",
                entries,
                "regions",
                labels=[format_milliseconds(e["seconds_per_query"]) for e in entries],
            )
        ],
        marks=[
            MarkedPoint(
                f"{entry['method']}, {format_milliseconds(entry['seconds_per_query'])}",
                entry["regions"],
                to_percent(entry["mean_ap"]),
            )
            for entry in marked
        ],
    )
    write_chart(records / f"figure4_{config.label}", chart)
    return Findings(collection, [*entries, *marked])


def _cost(
    index: Index, collection: Collection, batch: int, *, of_images: bool = False
) -> dict[str, Any]:
    """Measures the size of a graph, and the seconds of a query's diffusion on it."""
    ids = (
        np.arange(len(collection.global_queries)) if of_images else collection.query_ids
    )
    is_in_batch = ids < batch
    rows = collection.global_queries if of_images else collection.regions
    y = query_vectors(
        index.vectors,
        rows[is_in_batch],
        ids[is_in_batch],
        k=index.config.search.query_k,
    )
    (seconds,) = time_calls(lambda: diffuse(index.graph, y, rtol=0.0).value)
    return {
        "nodes": index.graph.num_nodes,
        "edges": index.graph.indices.shape[0] // 2,
        "seconds_per_query": seconds / y.shape[1],
    }


run = make_recorded_run("figure4", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure4", card, run)
