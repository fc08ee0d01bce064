"""The README's picture of a result: `python -m experiments picture`."""

from diffjax.caches import cache_folder, keep_compiled_programs
from diffjax.demo import run_demo
from diffjax.report import write_figure
from experiments.evaluate import RECORDS


def main() -> None:
    """Draws the query of the demonstration that gains most from diffusion."""
    keep_compiled_programs()
    demo = run_demo(cache_folder() / "demo")
    write_figure(RECORDS / "demo.png", demo.comparisons[0], top=6, width=1400)
