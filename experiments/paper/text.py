"""The figures in the paper's text: `python -m experiments text --benchmark grocery`."""

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
from experiments._collections import Collection, time_calls
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import PAPER_SETTINGS, method_outcome

_LEVEL = 0.3  # mAP in percent that is as good as where conjugate gradient ends.
_TRIED = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 135, 150)
_SOLVERS: tuple[tuple[str, SolverName, str], ...] = (
    ("conjugate gradient", "cg", "20 (Oxford5k)"),
    ("classic iteration", "iterate", "110 (Oxford5k)"),
)

Result = dict[str, Any]


def measure(
    config: TextConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Measures what the text reports.

    Args:
        config: On which benchmark, at which sizes.
        workdir: Keeps pictures and index.
        records: Nothing is drawn there.

    Returns:
        What was found: `what`, `paper` and `ours`, in which `unit`.
    """
    del records
    collection = load_benchmark(config, workdir)
    settings = dataclasses.replace(
        PAPER_SETTINGS["regional"], k=config.k, query_k=config.k
    )
    of_images = dataclasses.replace(
        PAPER_SETTINGS["global"], k=config.global_k, query_k=config.global_query_k
    )
    index = collection.build_index(settings)
    whole = collection.build_index(of_images, of_images=True)
    results = [
        *_queries(collection, index, config),
        *_approximate(collection, config),
        *_edges(collection, index, whole),
        *_times(collection, index, whole, config),
        *_iterations(collection, index, config),
    ]
    return Findings(collection, results)


def _result(what: str, unit: str, ours: float, paper: str) -> Result:
    return {"what": what, "unit": unit, "paper": paper, "ours": float(ours)}


def _mean(precision: Float[np.ndarray, " q"]) -> float:
    return 100 * float(np.nanmean(precision))


def _queries(
    collection: Collection, index: Index, config: TextConfig
) -> Iterator[Result]:
    """A query through its neighbours, and inserted into the graph."""
    count = min(config.inserted, collection.num_queries)
    some = collection.query_ids < count
    first = collection.first_queries(count)

    def insert():
        found = diffuse_conventional(
            index.vectors,
            index.neighbors,
            collection.regions[some],
            collection.query_ids[some],
            gamma=index.config.gamma,
            alpha=index.config.alpha,
        )
        return pool(found.value, index.image_ids, weights=index.weights)

    own = method_outcome("regional diffusion", collection, k=config.k, query_k=config.k)
    inserted = first.evaluate_method(
        "inserted", dataclasses.asdict(index.config), insert
    )
    where = f"the first {count} queries"
    yield _result(
        f"query through its neighbours, {where}",
        "mAP, %",
        _mean(own.precision[:count]),
        "80.0 (INSTRE)",
    )
    yield _result(
        f"query inserted into the graph, {where}",
        "mAP, %",
        _mean(inserted.precision),
        "77.7 (INSTRE)",
    )


def _approximate(collection: Collection, config: TextConfig) -> Iterator[Result]:
    """Exact and approximate graphs: what they find, and what building them takes."""
    papers = {
        "exact": "92.5 (Oxford105k), 95.2 (Paris106k)",
        "nn-descent": "91.6 (Oxford105k), 94.6 (Paris106k)",
    }
    hours = {"exact": "96 h (Oxford105k)", "nn-descent": "0.75 h (Oxford105k)"}
    for part, vectors, own in (
        ("regional", collection.index.vectors, {"k": config.k, "query_k": config.k}),
        (
            "global",
            collection.global_vectors,
            {"k": config.global_k, "query_k": config.global_query_k},
        ),
    ):
        k = min(own["k"], len(vectors))
        for method in ("exact", "nn-descent"):
            outcome = method_outcome(
                f"{part} diffusion", collection, **own, neighbors=method
            )
            given = papers[method] if part == "regional" else "-"
            yield _result(
                f"{part} graph, {method}", "mAP, %", _mean(outcome.precision), given
            )
            # Nothing is compiled, so one search tells its time.
            start = time.perf_counter()
            found = knn(vectors, k, method=method)
            took = time.perf_counter() - start
            given = hours[method] if part == "regional" else "-"
            yield _result(f"{part} graph, {method}, neighbours", "s", took, given)
        share = recall(found, vectors)
        yield _result(f"{part} graph, nn-descent, recall", "%", 100 * share, "-")


def _edges(collection: Collection, index: Index, whole: Index) -> Iterator[Result]:
    yield _result(
        "edges of an image in the global graph",
        "edges",
        whole.graph.weights.size / collection.index.num_images,
        "25 (INSTRE)",
    )
    yield _result(
        "edges of a region in the regional graph",
        "edges",
        index.graph.weights.size / len(index.vectors),
        "75 (INSTRE)",
    )


def _times(
    collection: Collection, index: Index, whole: Index, config: TextConfig
) -> Iterator[Result]:
    """Seconds of one query at a time; programs are compiled before."""
    m = collection.index.num_images
    length = max(1, round(config.share * m))
    short = collection.build_index(dataclasses.replace(index.config, shortlist=length))
    count = min(config.timed, collection.num_queries)

    def one(ask: Callable[[jax.Array], Any]) -> float:
        """The mean over the first queries, each asked alone."""
        each = [
            collection.regions[collection.query_ids == query] for query in range(count)
        ]
        # Filled up to the most regions of any, so that one program serves all.
        most = max(len(regions) for regions in each)
        filled = [
            jnp.concatenate([r, jnp.tile(r[-1:], (most - len(r), 1))]) for r in each
        ]
        (took,) = time_calls(lambda: [jax.block_until_ready(ask(r)) for r in filled])
        return took / count

    def by(scorer) -> Callable[[jax.Array], Any]:
        def ask(regions):
            ids = np.zeros(len(regions), np.int32)
            return scorer(
                index.vectors,
                index.image_ids,
                regions,
                ids,
                num_images=m,
                num_queries=1,
            )

        return ask

    def search(built: Index) -> Callable[[jax.Array], Any]:
        def ask(regions):
            return built.search(regions, np.zeros(len(regions), np.int32)).scores

        return ask

    def compare(regions):
        # Global descriptors of the images are made once, as an index keeps them.
        vector = global_descriptors(regions, np.zeros(len(regions), np.int32))
        return nearest_neighbors(
            collection.global_vectors, np.arange(m), vector, np.zeros(1, np.int32)
        )

    def search_whole(regions):
        vector = jnp.sum(regions, 0, keepdims=True)
        return whole.search(vector).scores

    for name, ask, paper in (
        ("k-NN", compare, "0.001 (Oxford5k)"),
        ("R-match", by(r_match), "0.321 (Oxford5k)"),
        ("global diffusion", search_whole, "0.02 (Oxford5k)"),
        (
            "regional diffusion",
            search(index),
            "0.664 (Oxford5k), 13.9 (Oxford105k)",
        ),
        (
            f"regional diffusion, short list of {length}",
            search(short),
            "1.0 (Oxford105k, 10,000 images)",
        ),
    ):
        yield _result(f"{name}, one query", "s", one(ask), paper)


def _iterations(
    collection: Collection, index: Index, config: TextConfig
) -> Iterator[Result]:
    """Iterations until mAP is level, of the queries that are inserted, too."""
    count = min(config.inserted, collection.num_queries)
    first = collection.first_queries(count)
    y = query_vectors(
        index.vectors,
        collection.regions[collection.query_ids < count],
        collection.query_ids[collection.query_ids < count],
        k=index.config.query_k,
        gamma=index.config.gamma,
    )
    tried = [steps for steps in _TRIED if steps <= config.most_steps]
    end = None
    for name, solver, paper in _SOLVERS:
        means = []
        for steps in tried:

            def score(solver: SolverName = solver, steps: int = steps):
                value = diffuse(
                    index.graph,
                    y,
                    alpha=index.config.alpha,
                    solver=solver,
                    max_steps=steps,
                    rtol=0.0,
                ).value
                return pool(value, index.image_ids, weights=index.weights)

            settings = {**dataclasses.asdict(index.config), "steps": steps}
            means.append(_mean(first.evaluate_method(name, settings, score).precision))
        # Both against where the faster one ends: the other may not be there yet.
        end = means[-1] if end is None else end
        away = np.abs(np.array(means) - end) > _LEVEL
        place = int(np.flatnonzero(away).max(initial=-1)) + 1
        what = f"{name} until mAP is level"
        if place == len(tried):
            what, place = f"{what} (it is not at {tried[-1]})", -1
        yield _result(what, "iterations", tried[place], paper)


run = make_recorded_run("text", measure)


def main() -> None:
    """Reads the command line, measures and records."""
    run_from_command_line("text", card, run)
