"""Runs an experiment by name: `python -m experiments evaluate grocery`."""

import importlib
import os
import sys

_NAMES = (
    *("descriptors", "evaluate", "extraction_speed", "figure1", "figure2", "figure3"),
    *("figure4", "figure5", "figure6", "figure7", "gradient_cost", "neighbors"),
    *("network_speed", "picture", "reduction", "report", "solvers", "table1", "table2"),
    *("text", "variants"),
)


def main() -> None:
    """Hands the rest of the command line to the experiment that it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in _NAMES:
        sys.exit(f"usage: python -m experiments {{{','.join(_NAMES)}}} ...")
    # Before jax is imported: each program from its cache would print a screenful.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name = sys.argv.pop(1)
    importlib.import_module(f"experiments.{name}").main()


if __name__ == "__main__":
    main()
