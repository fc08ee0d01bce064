"""Cost of an index on the disk against its size: `python -m experiments scale`."""

import pathlib
import shutil
from typing import Any

import numpy as np
import tyro

from configs import scale as card
from configs.scale import ScaleConfig
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.progress import progress_bars
from diffjax.report import (
    append_record,
    caption,
    make_record,
    measurement_tables,
    text_table,
)
from experiments._runner import config_to_json
from experiments.paper.evaluate import RECORDS
from experiments.reporting._charts import Chart, Line, write_chart

from ._scale_phases import (
    BUILD_PHASES,
    measure_build_phase,
    measure_queries,
    write_vectors,
)
from ._timing import call_in_new_process

_MIB = 2**20


def run(
    config: ScaleConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Builds and asks an index of each size; appends to `scale.jsonl`, and draws.

    Args:
        config: How many regions, and how they are asked.
        workdir: Holds vectors and index of one size at a time.
        records: Folder of the record file and charts.

    Returns:
        The record.
    """
    phases: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    with progress_bars() as progress:
        for done, n in enumerate(config.sizes):
            progress("building and asking", done, len(config.sizes))
            folder = workdir / f"scale-{n}"
            # What a stopped run has left was timed by that run.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                phases += _build(config, n, folder)
                asked.append(_ask(config, n, folder))
            finally:
                shutil.rmtree(folder)
        progress("building and asking", len(config.sizes), len(config.sizes))
    slopes = _slopes(config, phases, asked)
    _draw(phases, asked, records)
    record = make_record(
        "scale",
        settings=config_to_json(config),
        results=[*phases, *asked, *slopes],
        seed=config.seed,
    )
    append_record(records / "scale.jsonl", record)
    return record


def _build(config: ScaleConfig, n: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    vectors, index = folder / "vectors.npy", folder / "index"
    call_in_new_process(write_vectors, vectors, n, dim=config.dim, seed=config.seed)
    # The vectors, and indices and similarities of the lists.
    data = n * (config.dim * 4 + config.k * 8)
    found, before = [], 0
    for phase in BUILD_PHASES:
        cost = call_in_new_process(
            measure_build_phase, phase, vectors, index, k=config.k, reach=config.reach
        )
        there = sum(path.stat().st_size for path in index.iterdir())
        found.append(
            {
                "regions": n,
                "phase": phase,
                "seconds": cost["seconds"],
                "memory_mib": cost["peak_bytes"] / _MIB,
                "of_vectors_and_lists": cost["peak_bytes"] / data,
                "written_mib": (there - before) / _MIB,
            }
        )
        before = there
    return found


def _ask(config: ScaleConfig, n: int, folder: pathlib.Path) -> dict[str, Any]:
    found = call_in_new_process(
        measure_queries,
        folder / "vectors.npy",
        folder / "index",
        queries=config.queries,
        steps=config.steps,
        seed=config.seed + 1,
    )
    return {"regions": n, **found}


def _slopes(
    config: ScaleConfig, phases: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fits log cost = slope log n + constant, for all that is counted and timed."""
    sizes = np.array([n for n in config.sizes if n >= config.fit_from])
    if len(sizes) < 2:
        return []
    costs: dict[str, list[float]] = {}
    for phase in BUILD_PHASES:
        for kind in "memory_mib", "seconds":
            costs[f"{kind.removesuffix('_mib')}, {phase}"] = [
                each[kind]
                for each in phases
                if each["phase"] == phase and each["regions"] in sizes
            ]
    costs["bytes on the disk"] = [
        sum(each["written_mib"] for each in phases if each["regions"] == n)
        for n in sizes
    ]
    names = {"query_seconds": "local query", "whole_graph_seconds": "whole graph"}
    for name, what in names.items():
        own = [each[name] for each in asked if each["regions"] in sizes]
        costs[f"seconds, {what}"] = own
    return [
        {"cost": name, "slope_in_log_log": _slope(sizes, cost)}
        for name, cost in costs.items()
    ]


def _slope(sizes: np.ndarray, costs: list[float]) -> float:
    # What is too small to be measured counts as next to nothing.
    logs = np.log(np.maximum(costs, 1e-6))
    return float(np.polyfit(np.log(sizes), logs, 1)[0])


def _draw(
    phases: list[dict[str, Any]], asked: list[dict[str, Any]], records: pathlib.Path
) -> None:
    """Draws memory, and seconds, of all phases against the number of regions."""
    kinds = {"memory_mib": "memory, MiB", "seconds": "seconds"}
    for kind, label in kinds.items():
        lines = []
        for phase in BUILD_PHASES:
            own = [each for each in phases if each["phase"] == phase]
            lines.append(
                Line(
                    phase,
                    x=[each["regions"] for each in own],
                    y=[max(each[kind], 1e-3) for each in own],
                )
            )
        if kind == "seconds":
            for name, what in (
                ("query_seconds", "local query"),
                ("whole_graph_seconds", "query on the whole graph"),
            ):
                places = [each["regions"] for each in asked]
                lines.append(Line(what, x=places, y=[each[name] for each in asked]))
        chart = Chart(
            title="An index on the disk",
            x_label="regions",
            y_label=label,
            lines=lines,
            log_x=True,
            log_y=True,
        )
        write_chart(records / f"scale_{kind.removesuffix('_mib')}", chart)


def main() -> None:
    """Reads the command line and prints what was found."""
    enable_compilation_cache()
    config = tyro.cli(
        ScaleConfig,
        default=card.full(),
        description=card.__doc__,
        prog="python -m experiments scale",
    )
    record = run(config, cache_folder() / "experiments", records=RECORDS)
    for table in measurement_tables(record["results"]):
        print(text_table(*table))
    print(caption(record))
