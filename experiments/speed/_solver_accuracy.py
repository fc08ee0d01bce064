"""How right each way to solve is after how long, and what it needs beforehand."""

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
from experiments.reporting._charts import Chart, Line

from ._synthetic_graphs import SyntheticGraph
from ._timing import time_interleaved

_STEPPING: dict[str, SolverName] = {
    "CG": "cg",
    "Chebyshev": "chebyshev",
    "classic": "iterate",
}
# To what residual a start was solved, when it was asked.
_STARTED = {"rtol": 1e-4, "max_steps": 200}


class _SolverSetting(NamedTuple):
    """One way to solve, with one setting.

    Attributes:
        solver: Its line in the chart.
        setting: Iterations, nodes or eigenvectors.
        call: Solves for the query of that number, as it is timed.
        scores: Makes scores [n] of what the call gives.
        seconds: What it took beforehand, for the whole collection.
        size: Bytes that it keeps beside the graph.
    """

    solver: str
    setting: int
    call: Callable[[int], Any]
    scores: Callable[[Any], Any] = lambda found: found[:, 0]
    seconds: float = 0.0
    size: int = 0


def measure_solver_accuracy(
    made: SyntheticGraph, config: BenchmarkConfig
) -> list[dict[str, Any]]:
    """Times every way to solve, one query at a time, and compares the first nodes.

    Args:
        made: The graph and its queries.
        config: How far each way goes.

    Returns:
        Entries of a record: solver, setting, overlap with the exact answer,
        milliseconds, and what it needs beforehand.
    """
    ways = [
        *_vary_steps(made, config),
        *_vary_eigenvectors(made, config),
        *_vary_starts(made, config),
        *_vary_offline_rows(made, config),
        *_vary_local_nodes(made, config),
    ]
    times = time_interleaved(
        {str(place): way.call for place, way in enumerate(ways)}, rounds=config.rounds
    )
    points = []
    for place, way in enumerate(ways):
        shares = [
            made.overlap(number, np.asarray(way.scores(way.call(number))))
            for number in range(config.rounds + 1)
        ]
        points.append(
            {
                "solver": way.solver,
                "setting": way.setting,
                "overlap": float(np.mean(shares)),
                "milliseconds": 1000 * float(np.median(times[str(place)])),
                "offline_seconds": way.seconds,
                "offline_bytes": way.size,
            }
        )
    return points


def draw_solver_accuracy(points: list[dict[str, Any]], kind: str) -> Chart:
    """Draws overlap against time, a line per solver.

    Args:
        points: From `measure_solver_accuracy`.
        kind: What the graph is called.

    Returns:
        The chart; the first and the last point of a line bear their setting.
    """
    lines = []
    for solver in dict.fromkeys(point["solver"] for point in points):
        own = sorted(
            (p for p in points if p["solver"] == solver),
            key=lambda point: point["milliseconds"],
        )
        ends = {0, len(own) - 1}
        lines.append(
            Line(
                solver,
                x=[point["milliseconds"] for point in own],
                y=[100 * point["overlap"] for point in own],
                labels=[
                    str(point["setting"]) if place in ends else ""
                    for place, point in enumerate(own)
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
    made: SyntheticGraph, config: BenchmarkConfig
) -> list[Float[Array, "n 1"]]:
    return [made.dense(number) for number in range(config.rounds + 1)]


def _make_solve(made, config, steps: int, **settings) -> Callable[[int], Any]:
    """Solves in so many steps; settings that are lists hold one for each query."""
    asked = _right_hand_sides(made, config)

    def solve(number: int) -> Any:
        own = {k: v[number] if isinstance(v, list) else v for k, v in settings.items()}
        fixed = {"alpha": config.alpha, "rtol": 0.0, "max_steps": steps}
        return diffuse(made.graph, asked[number], **fixed, **own).value

    return solve


def _vary_steps(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    for name, solver in _STEPPING.items():
        for steps in config.curve_steps:
            yield _SolverSetting(
                name, steps, _make_solve(made, config, steps, solver=solver)
            )


def _vary_eigenvectors(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """Conjugate gradient beside eigenvectors, and eigenvectors alone."""
    bases: dict[int, tuple[SpectralBasis, float]] = {}
    for rank in config.curve_ranks:
        start = time.perf_counter()
        basis = jax.block_until_ready(leading_eigenvectors(made.graph, rank))
        bases[rank] = basis, time.perf_counter() - start
    for rank, (basis, seconds) in bases.items():
        needs = {"seconds": seconds, "size": sum(each.nbytes for each in basis)}
        for steps in config.curve_steps_beside:
            call = _make_solve(made, config, steps, basis=basis)
            name = f"CG + {rank} eigenvectors"
            yield _SolverSetting(name, steps, call, **needs)
    for rank, (basis, seconds) in bases.items():
        needs = {"seconds": seconds, "size": sum(each.nbytes for each in basis)}
        alone = functools.partial(spectral_scores, basis, alpha=config.alpha)
        yield _SolverSetting(
            "fast spectral ranking", rank, _solve_from_seeds(made, alone), **needs
        )


def _solve_from_seeds(
    made: SyntheticGraph, solve: Callable[..., Any]
) -> Callable[[int], Any]:
    """Solves for the nodes and values of a query."""

    def call(number: int) -> Any:
        own = slice(number, number + 1)
        return solve(made.nodes[own], made.values[own])

    return call


def _vary_starts(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """From the scores of the query before it was refined: of half of its seeds."""
    starts = []
    for number in range(config.rounds + 1):
        known = made.dense(number)
        half = jnp.median(known[known > 0])
        before = jnp.where(known >= half, known, 0)
        found = diffuse(made.graph, before, alpha=config.alpha, **_STARTED)
        starts.append(found.value)
    for steps in config.curve_steps_beside:
        call = _make_solve(made, config, steps, start=starts)
        yield _SolverSetting("CG, refined query", steps, call)


def _vary_offline_rows(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    """Solutions of single nodes, added up as `combine_offline_rows` adds those of all.

    Made of the nodes only that the queries start from, each on the nodes that it
    reaches; what all of the nodes would take is estimated from these.
    """
    n = made.graph.num_nodes
    asked = made.nodes[: config.rounds + 1]
    seeds, places = np.unique(asked, return_inverse=True)
    places = places.reshape(asked.shape)
    for size in config.curve_rows:
        solve = functools.partial(
            diffuse_local, made.graph, size=size, alpha=config.alpha
        )
        ones = np.ones((len(seeds), 1), np.float32)
        jax.block_until_ready(solve(seeds[:1, None], ones[:1]))
        start = time.perf_counter()
        rows = jax.block_until_ready(solve(seeds[:, None], ones))
        seconds = time.perf_counter() - start

        def call(number: int, rows: Any = rows) -> Any:
            chosen = rows.nodes[places[number]], rows.values[places[number]]
            return _add_rows(*chosen, made.values[number], num_nodes=n)

        yield _SolverSetting(
            "offline rows",
            size,
            call,
            scores=lambda found: found,
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
    places = jnp.where(nodes >= 0, nodes, num_nodes)
    scores = jnp.zeros(num_nodes, values.dtype)
    return scores.at[places].add(weights[:, None] * values, mode="drop")


def _vary_local_nodes(
    made: SyntheticGraph, config: BenchmarkConfig
) -> Iterator[_SolverSetting]:
    solve = functools.partial(diffuse_local, made.graph, alpha=config.alpha)

    def scores(found: Any) -> Any:
        return densify(found, made.graph)[:, 0]

    for size in config.curve_sizes:
        call = _solve_from_seeds(made, functools.partial(solve, size=size))
        yield _SolverSetting("local", size, call, scores)
