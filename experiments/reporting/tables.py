"""Tables of a markdown text, renewed from the newest records of experiments.

python -m experiments.reporting.tables README.md experiments/records --check
"""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Sequence

from diffjax._io import write_atomically
from diffjax.report import (
    caption,
    difference_table,
    escape_markdown,
    markdown_table,
    mean_ap_table,
    measurement_tables,
    read_records,
)

_TABLE_SLOT = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w.-]+\.jsonl)(?P<brief> brief)? -->\n)"
    r"(?P<body>.*?)"
    r"(?P<end><!-- /table -->)",
    re.DOTALL,
)


def fill_tables(text: str, folder: str | os.PathLike[str]) -> str:
    """Renews every table of a text from the newest record of its file.

    The text between `<!-- table: NAME.jsonl -->` and `<!-- /table -->` is replaced by
    the table of the last record in that file of `folder`, and a caption; after
    `NAME.jsonl brief` by the table of mean average precision alone. Filling twice
    changes nothing.

    Args:
        text: Markdown, as in the README.
        folder: Folder of the record files.

    Returns:
        The renewed text.

    Raises:
        ValueError: If a mark has no end, or a file has no record.
        FileNotFoundError: If there is no such file.
    """

    def fill(slot: re.Match[str]) -> str:
        name = slot["name"]
        if "<!-- table:" in slot["body"]:
            raise ValueError(f"table {name} must end in <!-- /table -->, got no end.")
        records = read_records(pathlib.Path(folder) / name)
        if not records:
            raise ValueError(f"{name} must hold a record, got an empty file.")
        results = records[-1]["results"]
        methods = [
            result for result in results if {"method", "mean_ap"} <= result.keys()
        ]
        if slot["brief"]:
            table = markdown_table(*mean_ap_table(methods))
            return f"{slot['start']}\n{table}\n{slot['end']}"
        tables = [
            mean_ap_table(methods),
            difference_table(methods),
            *measurement_tables(results),
        ]
        markdown = "\n".join(markdown_table(*table) for table in tables if table.rows)
        note = escape_markdown(caption(records[-1]))
        return f"{slot['start']}\n{markdown}\n<sub>{note}</sub>\n\n{slot['end']}"

    filled, num_filled = _TABLE_SLOT.subn(fill, text)
    num_starts, num_ends = text.count("<!-- table:"), text.count("<!-- /table -->")
    if (num_starts, num_ends) != (num_filled, num_filled):
        raise ValueError(
            "text must pair each line <!-- table: NAME.jsonl --> with <!-- /table -->, "
            f"got {num_starts} starts and {num_ends} ends, {num_filled} of them pairs."
        )
    return filled


def main(words: Sequence[str] | None = None) -> int:
    """Renews or checks the tables of some files; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reporting.tables",
        description="Renews the tables of a markdown text from records.",
    )
    parser.add_argument(
        "texts", type=pathlib.Path, nargs="+", help="markdown files, e.g. README.md"
    )
    parser.add_argument("folder", type=pathlib.Path, help="folder of NAME.jsonl files")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if out of date"
    )
    arguments = parser.parse_args(words)
    try:
        for path in arguments.texts:
            old = path.read_text(encoding="utf-8")
            new = fill_tables(old, arguments.folder)
            if arguments.check and new != old:
                raise ValueError(f"{path} is out of date, run without --check.")
            if new != old:
                write_atomically(path, new.encode())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
