"""Runs an experiment by name: `python -m experiments evaluate grocery`."""

import ast
import importlib
import os
import pathlib
import sys

_ROOT = pathlib.Path(__file__).parents[1]

# Folder of each experiment, by its name.
_FOLDERS = {
    path.stem: path.parent.name
    for path in sorted(pathlib.Path(__file__).parent.glob("*/[!_]*.py"))
}
_TITLES = {
    "paper": "the paper's tables and figures",
    "learning": "learned parameters",
    "speed": "time, memory and bytes",
    "reporting": "pages and pictures",
    "testing": "the test suite",
}


def main() -> None:
    """Passes the rest of the command line to the experiment that it names."""
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print(_help())
        return
    name = words[0]
    if name not in _FOLDERS:
        names = ", ".join(sorted(_FOLDERS))
        sys.exit(f"error: the experiment must be one of {names}, got {name!r}.")
    # Before jax is imported: XLA would print a screenful for each cached program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    del sys.argv[1]
    importlib.import_module(f"experiments.{_FOLDERS[name]}.{name}").main()


def _help() -> str:
    """Lists all experiments, each with the first line of its card.

    Cards are parsed, not imported: no help needs JAX.
    """
    lines = [
        "usage: python -m experiments NAME [--quick] [--help] ...",
        "",
        "Runs an experiment and appends its record. --quick runs it on little data, in",
        "seconds, as a trial. NAME --help shows its card and all settings.",
    ]
    width = max(map(len, _FOLDERS))
    for folder, title in _TITLES.items():
        lines += ["", f"{title}:"]
        names = sorted(name for name, home in _FOLDERS.items() if home == folder)
        lines += [f"  {name:{width}}  {_summary(name)}" for name in names]
    return "\n".join(lines)


def _summary(name: str) -> str:
    """Reads the first line of an experiment's card, or of its module without one."""
    path = _ROOT / "configs" / f"{name}.py"
    if not path.is_file():
        path = _ROOT / "experiments" / _FOLDERS[name] / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    line, _, _ = text.partition("\n")
    return line.partition(": `")[0].rstrip(".")


if __name__ == "__main__":
    main()
