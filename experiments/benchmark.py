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
from diffjax.caches import keep_compiled_programs
from diffjax.diffusion import diffuse, diffuse_local, multiply
from diffjax.native import find_library
from diffjax.report import (
    append_record,
    caption,
    make_record,
    measured,
    measurement_tables,
    text_table,
    write_chart,
)
from experiments._agreement import draw_agreement, measure_agreement
from experiments._made_graphs import (
    GRAPH,
    KINDS,
    ORDER,
    SEARCH,
    MadeGraph,
    make_graph,
)
from experiments._main import settings_of
from experiments._rounds import faster, take_turns
from experiments.evaluate import RECORDS

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
    settings = settings_of(config)
    settings["products"] = find_library().description
    claims, points = [], []
    with measured() as cost:
        for kind in KINDS:
            made = make_graph(config, kind)
            settings[f"entries of {kind}"] = int(made.graph.weights.size)
            claims += _claims(made, config, kind)
            curves = measure_agreement(made, config)
            points += [{"graph": kind, **point} for point in curves]
            write_chart(records / f"benchmark_{kind}", draw_agreement(curves, kind))
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
    made: MadeGraph, config: BenchmarkConfig, kind: str
) -> list[dict[str, Any]]:
    found = [
        faster(f"{what}, {kind}", made.seconds, than=SEARCH, by=what)
        for what in (GRAPH, ORDER)
    ]
    if kind == next(iter(KINDS)):
        found += _of_products(made, config) + _of_solves(made, config)
    times = take_turns(
        {_SCIPY: _by_scipy(made, config), "local": _by_nodes(made, config)},
        rounds=config.rounds,
    )
    claim = f"one query, {config.size} nodes, {kind}"
    return [*found, faster(claim, times, than=_SCIPY, by="local")]


def _of_products(made: MadeGraph, config: BenchmarkConfig) -> list[dict[str, Any]]:
    """One product with one column, by SciPy and as a share of what memory gives."""
    y = made.dense(0)
    column = np.asarray(y[:, 0])
    matrix, there = made.graph.to_scipy(), made.layout.restore().to_scipy()
    product = jax.jit(multiply)
    calls: dict[str, Callable[[int], Any]] = {
        "scipy": lambda _: there @ column,
        "ours": lambda _: product(made.graph, y),
        _ONCE: _reader(
            sum(each.nbytes for each in (matrix.data, matrix.indices, matrix.indptr))
            + 2 * column.nbytes
        ),
    }
    times = take_turns(calls, rounds=config.rounds)
    claim = "one product, one column"
    return [
        faster(claim, times, than="scipy", by="ours") | {"against": "scipy"},
        faster(claim, times, than=_ONCE, by="ours"),
    ]


def _reader(size: int) -> Callable[[int], Any]:
    """Reads so many bytes on all cores, as BLAS adds up products."""
    cores = os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    parts = np.array_split(np.ones(size // 4, np.float32), cores)
    return lambda _: list(pool.map(lambda part: np.dot(part, part), parts))


def _of_solves(made: MadeGraph, config: BenchmarkConfig) -> list[dict[str, Any]]:
    solve = functools.partial(
        diffuse, made.graph, alpha=config.alpha, rtol=0.0, max_steps=config.steps
    )
    every = made.dense(slice(0, config.batch))
    asked = [made.dense(number) for number in range(config.rounds + 1)]
    batch = slice(0, config.batch)
    local = functools.partial(
        diffuse_local, made.graph, size=config.size, alpha=config.alpha
    )
    times = take_turns(
        {
            _SCIPY: _by_scipy(made, config),
            _SCIPY_IN_ORDER: _by_scipy(made, config, in_order=True),
            _SPREADING: _by_spreading(made, config),
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
        faster(one, times, than=_SCIPY, by="one"),
        faster(one, times, than=_SCIPY_IN_ORDER, by="one"),
        faster(one, times, than=_SPREADING, by="one"),
        faster(many, times, than=_SCIPY, by="batch"),
        faster(many, times, than=_SCIPY_IN_ORDER, by="batch"),
        faster(few, times, than=_SCIPY, by="local batch"),
    ]


def _by_scipy(
    made: MadeGraph, config: BenchmarkConfig, *, in_order: bool = False
) -> Callable[[int], Any]:
    asked = [made.dense(number)[:, 0] for number in range(config.rounds + 1)]
    order = np.asarray(made.layout.order)
    matrix = made.matrix[order][:, order] if in_order else made.matrix
    columns = [np.asarray(y if in_order else y[made.layout.place]) for y in asked]

    def solve(number: int) -> Any:
        return scipy.sparse.linalg.cg(
            matrix, columns[number], rtol=0.0, maxiter=config.steps
        )[0]

    return solve


def _by_spreading(made: MadeGraph, config: BenchmarkConfig) -> Callable[[int], Any]:
    """The classic iteration, as many steps, with its own normalisation of the graph."""
    affinity = scipy.sparse.coo_matrix(made.layout.restore().to_scipy())
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


def _by_nodes(made: MadeGraph, config: BenchmarkConfig) -> Callable[[int], Any]:
    def solve(number: int) -> Any:
        own = slice(number, number + 1)
        seeds = made.nodes[own], made.values[own]
        return diffuse_local(made.graph, *seeds, size=config.size, alpha=config.alpha)

    return solve


def main() -> None:
    """Reads the command line and prints what was found."""
    keep_compiled_programs()
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
