"""Figure 7 of the paper: `python -m experiments figure7 --benchmark scenes-small`."""

import pathlib
from typing import Any

import numpy as np

from configs import figure7 as card
from configs.figure7 import Figure7Config
from diffjax.datasets import Benchmark
from diffjax.images import read_picture
from diffjax.report import Answer, Comparison, Ranking, write_page
from experiments._benchmarks import load_benchmark
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments.reporting._figure import write_figure

from ._gains import Gains, entries_of_both, measure_gains

_INTRO = (
    "Right answers that regional diffusion ranks higher than global diffusion does, "
    "largest gain of ranks first; the number of ranks is in the place of the score. "
    "Below each answer: precision down to its rank by global → by regional diffusion."
)


def measure(
    config: Figure7Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Writes the page `figure7_BENCHMARK.html` and its first query as PNG.

    Args:
        config: Queries to show, graphs, and the benchmark.
        workdir: Caches pictures and index.
        records: Folder of the record files and of the page.

    Returns:
        The findings.

    Raises:
        ValueError: If the benchmark has no pictures.
    """
    collection = load_benchmark(config, workdir)
    benchmark = collection.benchmark
    if benchmark is None:
        raise ValueError(
            "figure7 must have pictures to show, got released descriptors: leave "
            "--descriptors out."
        )
    gains = measure_gains(
        collection,
        k=config.k,
        global_k=config.global_k,
        global_query_k=config.global_query_k,
    )
    shown = _select_queries(gains, benchmark, config.queries)
    comparisons = [_comparison(q, gains, benchmark, config.answers) for q in shown]
    name = f"figure7_{config.label}"
    records.mkdir(parents=True, exist_ok=True)
    write_page(
        records / f"{name}.html",
        title=f"What regional diffusion gains, {config.label}",
        intro=_INTRO,
        comparisons=comparisons,
    )
    write_figure(records / f"{name}.png", comparisons[0], top=min(6, config.answers))
    results = [_entry(query, gains, benchmark) for query in shown]
    return Findings(collection, [*entries_of_both(collection, gains), *results])


def _select_queries(gains: Gains, benchmark: Benchmark, count: int) -> list[int]:
    """Selects the queries whose average precision gains most, one per object."""
    before, after = gains.average_precision.T
    order = np.argsort(before - after, kind="stable")
    query_of_object: dict[str, int] = {}
    for query in order[~np.isnan((before - after)[order])].tolist():
        query_of_object.setdefault(benchmark.objects[query], query)
    return list(query_of_object.values())[:count]


def _order_by_gain(query: int, gains: Gains) -> np.ndarray:
    """Sorts the rows of a query's positives, most ranks gained first."""
    rows = np.flatnonzero(gains.query == query)
    gained = gains.ranks[rows, 0] - gains.ranks[rows, 1]
    return rows[np.argsort(-gained, kind="stable")]


def _comparison(query: int, gains: Gains, benchmark: Benchmark, top: int) -> Comparison:
    answers = []
    for row in _order_by_gain(query, gains)[:top]:
        path = benchmark.database[gains.image[row]]
        by_image, by_region = (100 * share for share in gains.precision[row])
        first, last = gains.ranks[row] + 1
        answers.append(
            Answer(
                picture=read_picture(path),
                name=path.name,
                score=float(first - last),
                correct=True,
                note=f"{by_image:.0f} → {by_region:.0f} %",
            )
        )
    before, after = gains.average_precision[query]
    return Comparison(
        picture=read_picture(benchmark.queries[query]),
        name=benchmark.queries[query].name,
        box=benchmark.boxes[query],
        rankings=(
            Ranking(
                f"ranks gained; average precision {100 * before:.0f} % by global, "
                f"{100 * after:.0f} % by regional diffusion",
                None,
                tuple(answers),
            ),
        ),
    )


def _entry(query: int, gains: Gains, benchmark: Benchmark) -> dict[str, Any]:
    first = _order_by_gain(query, gains)[0]
    before, after = gains.average_precision[query]
    return {
        "query": benchmark.queries[query].name,
        "object": benchmark.objects[query],
        "AP, global diffusion": float(before),
        "AP, regional diffusion": float(after),
        "most gained": benchmark.database[gains.image[first]].name,
        "rank by global": int(gains.ranks[first, 0]) + 1,
        "rank by regional": int(gains.ranks[first, 1]) + 1,
    }


run = make_recorded_run("figure7", measure)


def main() -> None:
    """Reads the command line, searches, draws and records."""
    run_from_command_line("figure7", card, run)
