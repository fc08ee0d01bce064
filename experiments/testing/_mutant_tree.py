"""Copy of the repository in which mutants are planted and tests are run."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from ._mutants import TOP, Place, folder_of, plant, read_tree

_REPORT = "MUTATION_REPORT"  # Environment variable: file for reports of failures.


class Tests(NamedTuple):
    """Outcome of a run of tests.

    Attributes:
        status: Exit status of the process; None after a timeout.
        failed: Failed tests, each with the first line of its error.
        seconds: Wall time.
        processor: Processor time, in seconds.
    """

    status: int | None
    failed: dict[str, str]
    seconds: float
    processor: float


class Tree:
    """Copy of the repository, in which one mutant at a time is planted.

    It is a folder in pytest's cache, copied again for each run, which keeps the
    compiled programs of earlier runs.
    """

    def __init__(self, root: pathlib.Path) -> None:
        """Copies the repository at `root`."""
        self.root, self.copy = root, root / ".pytest_cache" / "mutation"
        (self.copy / ".pytest_cache").mkdir(parents=True, exist_ok=True)
        for path in self.copy.iterdir():
            if path.is_dir() and path.name != ".pytest_cache":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        excluded = ".git", ".*_cache", ".hypothesis", ".venv", "__pycache__"
        ignore = shutil.ignore_patterns(*excluded)
        shutil.copytree(root, self.copy, ignore=ignore, dirs_exist_ok=True)
        self.modules = read_tree(root)

    def plant(self, *places: Place) -> None:
        """Makes the copy differ from the repository by these mutants alone."""
        for path in self.modules:
            source = (self.root / path).read_bytes()
            # From the end, so that earlier positions stay valid.
            in_file = [place for place in places if place.path == path]
            for place in sorted(in_file, key=lambda p: p.statement.start, reverse=True):
                source = plant(source, place.statement, place.after)
            if (self.copy / path).read_bytes() != source:
                (self.copy / path).write_bytes(source)
                # Python detects changes by size and second alone.
                for bytecode in (self.copy / path).parent.glob("__pycache__/*"):
                    bytecode.unlink()

    def tests_of(self, place: Place) -> tuple[str, list[str]]:
        """Lists the test files of a module's folder, the most relevant ones first.

        Returns:
            A name for the set of files, and the files in the order to run them.
        """
        folder, name = folder_of(place.path), pathlib.Path(place.path).stem.strip("_")
        tests = self.copy / "tests"
        if (tests / folder).is_dir():
            files = list((tests / folder).glob("test_*.py"))
        elif (single_file := tests / f"test_{folder}.py").is_file():
            files = [single_file]
        else:
            stages = {folder_of(path) for path in self.modules} | {"experiments"}
            folder = TOP
            files = [
                file
                for file in tests.rglob("test_*.py")
                if file.parent == tests or file.parent.name not in stages
            ]
        function = place.statement.function.split(".")[-1]

        def key(file: pathlib.Path) -> tuple[bool, bool, pathlib.Path]:
            return file.stem != f"test_{name}", function not in file.read_text(), file

        ordered = sorted(files, key=key)
        return folder, [file.relative_to(self.copy).as_posix() for file in ordered]

    def test(
        self, arguments: Iterable[str] = (), *, limit: float | None = None, n: int = 0
    ) -> Tests:
        """Runs tests in the copy, in a process of their own.

        The output of pytest is in `output.txt` in the copy's `.pytest_cache`.

        Args:
            arguments: Arguments for pytest.
            limit: Limit of processor time in seconds, and a tenth of the limit of wall
                time, since other programs may keep the machine busy.
            n: Number of worker processes of pytest; 0 for none.
        """
        options = f"-q -n{n} -p no:cacheprovider -p {__name__} --tb=short"
        command = [sys.executable, "-m", "pytest", *options.split(), *arguments]
        data = os.environ.get("DIFFJAX_DATA", str(self.root.parent / "shared" / "data"))
        environment = os.environ | {"PYTHONPATH": str(self.copy), "DIFFJAX_DATA": data}
        with (
            tempfile.NamedTemporaryFile("r", suffix=".jsonl") as report,
            (self.copy / ".pytest_cache" / "output.txt").open("w") as output,
        ):
            environment[_REPORT] = report.name
            start, processor_start = time.monotonic(), _processor_time()
            with subprocess.Popen(  # noqa: S603  # This Python and pytest.
                command,
                cwd=self.copy,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process:
                if limit is not None:
                    cpu = int(limit) + 1
                    resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu + 10))
                try:
                    status = process.wait(None if limit is None else 10 * limit)
                except subprocess.TimeoutExpired:
                    status = None
                finally:
                    _end(process.pid)
            if status in {-signal.SIGXCPU, -signal.SIGKILL}:
                status = None
            failed = dict(json.loads(line) for line in report)
        seconds = time.monotonic() - start
        return Tests(status, failed, seconds, _processor_time() - processor_start)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _end(group: int) -> None:
    """Kills the rest of a process group that was started here."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def pytest_runtest_logreport(report: Any) -> None:
    """Writes a failed test to the report; a hook, where this module is a plugin."""
    if report.failed:
        lines = [
            line.removeprefix("E").strip()
            for line in report.longreprtext.splitlines()
            if line.startswith("E ")
        ]
        error = (lines or report.longreprtext.splitlines()[-1:] or [""])[0][:300]
        with pathlib.Path(os.environ[_REPORT]).open("a") as file:
            file.write(json.dumps([report.nodeid, error]) + "\n")


pytest_collectreport = pytest_runtest_logreport
