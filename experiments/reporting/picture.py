"""The README's picture of a result: `python -m experiments picture`."""

from diffjax.caches import cache_folder, enable_compilation_cache
from diffjax.cli import run_demo
from experiments.paper.evaluate import RECORDS

from ._figure import write_figure


def main() -> None:
    """Draws the query of the demonstration that gains most from diffusion."""
    enable_compilation_cache()
    demo = run_demo(cache_folder() / "demo")
    write_figure(RECORDS / "demo.png", demo.comparisons[0], top=6, width=1400)
