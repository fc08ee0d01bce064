"""Costs of many devices: `python -m experiments distributed_cost`."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from configs import distributed_cost as card
from configs.distributed_cost import DistributedCostConfig
from diffjax.distributed import CostEstimate, estimate_cost
from diffjax.report import append_record, make_record
from experiments._runner import config_to_json, run_from_command_line
from experiments.reporting._charts import Chart, Line, write_chart

_REGIONS_PER_IMAGE = 20


def run(
    config: DistributedCostConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Compiles, computes and appends a record to `distributed_cost.jsonl`.

    Args:
        config: The sizes.
        workdir: Not used: nothing is cached.
        records: Folder of the record files, and of two charts.

    Returns:
        The record.
    """
    del workdir
    results = [*_compared(config), *_simulated(config)]
    record = make_record(
        "distributed cost",
        settings=config_to_json(config),
        results=results,
        seed=0,
    )
    records.mkdir(parents=True, exist_ok=True)
    append_record(records / "distributed_cost.jsonl", record)
    _draw(config, records)
    return record


def _compared(config: DistributedCostConfig) -> Iterator[dict[str, Any]]:
    """Compares the costs of compiled programs with the arithmetic."""
    for devices, steps in compiled_costs(config).items():
        expected = estimate_cost(
            config.nodes,
            d=config.dim,
            k=config.k,
            devices=devices,
            queries=config.queries,
            regions=config.regions,
            images=config.images,
        )._asdict()
        for name, cost in steps.items():
            estimate = expected[name]
            both = cost["arguments"] + cost["output"]
            row = {
                "step": name,
                "devices": devices,
                "bytes sent": cost["sent"] + cost["sent_once"],
                "planned": estimate.sent + estimate.sent_once,
                "taken and given": both,
                "as planned": estimate.arguments + estimate.output,
                "memory": both + cost["temporary"],
                "memory, planned": estimate.memory - estimate.resident,
            }
            # A ring sends fractions of bytes for some numbers of devices.
            yield {
                key: round(value) if isinstance(value, float) else value
                for key, value in row.items()
            }


def compiled_costs(
    config: DistributedCostConfig,
) -> Mapping[int, Mapping[str, Mapping[str, float]]]:
    """Compiles all steps in a process with as many host devices as needed.

    Args:
        config: The sizes.

    Returns:
        Output of `experiments.speed._compiled_costs`, by devices and step.
    """
    sizes = {
        "devices": config.devices,
        "n": config.nodes,
        "d": config.dim,
        "k": config.k,
        "queries": config.queries,
        "regions": config.regions,
        "images": config.images,
    }
    count = max(config.devices)
    host_devices = f"--xla_force_host_platform_device_count={count}"
    process = subprocess.run(  # noqa: S603  # This very package, in Python.
        [sys.executable, "-m", "experiments.speed._compiled_costs", json.dumps(sizes)],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": host_devices, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {int(name): costs for name, costs in json.loads(process.stdout).items()}


def _plan(config: DistributedCostConfig, nodes: int, devices: int) -> CostEstimate:
    images = -(-nodes // _REGIONS_PER_IMAGE)
    return estimate_cost(
        nodes, d=config.dim, k=config.k, devices=devices, images=images
    )


def _simulated(config: DistributedCostConfig) -> Iterator[dict[str, Any]]:
    for nodes in config.many_nodes:
        for devices in config.many_devices:
            costs = _plan(config, nodes, devices)
            building = costs.search, costs.affinity, costs.normalize
            yield {
                "regions": nodes,
                "on devices": devices,
                "GB on each": costs.memory / 1e9,
                "GB of vectors and graph": costs.memory_at_rest / 1e9,
                "GB sent to build": sum(step.total_sent for step in building) / 1e9,
                "MB sent an iteration": costs.solve.sent / 1e6,
                "MB sent a query": sum(step.total_sent for step in costs[3:]) / 1e6,
            }


def _draw(config: DistributedCostConfig, records: pathlib.Path) -> None:
    nodes = config.many_nodes
    charts = {
        "memory": (
            "most memory on a device",
            "GB on each device",
            lambda costs: costs.memory / 1e9,
        ),
        "sent": (
            "sent in an iteration of one query",
            "MB sent by each device",
            lambda costs: costs.solve.sent / 1e6,
        ),
    }
    for name, (title, label, cost_of) in charts.items():
        lines = [
            Line(
                f"{devices} devices",
                nodes,
                [cost_of(_plan(config, n, devices)) for n in nodes],
            )
            for devices in config.many_devices
        ]
        chart = Chart(
            f"{title}, {config.dim}-D, k {config.k}",
            "regions",
            label,
            lines,
            log_x=True,
            log_y=True,
        )
        write_chart(records / f"distributed_cost_{name}", chart)


def main() -> None:
    """Reads the command line, compiles, computes and records."""
    run_from_command_line("distributed_cost", card, run)
