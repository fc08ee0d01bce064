"""Keeping the tables of a text, the README, in step with the records."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ._records import read_records
from ._tables import (
    difference_table,
    escape_markdown,
    format_duration,
    markdown_table,
    mean_ap_table,
    measurement_tables,
)

_TABLE_SLOT = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w.-]+\.jsonl) -->\n)"
    r"(?P<body>.*?)"
    r"(?P<end><!-- /table -->)",
    re.DOTALL,
)


def caption(record: Mapping[str, Any]) -> str:
    """Says in a line what the numbers of a record rest on.

    Args:
        record: From `make_record`.

    Returns:
        Numbers of queries and images, settings, seed, versions, device, commit, what
        it took if the record says, date.
    """
    settings = dict(record["settings"])
    sizes = [
        f"{settings.pop(name):,} {name}"
        for name in ("queries", "images")
        if isinstance(settings.get(name), int)
    ]
    where = record["environment"]
    parts = [
        " over ".join(sizes),
        ", ".join(_flatten_settings(settings)),
        f"seed {record['seed']}",
        ", ".join(f"{n} {v}" for n, v in sorted(where["versions"].items()) if v),
        f"{where['device_count']} x {where['device']}, {where['cpu_count']} CPU cores",
        f"commit {_short_commit(where['commit'])}" if where["commit"] else "no commit",
        _format_cost(record),
        f"recorded {where['time'][:10]}",
    ]
    return f"{record['experiment']}: {'; '.join(part for part in parts if part)}."


def fill_tables(text: str, folder: str | os.PathLike[str]) -> str:
    """Renews every table of a text from the newest record of its file.

    What stands between `<!-- table: NAME.jsonl -->` and `<!-- /table -->` is replaced
    by the table of the last record in that file of `folder`, and a caption. Filling
    twice changes nothing.

    Args:
        text: Markdown, as in the README.
        folder: Where the record files lie.

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
        tables = [
            mean_ap_table(methods),
            difference_table(methods),
            *measurement_tables(results),
        ]
        table = "\n".join(markdown_table(*each) for each in tables if each.rows)
        note = escape_markdown(caption(records[-1]))
        return f"{slot['start']}\n{table}\n<sub>{note}</sub>\n\n{slot['end']}"

    filled, count = _TABLE_SLOT.subn(fill, text)
    marks = text.count("<!-- table:"), text.count("<!-- /table -->")
    if marks != (count, count):
        raise ValueError(
            "text must pair each line <!-- table: NAME.jsonl --> with <!-- /table -->, "
            f"got {marks[0]} starts and {marks[1]} ends, {count} of them pairs."
        )
    return filled


def _flatten_settings(settings: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Writes settings as `name value`, nested ones as `outer.name value`."""
    parts = []
    for name, value in sorted(settings.items()):
        if isinstance(value, Mapping):
            parts += _flatten_settings(value, prefix=f"{prefix}{name}.")
        else:
            parts.append(f"{prefix}{name} {value}")
    return parts


def _format_cost(record: Mapping[str, Any]) -> str:
    """Writes time and memory, nothing where the record has neither."""
    parts = []
    if "seconds" in record:
        parts.append(f"took {format_duration(record['seconds'])}")
    if "peak_memory_bytes" in record:
        peak = record["peak_memory_bytes"]
        size = f"{peak / 1e9:.1f} GB" if peak >= 1e9 else f"{peak / 1e6:.0f} MB"
        parts.append(f"peak memory {size}")
    return ", ".join(parts)


def _short_commit(commit: str) -> str:
    """Cuts a commit to ten digits, keeping the mark of a changed tree."""
    digits, mark, _ = commit.partition("-dirty")
    return digits[:10] + mark
