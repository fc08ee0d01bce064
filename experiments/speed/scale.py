"""Cost of an index on disk against its size: `python -m experiments scale`."""

import pathlib
import shutil
from typing import Any

import numpy as np

from configs import scale as card
from configs.scale import ScaleConfig
from diffjax.progress import progress_bars
from diffjax.report import append_record, make_record
from experiments._runner import config_to_json, run_from_command_line
from experiments._timing import call_in_new_process
from experiments.reporting._charts import Chart, Line, write_chart

from ._scale_phases import (
    BUILD_PHASES,
    measure_build_phase,
    measure_queries,
    write_vectors,
)

_MIB = 2**20


def run(
    config: ScaleConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Builds and searches an index of each size; appends to `scale.jsonl`; draws.

    Args:
        config: Numbers of regions, and settings of the queries.
        workdir: Holds vectors and index of one size at a time.
        records: Folder of the record file and charts.

    Returns:
        The record.
    """
    phases: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    with progress_bars() as progress:
        for done, n in enumerate(config.sizes):
            progress("building and asking", done, len(config.sizes))
            folder = workdir / f"scale-{n}"
            # Files of a stopped run would be timed as already built.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                phases += _build(config, n, folder)
                queries.append(_search(config, n, folder))
            finally:
                shutil.rmtree(folder)
        progress("building and asking", len(config.sizes), len(config.sizes))
    slopes = _slopes(config, phases, queries)
    _draw(phases, queries, records)
    record = make_record(
        "scale",
        settings=config_to_json(config),
        results=[*phases, *queries, *slopes],
        seed=config.seed,
    )
    append_record(records / "scale.jsonl", record)
    return record


def _build(config: ScaleConfig, n: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    vectors, index = folder / "vectors.npy", folder / "index"
    call_in_new_process(write_vectors, vectors, n, dim=config.dim, seed=config.seed)
    # Bytes of the vectors, and of indices and similarities of the lists.
    data = n * (config.dim * 4 + config.k * 8)
    entries, size_before = [], 0
    for phase in BUILD_PHASES:
        cost = call_in_new_process(
            measure_build_phase, phase, vectors, index, k=config.k, reach=config.reach
        )
        size = sum(path.stat().st_size for path in index.iterdir())
        entries.append(
            {
                "regions": n,
                "phase": phase,
                "seconds": cost["seconds"],
                "memory_mib": cost["peak_bytes"] / _MIB,
                "of_vectors_and_lists": cost["peak_bytes"] / data,
                "written_mib": (size - size_before) / _MIB,
            }
        )
        size_before = size
    return entries


def _search(config: ScaleConfig, n: int, folder: pathlib.Path) -> dict[str, Any]:
    costs = call_in_new_process(
        measure_queries,
        folder / "vectors.npy",
        folder / "index",
        queries=config.queries,
        steps=config.steps,
        seed=config.seed + 1,
    )
    return {"regions": n, **costs}


def _slopes(
    config: ScaleConfig, phases: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fits log cost = slope log n + constant to memory, bytes and times."""
    sizes = np.array([n for n in config.sizes if n >= config.fit_from])
    if len(sizes) < 2:
        return []
    costs: dict[str, list[float]] = {}
    for phase in BUILD_PHASES:
        for kind in "memory_mib", "seconds":
            costs[f"{kind.removesuffix('_mib')}, {phase}"] = [
                entry[kind]
                for entry in phases
                if entry["phase"] == phase and entry["regions"] in sizes
            ]
    costs["bytes on the disk"] = [
        sum(entry["written_mib"] for entry in phases if entry["regions"] == n)
        for n in sizes
    ]
    names = {"query_seconds": "local query", "whole_graph_seconds": "whole graph"}
    for name, kind in names.items():
        costs[f"seconds, {kind}"] = [
            entry[name] for entry in queries if entry["regions"] in sizes
        ]
    return [
        {"cost": name, "slope_in_log_log": _slope(sizes, cost)}
        for name, cost in costs.items()
    ]


def _slope(sizes: np.ndarray, costs: list[float]) -> float:
    # Costs below the resolution of the clock have a logarithm, too.
    logs = np.log(np.maximum(costs, 1e-6))
    return float(np.polyfit(np.log(sizes), logs, 1)[0])


def _draw(
    phases: list[dict[str, Any]], queries: list[dict[str, Any]], records: pathlib.Path
) -> None:
    """Draws memory and seconds of all phases against the number of regions."""
    kinds = {"memory_mib": "memory, MiB", "seconds": "seconds"}
    for kind, label in kinds.items():
        lines = []
        for phase in BUILD_PHASES:
            entries = [entry for entry in phases if entry["phase"] == phase]
            lines.append(
                Line(
                    phase,
                    x=[entry["regions"] for entry in entries],
                    y=[max(entry[kind], 1e-3) for entry in entries],
                )
            )
        if kind == "seconds":
            sizes = [entry["regions"] for entry in queries]
            for name, title in (
                ("query_seconds", "local query"),
                ("whole_graph_seconds", "query on the whole graph"),
            ):
                seconds = [entry[name] for entry in queries]
                lines.append(Line(title, x=sizes, y=seconds))
        chart = Chart(
            title="An index on disk",
            x_label="regions",
            y_label=label,
            lines=lines,
            log_x=True,
            log_y=True,
        )
        write_chart(records / f"scale_{kind.removesuffix('_mib')}", chart)


def main() -> None:
    """Reads the command line, builds, searches and records."""
    run_from_command_line("scale", card, run)
