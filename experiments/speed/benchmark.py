"""Solver speed against SciPy and scikit-learn: `python -m experiments benchmark`."""

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
from sklearn.exceptions import ConvergenceWarning
from sklearn.semi_supervised import LabelSpreading

from configs import benchmark as card
from configs.benchmark import BenchmarkConfig
from diffjax.diffusion import diffuse, diffuse_local, multiply
from diffjax.native import find_library
from diffjax.report import append_record, make_record
from experiments._cost import measure_cost
from experiments._runner import config_to_json, run_from_command_line
from experiments._timing import compare_times, time_interleaved
from experiments.reporting._charts import write_chart

from ._solver_accuracy import draw_solver_accuracy, measure_solver_accuracy
from ._synthetic_graphs import (
    GRAPH,
    GRAPH_KINDS,
    ORDER,
    SEARCH,
    SyntheticGraph,
    make_synthetic_graph,
)

_SCIPY, _MEMORY_READ = "scipy.sparse.linalg.cg", "reading the operands once"
_SCIPY_IN_ORDER = "scipy.sparse.linalg.cg, nodes in our order"
_SPREADING = "sklearn LabelSpreading, which normalises first"


def run(
    config: BenchmarkConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> list[dict[str, Any]]:
    """Times everything, draws, and appends `benchmark` and `benchmark_curves`.

    Args:
        config: Sizes of the graphs, queries and settings of the solvers.
        workdir: Not used: nothing is cached.
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
            problem = make_synthetic_graph(config, kind)
            settings[f"entries of {kind}"] = int(problem.graph.weights.size)
            claims += _claims(problem, config, kind)
            curves = measure_solver_accuracy(problem, config)
            points += [{"graph": kind, **point} for point in curves]
            write_chart(
                records / f"benchmark_{kind}", draw_solver_accuracy(curves, kind)
            )
    recorded = []
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
        recorded.append(record)
    return recorded


def _claims(
    problem: SyntheticGraph, config: BenchmarkConfig, kind: str
) -> list[dict[str, Any]]:
    claims = [
        compare_times(f"{step}, {kind}", problem.seconds, than=SEARCH, by=step)
        for step in (GRAPH, ORDER)
    ]
    if kind == next(iter(GRAPH_KINDS)):
        claims += _product_claims(problem, config) + _solve_claims(problem, config)
    times = time_interleaved(
        {
            _SCIPY: _solve_with_scipy(problem, config),
            "local": _solve_locally(problem, config),
        },
        rounds=config.rounds,
    )
    claim = f"one query, {config.size} nodes, {kind}"
    return [*claims, compare_times(claim, times, than=_SCIPY, by="local")]


def _product_claims(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """Times a product with one column against SciPy and the memory bandwidth."""
    y = problem.dense(0)
    column = np.asarray(y[:, 0])
    matrix = problem.graph.to_scipy()
    matrix_in_vector_order = problem.layout.restore_graph().to_scipy()
    product = jax.jit(multiply)
    calls: dict[str, Callable[[int], Any]] = {
        "scipy": lambda _: matrix_in_vector_order @ column,
        "ours": lambda _: product(problem.graph, y),
        _MEMORY_READ: _memory_reader(
            sum(a.nbytes for a in (matrix.data, matrix.indices, matrix.indptr))
            + 2 * column.nbytes
        ),
    }
    times = time_interleaved(calls, rounds=config.rounds)
    claim = "one product, one column"
    return [
        compare_times(claim, times, than="scipy", by="ours") | {"against": "scipy"},
        compare_times(claim, times, than=_MEMORY_READ, by="ours"),
    ]


def _memory_reader(size: int) -> Callable[[int], Any]:
    """Makes a call that reads `size` bytes on all cores, by dot products of BLAS."""
    cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    chunks = np.array_split(np.ones(size // 4, np.float32), cores)
    return lambda _: list(pool.map(lambda chunk: np.dot(chunk, chunk), chunks))


def _solve_claims(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    solve = functools.partial(
        diffuse, problem.graph, alpha=config.alpha, rtol=0.0, max_steps=config.steps
    )
    batch_y = problem.dense(slice(0, config.batch))
    single_y = [problem.dense(number) for number in range(config.rounds + 1)]
    batch = slice(0, config.batch)
    local = functools.partial(
        diffuse_local, problem.graph, size=config.size, alpha=config.alpha
    )
    times = time_interleaved(
        {
            _SCIPY: _solve_with_scipy(problem, config),
            _SCIPY_IN_ORDER: _solve_with_scipy(problem, config, in_order=True),
            _SPREADING: _solve_with_label_spreading(problem, config),
            "one": lambda number: solve(single_y[number]).value,
            "batch": lambda _: solve(batch_y).value,
            "local batch": lambda _: local(problem.nodes[batch], problem.values[batch]),
        },
        rounds=config.rounds,
    )
    # Seconds per query of the batch.
    for name in ("batch", "local batch"):
        times = {**times, name: [s / config.batch for s in times[name]]}
    single_claim = f"one query, {config.steps} iterations"
    batch_claim = f"one of {config.batch} queries, {config.steps} iterations"
    local_claim = f"one of {config.batch} queries, {config.size} nodes"
    return [
        compare_times(single_claim, times, than=_SCIPY, by="one"),
        compare_times(single_claim, times, than=_SCIPY_IN_ORDER, by="one"),
        compare_times(single_claim, times, than=_SPREADING, by="one"),
        compare_times(batch_claim, times, than=_SCIPY, by="batch"),
        compare_times(batch_claim, times, than=_SCIPY_IN_ORDER, by="batch"),
        compare_times(local_claim, times, than=_SCIPY, by="local batch"),
    ]


def _solve_with_scipy(
    problem: SyntheticGraph, config: BenchmarkConfig, *, in_order: bool = False
) -> Callable[[int], Any]:
    right_sides = [problem.dense(i)[:, 0] for i in range(config.rounds + 1)]
    order = np.asarray(problem.layout.order)
    matrix = problem.matrix[order][:, order] if in_order else problem.matrix
    columns = [
        np.asarray(y if in_order else y[problem.layout.inverse_order])
        for y in right_sides
    ]

    def solve(number: int) -> Any:
        return scipy.sparse.linalg.cg(
            matrix, columns[number], rtol=0.0, maxiter=config.steps
        )[0]

    return solve


def _solve_with_label_spreading(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Callable[[int], Any]:
    """Makes calls of the classic iteration, each with a normalisation of the graph."""
    affinity = scipy.sparse.coo_matrix(problem.layout.restore_graph().to_scipy())
    features = np.zeros((problem.graph.num_nodes, 1), np.float32)
    order = np.asarray(problem.layout.order)

    def spread(number: int) -> Any:
        labels = np.full(problem.graph.num_nodes, -1)
        labels[order[problem.nodes[number]]] = 0
        model = LabelSpreading(
            kernel=lambda *_: affinity,  # pyright: ignore[reportArgumentType]
            alpha=config.alpha,
            max_iter=config.steps,
            tol=0.0,
        )
        with warnings.catch_warnings():
            # A fixed number of steps does not converge, and nodes without a score are
            # divided by their sum, 0.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            return model.fit(features, labels).label_distributions_

    return spread


def _solve_locally(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Callable[[int], Any]:
    def solve(number: int) -> Any:
        query = slice(number, number + 1)
        seeds = problem.nodes[query], problem.values[query]
        return diffuse_local(
            problem.graph, *seeds, size=config.size, alpha=config.alpha
        )

    return solve


def main() -> None:
    """Reads the command line, times and records."""
    run_from_command_line("benchmark", card, run)
