"""The paper's table 1: `python -m experiments table1 --benchmark grocery`."""

import pathlib
from typing import Any

from configs import paper
from configs import table1 as card
from configs.table1 import Table1Config
from experiments._benchmarks import load_benchmark
from experiments._runner import Findings, make_recorded_run, run_from_command_line

from ._methods import method_outcome


def measure(
    config: Table1Config, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Pools by sum and by GMP.

    Args:
        config: Which graphs on which benchmark.
        workdir: Keeps pictures and index.
        records: Nothing is drawn there.

    Returns:
        What was found.
    """
    del records
    collection = load_benchmark(config, workdir)
    of_paper = paper.paper_column(config.benchmark)
    results = []
    for k in config.k:
        by_sum, by_gmp = (
            method_outcome(
                "regional diffusion", collection, k=k, query_k=k, pooling=pooling
            )
            for pooling in ("sum", "gmp")
        )
        name = f"sum, k {k}"
        # The paper's table is of 512-D vectors.
        first = k == config.k[0] and collection.facts["dim"] != 2048
        results += [
            collection.make_entry(name, by_sum) | _paper("sum", config, given=first),
            collection.make_entry(
                f"GMP, k {k}", by_gmp, against=(name, by_sum.precision)
            )
            | _paper("GMP", config, given=first),
        ]
    return Findings(collection, results, more={"paper": of_paper})


def _paper(name: str, config: Table1Config, *, given: bool) -> dict[str, Any]:
    """The paper's value, where its settings were used."""
    return paper.paper_entry(config.benchmark, paper.TABLE1[name]) if given else {}


run = make_recorded_run("table1", measure)


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("table1", card, run)
