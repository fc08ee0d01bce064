"""Speed, claim by claim: `python -m experiments benchmark`."""

import functools
import os
import pathlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import tyro
from sklearn.exceptions import ConvergenceWarning
from sklearn.semi_supervised import LabelSpreading

from configs import benchmark as card
from configs.benchmark import BenchmarkConfig
from diffjax.caches import enable_compilation_cache
from diffjax.diffusion import diffuse, diffuse_local, multiply
from diffjax.native import find_library
from diffjax.report import (
    append_record,
    caption,
    make_record,
    measurement_tables,
    text_table,
)
from experiments._runner import config_to_json
from experiments.paper.evaluate import RECORDS
from experiments.reporting._charts import write_chart
from experiments.reporting._cost import measure_cost

from ._solver_accuracy import draw_solver_accuracy, measure_solver_accuracy
from ._synthetic_graphs import (
    GRAPH,
    GRAPH_KINDS,
    ORDER,
    SEARCH,
    SyntheticGraph,
    make_synthetic_graph,
)
from ._timing import compare_times, time_interleaved

_SCIPY, _ONCE = "scipy.sparse.linalg.cg", "reading the operands once"
_SCIPY_IN_ORDER = "scipy.sparse.linalg.cg, nodes in our order"
_SPREADING = "sklearn LabelSpreading, which normalises first"


def run(
    config: BenchmarkConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> list[dict[str, Any]]:
    """Times everything, draws, and appends `benchmark` and `benchmark_curves`.

    Args:
        config: The graphs and how they are asked.
        workdir: Not used: nothing is kept.
        records: Folder of the record files and charts.

    Returns:
        Both records.
    """
    del workdir
    settings = config_to_json(config)
    settings["products"] = find_library().description
    claims, points = [], []
    with measure_cost() as cost:
        for kind in GRAPH_KINDS:
            made = make_synthetic_graph(config, kind)
            settings[f"entries of {kind}"] = int(made.graph.weights.size)
            claims += _claims(made, config, kind)
            curves = measure_solver_accuracy(made, config)
            points += [{"graph": kind, **point} for point in curves]
            write_chart(
                records / f"benchmark_{kind}", draw_solver_accuracy(curves, kind)
            )
    found = []
    for name, results in {"benchmark": claims, "benchmark_curves": points}.items():
        record = make_record(
            name.replace("_", ", "),
            settings=settings,
            results=results,
            seed=config.seed,
            seconds=cost.seconds,
            peak_memory=cost.peak_bytes,
        )
        append_record(records / f"{name}.jsonl", record)
        found.append(record)
    return found


def _claims(
    made: SyntheticGraph, config: BenchmarkConfig, kind: str
) -> list[dict[str, Any]]:
    found = [
        compare_times(f"{what}, {kind}", made.seconds, than=SEARCH, by=what)
        for what in (GRAPH, ORDER)
    ]
    if kind == next(iter(GRAPH_KINDS)):
        found += _product_claims(made, config) + _solve_claims(made, config)
    times = time_interleaved(
        {
            _SCIPY: _solve_with_scipy(made, config),
            "local": _solve_locally(made, config),
        },
        rounds=config.rounds,
    )
    claim = f"one query, {config.size} nodes, {kind}"
    return [*found, compare_times(claim, times, than=_SCIPY, by="local")]


def _product_claims(
    made: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """One product with one column, by SciPy and as a share of what memory gives."""
    y = made.dense(0)
    column = np.asarray(y[:, 0])
    matrix, there = made.graph.to_scipy(), made.layout.restore_graph().to_scipy()
    product = jax.jit(multiply)
    calls: dict[str, Callable[[int], Any]] = {
        "scipy": lambda _: there @ column,
        "ours": lambda _: product(made.graph, y),
        _ONCE: _memory_reader(
            sum(each.nbytes for each in (matrix.data, matrix.indices, matrix.indptr))
            + 2 * column.nbytes
        ),
    }
    times = time_interleaved(calls, rounds=config.rounds)
    claim = "one product, one column"
    return [
        compare_times(claim, times, than="scipy", by="ours") | {"against": "scipy"},
        compare_times(claim, times, than=_ONCE, by="ours"),
    ]


def _memory_reader(size: int) -> Callable[[int], Any]:
    """Reads so many bytes on all cores, as BLAS adds up products."""
    cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    parts = np.array_split(np.ones(size // 4, np.float32), cores)
    return lambda _: list(pool.map(lambda part: np.dot(part, part), parts))


def _solve_claims(
    made: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    solve = functools.partial(
        diffuse, made.graph, alpha=config.alpha, rtol=0.0, max_steps=config.steps
    )
    every = made.dense(slice(0, config.batch))
    asked = [made.dense(number) for number in range(config.rounds + 1)]
    batch = slice(0, config.batch)
    local = functools.partial(
        diffuse_local, made.graph, size=config.size, alpha=config.alpha
    )
    times = time_interleaved(
        {
            _SCIPY: _solve_with_scipy(made, config),
            _SCIPY_IN_ORDER: _solve_with_scipy(made, config, in_order=True),
            _SPREADING: _solve_with_label_spreading(made, config),
            "one": lambda number: solve(asked[number]).value,
            "batch": lambda _: solve(every).value,
            "local batch": lambda _: local(made.nodes[batch], made.values[batch]),
        },
        rounds=config.rounds,
    )
    # A query of a batch.
    for name in ("batch", "local batch"):
        times = {**times, name: [each / config.batch for each in times[name]]}
    one = f"one query, {config.steps} iterations"
    many = f"one of {config.batch} queries, {config.steps} iterations"
    few = f"one of {config.batch} queries, {config.size} nodes"
    return [
        compare_times(one, times, than=_SCIPY, by="one"),
        compare_times(one, times, than=_SCIPY_IN_ORDER, by="one"),
        compare_times(one, times, than=_SPREADING, by="one"),
        compare_times(many, times, than=_SCIPY, by="batch"),
        compare_times(many, times, than=_SCIPY_IN_ORDER, by="batch"),
        compare_times(few, times, than=_SCIPY, by="local batch"),
    ]


def _solve_with_scipy(
    made: SyntheticGraph, config: BenchmarkConfig, *, in_order: bool = False
) -> Callable[[int], Any]:
    asked = [made.dense(number)[:, 0] for number in range(config.rounds + 1)]
    order = np.asarray(made.layout.order)
    matrix = made.matrix[order][:, order] if in_order else made.matrix
    columns = [
        np.asarray(y if in_order else y[made.layout.inverse_order]) for y in asked
    ]

    def solve(number: int) -> Any:
        return scipy.sparse.linalg.cg(
            matrix, columns[number], rtol=0.0, maxiter=config.steps
        )[0]

    return solve


def _solve_with_label_spreading(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Callable[[int], Any]:
    """The classic iteration, as many steps, with its own normalisation of the graph."""
    affinity = scipy.sparse.coo_matrix(made.layout.restore_graph().to_scipy())
    places = np.zeros((made.graph.num_nodes, 1), np.float32)
    order = np.asarray(made.layout.order)

    def spread(number: int) -> Any:
        labels = np.full(made.graph.num_nodes, -1)
        labels[order[made.nodes[number]]] = 0
        model = LabelSpreading(
            kernel=lambda *_: affinity,  # pyright: ignore[reportArgumentType]
            alpha=config.alpha,
            max_iter=config.steps,
            tol=0.0,
        )
        with warnings.catch_warnings():
            # That it did not converge, which is what is asked for; and that scores
            # that did not arrive anywhere are divided by their sum.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            return model.fit(places, labels).label_distributions_

    return spread


def _solve_locally(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Callable[[int], Any]:
    def solve(number: int) -> Any:
        own = slice(number, number + 1)
        seeds = made.nodes[own], made.values[own]
        return diffuse_local(made.graph, *seeds, size=config.size, alpha=config.alpha)

    return solve


def main() -> None:
    """Reads the command line and prints what was found."""
    enable_compilation_cache()
    config = tyro.cli(
        BenchmarkConfig,
        default=card.full(),
        description=card.__doc__,
        prog="python -m experiments benchmark",
    )
    for record in run(config, pathlib.Path(), records=RECORDS):
        for table in measurement_tables(record["results"]):
            print(text_table(*table))
        print(caption(record))
