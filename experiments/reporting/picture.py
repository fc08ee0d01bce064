"""Picture of a result for the README: `python -m experiments picture`."""

import argparse

from configs.schema import few_scenes
from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.cli import DemoConfig, run_demo
from experiments._runner import RECORDS, quick_records

from ._figure import write_figure


def main() -> None:
    """Draws the query of the demonstration that gains most from diffusion."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments picture", description=__doc__
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="draw a query of a few scenes, beside the records of quick runs",
    )
    quick = parser.parse_args().quick
    enable_compilation_cache()
    records, config = RECORDS, None
    if quick:
        records = quick_records()
        config = DemoConfig(scenes=few_scenes())
    records.mkdir(parents=True, exist_ok=True)
    demo = run_demo(cache_folder() / "demo", config=config)
    path = records / "demo.png"
    write_figure(path, demo.comparisons[0], top=6, width=1400)
    print(path)
