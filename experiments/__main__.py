"""Runs an experiment by name: `python -m experiments evaluate grocery`."""

import importlib
import os
import pathlib
import sys

# The folder of each experiment, by its name.
_FOLDERS = {
    path.stem: path.parent.name
    for path in sorted(pathlib.Path(__file__).parent.glob("*/[!_]*.py"))
}


def main() -> None:
    """Hands the rest of the command line to the experiment that it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in _FOLDERS:
        sys.exit(f"usage: python -m experiments {{{','.join(sorted(_FOLDERS))}}} ...")
    # Before jax is imported: each program from its cache would print a screenful.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name = sys.argv.pop(1)
    importlib.import_module(f"experiments.{_FOLDERS[name]}.{name}").main()


if __name__ == "__main__":
    main()
