"""What many devices cost: `python -m experiments distributed_cost`."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tyro

from configs import distributed_cost
from configs.distributed_cost import DistributedCostConfig
from diffjax.distributed import CostEstimate, estimate_cost
from diffjax.report import append_record, make_record
from experiments._runner import config_to_json
from experiments.paper.evaluate import RECORDS
from experiments.reporting._charts import Chart, Line, write_chart

# Regions of an image, to say how many images there are.
_PER_IMAGE = 20


def run(
    config: DistributedCostConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> dict[str, Any]:
    """Compiles, computes and appends a record to `distributed_cost.jsonl`.

    Args:
        config: The sizes.
        workdir: Not used: nothing is kept.
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
    """What compiled programs say, beside the arithmetic."""
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
            own = expected[name]
            both = cost["arguments"] + cost["output"]
            row = {
                "step": name,
                "devices": devices,
                "bytes sent": cost["sent"] + cost["sent_once"],
                "planned": own.sent + own.sent_once,
                "taken and given": both,
                "as planned": own.arguments + own.output,
                "memory": both + cost["temporary"],
                "memory, planned": own.memory - own.resident,
            }
            # Shares of a ring are no whole bytes for every number of devices.
            yield {
                key: round(value) if isinstance(value, float) else value
                for key, value in row.items()
            }


def compiled_costs(
    config: DistributedCostConfig,
) -> Mapping[int, Mapping[str, Mapping[str, float]]]:
    """Compiles in a process that has as many devices as are asked for.

    Args:
        config: The sizes.

    Returns:
        What `experiments.speed._compiled_costs` says, by devices and step.
    """
    asked = {
        "devices": config.devices,
        "n": config.nodes,
        "d": config.dim,
        "k": config.k,
        "queries": config.queries,
        "regions": config.regions,
        "images": config.images,
    }
    most = max(config.devices)
    host_devices = f"--xla_force_host_platform_device_count={most}"
    done = subprocess.run(  # noqa: S603  # This very package, in Python.
        [sys.executable, "-m", "experiments.speed._compiled_costs", json.dumps(asked)],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": host_devices, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {int(name): costs for name, costs in json.loads(done.stdout).items()}


def _plan(config: DistributedCostConfig, nodes: int, devices: int) -> CostEstimate:
    images = -(-nodes // _PER_IMAGE)
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
    pictures = {
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
    for name, (title, label, of) in pictures.items():
        lines = [
            Line(
                f"{devices} devices",
                nodes,
                [of(_plan(config, n, devices)) for n in nodes],
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
    """Reads the command line: what to change in the config."""
    config = tyro.cli(
        DistributedCostConfig,
        default=distributed_cost.full(),
        description=distributed_cost.__doc__,
        prog="python -m experiments distributed_cost",
    )
    record = run(config, pathlib.Path(), records=RECORDS)
    for result in record["results"]:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
