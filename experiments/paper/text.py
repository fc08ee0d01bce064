"""Figures in the paper's text: `python -m experiments text --benchmark grocery`."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from configs import text as card
from configs.text import TextConfig
from diffjax.diffusion import SolverName, diffuse, diffuse_conventional, query_vectors
from diffjax.graph import knn, recall
from diffjax.index import Index
from diffjax.pooling import pool
from diffjax.ranking import nearest_neighbors, r_match
from diffjax.regions import global_descriptors
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection
from experiments._entries import Baseline
from experiments._runner import Findings, make_recorded_run, run_from_command_line
from experiments._timing import time_calls

from ._methods import PAPER_SETTINGS, method_outcome

_LEVEL = 0.3  # Largest difference, in percent, from the last mAP that is level.
_STEPS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 135, 150)
_SOLVERS: tuple[tuple[str, SolverName, str], ...] = (
    ("conjugate gradient", "cg", "20 (Oxford5k)"),
    ("classic iteration", "iterate", "110 (Oxford5k)"),
)

Result = dict[str, Any]


def measure(
    config: TextConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Measures the figures that the text reports.

    Args:
        config: Sizes, and the benchmark.
        workdir: Caches pictures and index.
        records: Not used: nothing is drawn.

    Returns:
        The findings: entries of compared methods, and of every figure `what`, `unit`,
        `paper` and `ours`.
    """
    del records
    collection = load_benchmark(config, workdir)
    settings = PAPER_SETTINGS["regional"].replace(k=config.k, query_k=config.k)
    of_images = dataclasses.replace(
        PAPER_SETTINGS["global"], k=config.global_k, query_k=config.global_query_k
    )
    index = collection.build_index(settings)
    global_index = collection.build_index(of_images, of_images=True)
    results = [
        *_queries(collection, index, config),
        *_approximate(collection, config),
        *_edges(collection, index, global_index),
        *_times(collection, index, global_index, config),
        *_iterations(collection, index, config),
    ]
    return Findings(collection, results)


def _result(name: str, unit: str, ours: float, paper: str) -> Result:
    return {"what": name, "unit": unit, "paper": paper, "ours": float(ours)}


def _mean(precision: Float[np.ndarray, " q"]) -> float:
    return 100 * float(np.nanmean(precision))


def _queries(
    collection: Collection, index: Index, config: TextConfig
) -> Iterator[Result]:
    """Compares queries through their neighbours with inserted queries."""
    count = min(config.inserted, collection.num_queries)
    is_first = collection.query_ids < count
    first = collection.first_queries(count)

    def insert():
        solution = diffuse_conventional(
            index.vectors,
            index.neighbors,
            collection.regions[is_first],
            collection.query_ids[is_first],
            gamma=index.config.graph.gamma,
            alpha=index.config.search.alpha,
        )
        return pool(solution.value, index.image_ids, weights=index.weights)

    outcome = method_outcome(
        "regional diffusion", collection, k=config.k, query_k=config.k
    )
    inserted = first.evaluate_method("inserted", index.config.by_name(), insert)
    precision = outcome.precision[:count]
    baseline = f"query through its neighbours, the first {count} queries"
    name = f"query inserted into the graph, the first {count} queries"
    yield first.make_entry(baseline, precision)
    yield first.make_entry(name, inserted, against=[(baseline, precision)])
    yield _result(baseline, "mAP, %", _mean(precision), "80.0 (INSTRE)")
    yield _result(name, "mAP, %", _mean(inserted.precision), "77.7 (INSTRE)")


def _approximate(collection: Collection, config: TextConfig) -> Iterator[Result]:
    """Compares exact and approximate graphs: mAP, time to build, recall."""
    paper_map = {
        "exact": "92.5 (Oxford105k), 95.2 (Paris106k)",
        "nn-descent": "91.6 (Oxford105k), 94.6 (Paris106k)",
    }
    paper_hours = {"exact": "96 h (Oxford105k)", "nn-descent": "0.75 h (Oxford105k)"}
    for kind, vectors, settings in (
        ("regional", collection.index.vectors, {"k": config.k, "query_k": config.k}),
        (
            "global",
            collection.global_vectors,
            {"k": config.global_k, "query_k": config.global_query_k},
        ),
    ):
        k = min(settings["k"], len(vectors))
        against: list[Baseline] = []
        for method in ("exact", "nn-descent"):
            name = f"{kind} graph, {method}"
            outcome = method_outcome(
                f"{kind} diffusion", collection, **settings, method=method
            )
            yield collection.make_entry(name, outcome, against=against)
            against = [(name, outcome.precision)]
            paper = paper_map[method] if kind == "regional" else "-"
            yield _result(name, "mAP, %", _mean(outcome.precision), paper)
            # Nothing is compiled, so the first search can be timed.
            start = time.perf_counter()
            lists = knn(vectors, k, method=method)
            seconds = time.perf_counter() - start
            paper = paper_hours[method] if kind == "regional" else "-"
            yield _result(f"{name}, neighbours", "s", seconds, paper)
        share = recall(lists, vectors)
        yield _result(f"{kind} graph, nn-descent, recall", "%", 100 * share, "-")


def _edges(
    collection: Collection, index: Index, global_index: Index
) -> Iterator[Result]:
    yield _result(
        "edges of an image in the global graph",
        "edges",
        global_index.graph.weights.size / collection.index.num_images,
        "25 (INSTRE)",
    )
    yield _result(
        "edges of a region in the regional graph",
        "edges",
        index.graph.weights.size / len(index.vectors),
        "75 (INSTRE)",
    )


def _times(
    collection: Collection, index: Index, global_index: Index, config: TextConfig
) -> Iterator[Result]:
    """Measures seconds of one query at a time, with programs compiled before."""
    m = collection.index.num_images
    length = max(1, round(config.share * m))
    short = collection.build_index(index.config.replace(shortlist=length))
    count = min(config.timed, collection.num_queries)

    def mean_seconds(answer: Callable[[jax.Array], Any]) -> float:
        """Averages over the first queries, each answered alone."""
        queries = [
            collection.regions[collection.query_ids == query] for query in range(count)
        ]
        # Padded to the most regions of any, so that one program serves all.
        longest = max(len(regions) for regions in queries)
        padded = [
            jnp.concatenate([r, jnp.tile(r[-1:], (longest - len(r), 1))])
            for r in queries
        ]
        (seconds,) = time_calls(
            lambda: [jax.block_until_ready(answer(regions)) for regions in padded]
        )
        return seconds / count

    def answer_by_scorer(scorer) -> Callable[[jax.Array], Any]:
        def answer(regions):
            ids = np.zeros(len(regions), np.int32)
            return scorer(
                index.vectors,
                index.image_ids,
                regions,
                ids,
                num_images=m,
                num_queries=1,
            )

        return answer

    def answer_by_index(built: Index) -> Callable[[jax.Array], Any]:
        def answer(regions):
            return built.search(regions, np.zeros(len(regions), np.int32)).scores

        return answer

    def answer_by_nearest(regions):
        # Global descriptors of the images are stored in an index, so not timed.
        vector = global_descriptors(regions, np.zeros(len(regions), np.int32))
        return nearest_neighbors(
            collection.global_vectors, np.arange(m), vector, np.zeros(1, np.int32)
        )

    def answer_by_global_index(regions):
        vector = jnp.sum(regions, 0, keepdims=True)
        return global_index.search(vector).scores

    for name, answer, paper in (
        ("k-NN", answer_by_nearest, "0.001 (Oxford5k)"),
        ("R-match", answer_by_scorer(r_match), "0.321 (Oxford5k)"),
        ("global diffusion", answer_by_global_index, "0.02 (Oxford5k)"),
        (
            "regional diffusion",
            answer_by_index(index),
            "0.664 (Oxford5k), 13.9 (Oxford105k)",
        ),
        (
            f"regional diffusion, short list of {length}",
            answer_by_index(short),
            "1.0 (Oxford105k, 10,000 images)",
        ),
    ):
        yield _result(f"{name}, one query", "s", mean_seconds(answer), paper)


def _iterations(
    collection: Collection, index: Index, config: TextConfig
) -> Iterator[Result]:
    """Counts iterations until the mAP of the first queries levels off."""
    count = min(config.inserted, collection.num_queries)
    first = collection.first_queries(count)
    y = query_vectors(
        index.vectors,
        collection.regions[collection.query_ids < count],
        collection.query_ids[collection.query_ids < count],
        k=index.config.search.query_k,
        gamma=index.config.graph.gamma,
    )
    numbers = [steps for steps in _STEPS if steps <= config.most_steps]
    end = None
    for name, solver, paper in _SOLVERS:
        means = []
        for steps in numbers:

            def score(solver: SolverName = solver, steps: int = steps):
                value = diffuse(
                    index.graph,
                    y,
                    alpha=index.config.search.alpha,
                    solver=solver,
                    max_steps=steps,
                    rtol=0.0,
                ).value
                return pool(value, index.image_ids, weights=index.weights)

            settings = {**index.config.by_name(), "steps": steps}
            means.append(_mean(first.evaluate_method(name, settings, score).precision))
        # Both against the end of conjugate gradient: the other may end too early.
        end = means[-1] if end is None else end
        differs = np.abs(np.array(means) - end) > _LEVEL
        position = int(np.flatnonzero(differs).max(initial=-1)) + 1
        quantity = f"{name} until mAP is level"
        if position == len(numbers):
            quantity, position = f"{quantity} (it is not at {numbers[-1]})", -1
        yield _result(quantity, "iterations", numbers[position], paper)


run = make_recorded_run("text", measure)


def main() -> None:
    """Reads the command line, measures and records."""
    run_from_command_line("text", card, run)
