"""Records of experiments: JSON lines that are appended and never changed."""

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

from ._tables import format_duration

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
# Files that experiments write: one record must not make the next one's tree dirty.
_RECORD_PATTERNS = tuple(f":(exclude)*.{ending}" for ending in ("jsonl", "svg", "png"))


def environment() -> dict[str, Any]:
    """Versions, devices, commit and time of a computation, without names of machines.

    Returns:
        `versions` as of `versions()`; `device` kind and `device_count` as JAX sees
        them; `cpu_count`; `commit` of the source tree, marked `-dirty` when a tracked
        file other than records and charts was changed, None outside a clone; `time` in
        UTC and ISO 8601.
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
    """Versions of Python and of the packages that results depend on.

    Returns:
        Versions by name; None where a package is not installed.
    """
    packages = {name: _package_version(package) for name, package in _PACKAGES.items()}
    return packages | {"python": platform.python_version()}


def make_record(
    experiment: str,
    *,
    settings: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    seed: int,
    seconds: float | None = None,
    peak_memory: int | None = None,
) -> dict[str, Any]:
    """Record of one experiment, with the environment that it ran in.

    Args:
        experiment: Name of the experiment.
        settings: Its settings, among them the numbers of `images` and `queries`; JSON
            values, no paths.
        results: One entry per method, see `mean_ap_table`.
        seed: Seed of every random choice, including resampling for intervals.
        seconds: Time of the experiment, recorded as `seconds`.
        peak_memory: Peak memory in bytes, recorded as `peak_memory_bytes`.

    Returns:
        The record, for `append_record`; costs of None are left out.

    Raises:
        ValueError: If `results` is empty, a cost is negative, or a value is not a
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
    """Appends a record to a file as one line, flushed to the disk.

    Args:
        path: File of JSON lines; it and its folder are made where missing.
        record: JSON values only.

    Raises:
        ValueError: If a value in `record` is not a finite JSON value, or the file ends
            in the middle of a line. The file is unchanged then.
        OSError: If it can't be written; the file is unchanged then.
    """
    _check_json(record, "record")
    # Keys keep their order, which is that of the columns in tables.
    line = json.dumps(record, allow_nan=False) + "\n"
    path = pathlib.Path(path)
    if path.exists():
        read_records(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    old_size = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A full disk takes part of a line, and a failed write carries no file name.
        if old_size is None:
            path.unlink(missing_ok=True)
        else:
            os.truncate(path, old_size)
        error.filename = error.filename or str(path)
        raise


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads all records of a file, oldest first.

    Raises:
        ValueError: If a line is no JSON object or the last one was cut short, with the
            number of the line.
    """
    path = pathlib.Path(path)
    with path.open(encoding="utf-8", newline="\n") as file:
        return [
            _parse_record(line, source=f"{path.name} line {number}")
            for number, line in enumerate(file, start=1)
        ]


def caption(record: Mapping[str, Any]) -> str:
    """Caption of a record's tables: the conditions of its numbers in one line.

    Args:
        record: From `make_record`.

    Returns:
        Numbers of queries and images, settings, seed, versions, device, commit, time
        and memory if they were recorded, date.
    """
    settings = dict(record["settings"])
    sizes = [
        f"{settings.pop(name):,} {name}"
        for name in ("queries", "images")
        if isinstance(settings.get(name), int)
    ]
    system = record["environment"]
    device = f"{system['device_count']} x {system['device']}"
    device += f", {system['cpu_count']} CPU cores"
    phrases = [
        " over ".join(sizes),
        ", ".join(_flatten_settings(settings)),
        f"seed {record['seed']}",
        ", ".join(f"{n} {v}" for n, v in sorted(system["versions"].items()) if v),
        device,
        f"commit {_short_commit(system['commit'])}"
        if system["commit"]
        else "no commit",
        _format_cost(record),
        f"recorded {system['time'][:10]}",
    ]
    return f"{record['experiment']}: {'; '.join(filter(None, phrases))}."


def _parse_record(line: str, *, source: str) -> dict[str, Any]:
    """Reads one line with its newline, without which it was cut short."""
    if not line.endswith("\n"):
        raise ValueError(
            f"{source} must end in a newline: it was cut short, remove it."
        )
    try:
        record = json.loads(line)
        _check_json(record, "record")
    except ValueError as error:
        raise ValueError(f"{source} must be a record, got: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{source} must be a JSON object, got {line[:40]!r}.")
    return record


def _check_json(value: object, path: str) -> None:
    """Raises a ValueError that names the path of the first non-JSON value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} must have text as keys, got {key!r}.")
            _check_json(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _check_json(item, f"{path}[{position}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} must be finite, got {value}.")
    elif value is not None and not isinstance(value, bool | int | str):
        kind = type(value).__name__
        raise ValueError(f"{path} must be a JSON value, got {value!r} of type {kind}.")


def _package_version(package: str) -> str | None:
    """Installed version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: pathlib.Path) -> str | None:
    """Commit of a source tree, None if `root` is no clone."""
    git = shutil.which("git")
    # Without looking for .git, a package that is installed inside another repository
    # would report that repository's commit.
    if git is None or not (root / ".git").exists():
        return None

    def run_git(*words: str) -> str:
        done = subprocess.run(  # noqa: S603 - no part of the command comes from outside.
            [git, "-C", str(root), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = run_git("rev-parse", "HEAD")
    changes = run_git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", *_RECORD_PATTERNS
    )
    return f"{commit}{'-dirty' if changes else ''}" if commit else None


def _flatten_settings(settings: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Settings as `name value`, nested ones as `outer.name value`."""
    lines = []
    for name, value in sorted(settings.items()):
        if isinstance(value, Mapping):
            lines += _flatten_settings(value, prefix=f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name} {value}")
    return lines


def _format_cost(record: Mapping[str, Any]) -> str:
    """Time and memory of a record, empty if it has neither."""
    costs = []
    if "seconds" in record:
        costs.append(f"took {format_duration(record['seconds'])}")
    if "peak_memory_bytes" in record:
        peak = record["peak_memory_bytes"]
        size = f"{peak / 1e9:.1f} GB" if peak >= 1e9 else f"{peak / 1e6:.0f} MB"
        costs.append(f"peak memory {size}")
    return ", ".join(costs)


def _short_commit(commit: str) -> str:
    """First ten digits of a commit, with the mark of a changed tree."""
    digits, mark, _ = commit.partition("-dirty")
    return digits[:10] + mark
