"""Renews the tables of a text: `python -m diffjax.report README.md FOLDER`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from diffjax._io import write_atomically

from ._readme_tables import fill_tables


def main(words: Sequence[str] | None = None) -> int:
    """Fills the tables as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.report",
        description="Renews the tables of a markdown text from records.",
    )
    parser.add_argument("text", type=pathlib.Path, help="markdown file, e.g. README.md")
    parser.add_argument("folder", type=pathlib.Path, help="where NAME.jsonl files lie")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if out of date"
    )
    wanted = parser.parse_args(words)
    try:
        old = wanted.text.read_text(encoding="utf-8")
        new = fill_tables(old, wanted.folder)
        if wanted.check and new != old:
            raise ValueError(f"{wanted.text} is out of date, run without --check.")
        if new != old:
            write_atomically(wanted.text, new.encode())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
