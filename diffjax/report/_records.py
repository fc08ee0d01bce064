"""Records of experiments: one JSON line each, never changed once written."""

import datetime as dt
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax

_PACKAGES = {
    "diffjax": "diffjax",
    "faiss": "faiss-cpu",
    "flax": "flax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "numpy": "numpy",
    "opencv": "opencv-python-headless",
    "pillow": "pillow",
    "scikit-image": "scikit-image",
}
# What experiments write themselves: one record must not make the next one's tree dirty.
_RECORD_PATTERNS = tuple(f":(exclude)*.{ending}" for ending in ("jsonl", "svg", "png"))


def environment() -> dict[str, Any]:
    """Describes what a result was computed with; names no machine and no folder.

    Returns:
        `versions` of python and of the packages that matter (None where one is not
        installed); `device` kind and `device_count` as JAX sees them; `cpu_count`;
        `commit` of the source tree, marked `-dirty` when a tracked file was changed
        that is no record or chart, None outside a clone; `time`, now, in UTC and ISO
        8601.
    """
    devices = jax.devices()
    now = dt.datetime.now(dt.UTC)
    return {
        "versions": versions(),
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "cpu_count": os.cpu_count(),
        "commit": _commit(pathlib.Path(__file__).parents[2]),
        "time": now.isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str | None]:
    """Looks up the versions of what computes: Python, and packages that matter.

    Returns:
        Versions by name; None where a package is not installed.
    """
    found = {name: _package_version(package) for name, package in _PACKAGES.items()}
    return found | {"python": platform.python_version()}


def make_record(
    experiment: str,
    *,
    settings: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    seed: int,
    seconds: float | None = None,
    peak_memory: int | None = None,
) -> dict[str, Any]:
    """Puts a record together and adds the environment.

    Args:
        experiment: What was done, in a word or a few.
        settings: What it was done with, `images` and `queries` (how many of each)
            among them; JSON values, no paths.
        results: One entry per method; `mean_ap_table` says what it reads of them.
        seed: Of every random choice, the intervals' resampling included.
        seconds: What all of it took, as `measured` tells; the record's `seconds`.
        peak_memory: Most memory it held, in bytes; its `peak_memory_bytes`.

    Returns:
        A dict for `append_record`, without the costs that are None.

    Raises:
        ValueError: If `results` is empty, a cost is negative or something is not a
            finite JSON value.
    """
    if not results:
        raise ValueError("results must hold at least one entry, got none.")
    costs = {"seconds": seconds, "peak_memory_bytes": peak_memory}
    costs = {name: cost for name, cost in costs.items() if cost is not None}
    for name, cost in costs.items():
        if cost < 0:
            raise ValueError(f"{name} must be at least 0, got {cost}.")
    record = {
        "experiment": experiment,
        "settings": dict(settings),
        "seed": seed,
        "environment": environment(),
        "results": [dict(result) for result in results],
        **costs,
    }
    _check_json(record, "record")
    return record


def append_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Appends one record as one line, on the disk when this returns.

    Args:
        path: File of JSON lines; it and its folder are made if need be.
        record: JSON values only.

    Raises:
        ValueError: If something in `record` is not a finite JSON value, or the file
            ends in the middle of a line. Nothing is written then.
        OSError: If it can't be written, with its name; the file is then as it was.
    """
    _check_json(record, "record")
    # In their order, which is that of the columns in tables.
    line = json.dumps(record, allow_nan=False) + "\n"
    path = pathlib.Path(path)
    if path.exists():
        read_records(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A full disk takes part of a line, and a write that fails knows no name.
        if before is None:
            path.unlink(missing_ok=True)
        else:
            os.truncate(path, before)
        error.filename = error.filename or str(path)
        raise


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads all records of a file, oldest first.

    Raises:
        ValueError: If a line is no JSON object or the last one was cut short, with its
            number.
    """
    path = pathlib.Path(path)
    with path.open(encoding="utf-8", newline="\n") as file:
        return [
            _parse(line, place=f"{path.name} line {number}")
            for number, line in enumerate(file, start=1)
        ]


def _parse(line: str, *, place: str) -> dict[str, Any]:
    """Reads one line, its end included: a line without an end was cut short."""
    if not line.endswith("\n"):
        raise ValueError(f"{place} must end in a newline: it was cut short, remove it.")
    try:
        record = json.loads(line)
        _check_json(record, "record")
    except ValueError as error:
        raise ValueError(f"{place} must be a record, got: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place} must be a JSON object, got {line[:40]!r}.")
    return record


def _check_json(value: object, place: str) -> None:
    """Raises a ValueError that names the place of the first non-JSON value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place} must have text as keys, got {key!r}.")
            _check_json(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_json(item, f"{place}[{position}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place} must be finite, got {value}.")
    elif value is not None and not isinstance(value, bool | int | str):
        kind = type(value).__name__
        raise ValueError(f"{place} must be a JSON value, got {value!r} of type {kind}.")


def _package_version(package: str) -> str | None:
    """The installed version, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: pathlib.Path) -> str | None:
    """The commit a source tree stands at, None if `root` is no clone."""
    git = shutil.which("git")
    # Without the look at .git, a package installed inside somebody else's repository
    # would report that one's commit.
    if git is None or not (root / ".git").exists():
        return None

    def ask(*words: str) -> str:
        run = subprocess.run(  # noqa: S603 - no part of the command comes from outside.
            [git, "-C", str(root), *words], capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    commit = ask("rev-parse", "HEAD")
    changed = ask(
        "status", "--porcelain", "--untracked-files=no", "--", ".", *_RECORD_PATTERNS
    )
    return f"{commit}{'-dirty' if changed else ''}" if commit else None
