"""Accuracy of solvers against time, and their costs beforehand."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from configs.benchmark import BenchmarkConfig
from diffjax.diffusion import (
    SolverName,
    SpectralBasis,
    densify,
    diffuse,
    diffuse_local,
    leading_eigenvectors,
    spectral_scores,
)
from experiments._timing import time_interleaved
from experiments.reporting._charts import Chart, Line

from ._synthetic_graphs import SyntheticGraph

_STEPPING: dict[str, SolverName] = {
    "CG": "cg",
    "Chebyshev": "chebyshev",
    "classic": "iterate",
}
# Settings of the earlier solution that a refined query starts from.
_EARLIER = {"rtol": 1e-4, "max_steps": 200}


class _SolverSetting(NamedTuple):
    """Solver with one setting, a point of the chart.

    Attributes:
        solver: Name of its line.
        setting: Number of iterations, nodes or eigenvectors.
        call: Solves for the query of a number; this is timed.
        scores: Converts the result of `call` to scores [n].
        seconds: Seconds of preparation for the whole collection.
        size: Bytes that are stored beside the graph.
    """

    solver: str
    setting: int
    call: Callable[[int], Any]
    scores: Callable[[Any], Any] = lambda columns: columns[:, 0]
    seconds: float = 0.0
    size: int = 0


def measure_solver_accuracy(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """Times every solver, one query at a time, and compares its first nodes.

    Args:
        problem: The graph and its queries.
        config: Settings of the solvers.

    Returns:
        Entries of a record: solver, setting, overlap with the exact answer,
        milliseconds, seconds and bytes of the preparation.
    """
    solvers = [
        *_vary_steps(problem, config),
        *_vary_eigenvectors(problem, config),
        *_vary_starts(problem, config),
        *_vary_offline_rows(problem, config),
        *_vary_local_nodes(problem, config),
    ]
    times = time_interleaved(
        {str(number): solver.call for number, solver in enumerate(solvers)},
        rounds=config.rounds,
    )
    points = []
    for number, solver in enumerate(solvers):
        overlaps = [
            problem.overlap(query, np.asarray(solver.scores(solver.call(query))))
            for query in range(config.rounds + 1)
        ]
        points.append(
            {
                "solver": solver.solver,
                "setting": solver.setting,
                "overlap": float(np.mean(overlaps)),
                "milliseconds": 1000 * float(np.median(times[str(number)])),
                "offline_seconds": solver.seconds,
                "offline_bytes": solver.size,
            }
        )
    return points


def draw_solver_accuracy(points: list[dict[str, Any]], kind: str) -> Chart:
    """Draws overlap against time, a line per solver.

    Args:
        points: From `measure_solver_accuracy`.
        kind: Name of the graph.

    Returns:
        The chart; the first and the last point of a line are labelled with the setting.
    """
    lines = []
    for solver in dict.fromkeys(point["solver"] for point in points):
        line = sorted(
            (p for p in points if p["solver"] == solver),
            key=lambda point: point["milliseconds"],
        )
        ends = {0, len(line) - 1}
        lines.append(
            Line(
                solver,
                x=[point["milliseconds"] for point in line],
                y=[100 * point["overlap"] for point in line],
                labels=[
                    str(point["setting"]) if position in ends else ""
                    for position, point in enumerate(line)
                ],
            )
        )
    return Chart(
        title=f"One query on {kind}",
        x_label="milliseconds",
        y_label="first 100 nodes that are right, %",
        lines=lines,
        log_x=True,
    )


def _right_hand_sides(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> list[Float[Array, "n 1"]]:
    return [problem.dense(number) for number in range(config.rounds + 1)]


def _make_solve(problem, config, steps: int, **settings) -> Callable[[int], Any]:
    """Makes a call of `diffuse`; settings that are lists hold one value per query."""
    right_sides = _right_hand_sides(problem, config)

    def solve(number: int) -> Any:
        chosen = {
            name: value[number] if isinstance(value, list) else value
            for name, value in settings.items()
        }
        fixed = {"alpha": config.alpha, "rtol": 0.0, "max_steps": steps}
        return diffuse(problem.graph, right_sides[number], **fixed, **chosen).value

    return solve


def _vary_steps(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    for name, solver in _STEPPING.items():
        for steps in config.curve_steps:
            yield _SolverSetting(
                name, steps, _make_solve(problem, config, steps, solver=solver)
            )


def _vary_eigenvectors(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """Lists conjugate gradient with eigenvectors, then eigenvectors alone."""
    bases: dict[int, SpectralBasis] = {}
    costs: dict[int, dict[str, Any]] = {}
    for rank in config.curve_ranks:
        start = time.perf_counter()
        basis = jax.block_until_ready(leading_eigenvectors(problem.graph, rank))
        seconds = time.perf_counter() - start
        bases[rank] = basis
        costs[rank] = {
            "seconds": seconds,
            "size": sum(array.nbytes for array in basis),
        }
    for rank, basis in bases.items():
        for steps in config.curve_steps_beside:
            call = _make_solve(problem, config, steps, basis=basis)
            name = f"CG + {rank} eigenvectors"
            yield _SolverSetting(name, steps, call, **costs[rank])
    for rank, basis in bases.items():
        alone = functools.partial(spectral_scores, basis, alpha=config.alpha)
        call = _solve_from_seeds(problem, alone)
        yield _SolverSetting("fast spectral ranking", rank, call, **costs[rank])


def _solve_from_seeds(
    problem: SyntheticGraph, solve: Callable[..., Any]
) -> Callable[[int], Any]:
    """Makes a call that passes the seeds of a query to a solver."""

    def call(number: int) -> Any:
        query = slice(number, number + 1)
        return solve(problem.nodes[query], problem.values[query])

    return call


def _vary_starts(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """Lists starts from the scores of the unrefined query, of half of the seeds."""
    starts = []
    for number in range(config.rounds + 1):
        y = problem.dense(number)
        half = jnp.where(y >= jnp.median(y[y > 0]), y, 0)
        solution = diffuse(problem.graph, half, alpha=config.alpha, **_EARLIER)
        starts.append(solution.value)
    for steps in config.curve_steps_beside:
        call = _make_solve(problem, config, steps, start=starts)
        yield _SolverSetting("CG, refined query", steps, call)


def _vary_offline_rows(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """Lists sums of offline rows, as of `combine_offline_rows`.

    Only the rows of the queries' seeds are solved, each by a local solve; the cost of
    all rows is estimated from these.
    """
    n = problem.graph.num_nodes
    query_seeds = problem.nodes[: config.rounds + 1]
    seeds, row_positions = np.unique(query_seeds, return_inverse=True)
    row_positions = row_positions.reshape(query_seeds.shape)
    for size in config.curve_rows:
        solve = functools.partial(
            diffuse_local, problem.graph, size=size, alpha=config.alpha
        )
        ones = np.ones((len(seeds), 1), np.float32)
        jax.block_until_ready(solve(seeds[:1, None], ones[:1]))
        start = time.perf_counter()
        rows = jax.block_until_ready(solve(seeds[:, None], ones))
        seconds = time.perf_counter() - start

        def call(number: int, rows: Any = rows) -> Any:
            chosen = row_positions[number]
            selected = rows.nodes[chosen], rows.values[chosen]
            return _add_rows(*selected, problem.values[number], num_nodes=n)

        yield _SolverSetting(
            "offline rows",
            size,
            call,
            scores=lambda scores: scores,
            seconds=seconds * n / len(seeds),
            size=(rows.nodes.nbytes + rows.values.nbytes) * n // len(seeds),
        )


@functools.partial(jax.jit, static_argnames="num_nodes")
def _add_rows(
    nodes: Int[Array, "s l"],
    values: Float[Array, "s l"],
    weights: Float[Array, " s"],
    *,
    num_nodes: int,
) -> Float[Array, " n"]:
    targets = jnp.where(nodes >= 0, nodes, num_nodes)
    scores = jnp.zeros(num_nodes, values.dtype)
    return scores.at[targets].add(weights[:, None] * values, mode="drop")


def _vary_local_nodes(
    problem: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    solve = functools.partial(diffuse_local, problem.graph, alpha=config.alpha)

    def scores(solution: Any) -> Any:
        return densify(solution, problem.graph)[:, 0]

    for size in config.curve_sizes:
        call = _solve_from_seeds(problem, functools.partial(solve, size=size))
        yield _SolverSetting("local", size, call, scores)
