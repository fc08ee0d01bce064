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
    """Evaluates pooling by sum and by GMP.

    Args:
        config: Values of k, and the benchmark.
        workdir: Caches pictures and index.
        records: Not used: nothing is drawn.

    Returns:
        The findings.
    """
    del records
    collection = load_benchmark(config, workdir)
    results = []
    for k in config.k:
        by_sum, by_gmp = (
            method_outcome(
                "regional diffusion", collection, k=k, query_k=k, pooling=pooling
            )
            for pooling in ("sum", "gmp")
        )
        name = f"sum, k {k}"
        # The paper has this table for its own k and 512-D vectors alone.
        in_paper = k == config.k[0] and collection.index.vectors.shape[1] != 2048
        baseline = name, by_sum.precision
        results += [
            collection.make_entry(
                name, by_sum, **_paper_value("sum", config, in_paper=in_paper)
            ),
            collection.make_entry(
                f"GMP, k {k}",
                by_gmp,
                against=[baseline],
                **_paper_value("GMP", config, in_paper=in_paper),
            ),
        ]
    column = paper.paper_column(config.benchmark)
    return Findings(collection, results, more={"paper": column})


def _paper_value(name: str, config: Table1Config, *, in_paper: bool) -> dict[str, Any]:
    return paper.paper_entry(config.benchmark, paper.TABLE1[name]) if in_paper else {}


run = make_recorded_run("table1", measure)


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("table1", card, run)
