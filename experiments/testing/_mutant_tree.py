"""A copy of the repository in which mutants are planted and tests are run."""

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

_REPORT = "MUTATION_REPORT"  # Names the file in which a run of tests says what failed.


class Tests(NamedTuple):
    """What a run of tests said.

    Attributes:
        status: Exit status of the process; None where it took too long.
        failed: Tests that failed, each with the last line of why.
        seconds: Wall time.
        processor: Seconds of processor time.
    """

    status: int | None
    failed: dict[str, str]
    seconds: float
    processor: float


class Tree:
    """A copy of the repository, in which one mutant at a time is planted.

    It lies in the folder of pytest's cache, is made anew for each run, and keeps the
    compiled programs of earlier ones, however quickly they were compiled.
    """

    def __init__(self, root: pathlib.Path) -> None:
        """Copies the repository at `root`."""
        self.root, self.copy = root, root / ".pytest_cache" / "mutation"
        (self.copy / ".pytest_cache").mkdir(parents=True, exist_ok=True)
        for each in self.copy.iterdir():
            if each.is_dir() and each.name != ".pytest_cache":
                shutil.rmtree(each)
            elif each.is_file():
                each.unlink()
        left_out = ".git", ".*_cache", ".hypothesis", ".venv", "__pycache__"
        ignore = shutil.ignore_patterns(*left_out)
        shutil.copytree(root, self.copy, ignore=ignore, dirs_exist_ok=True)
        conftest = self.copy / "tests" / "conftest.py"
        threshold = 'min_compile_time_secs", '
        conftest.write_text(
            conftest.read_text().replace(f"{threshold}1.0", f"{threshold}0.0")
        )
        self.modules = read_tree(root)

    def plant(self, *places: Place) -> None:
        """Makes the copy differ from the tree by these mutants, and by nothing else."""
        for path in self.modules:
            source = (self.root / path).read_bytes()
            # From the end, so that what stands before is where it was.
            own = [place for place in places if place.path == path]
            for place in sorted(own, key=lambda p: p.statement.start, reverse=True):
                source = plant(source, place.statement, place.after)
            if (self.copy / path).read_bytes() != source:
                (self.copy / path).write_bytes(source)
                # Python knows a changed file by its size and its second.
                for kept in (self.copy / path).parent.glob("__pycache__/*"):
                    kept.unlink()

    def tests_of(self, place: Place) -> tuple[str, list[str]]:
        """Lists the test files of a module's folder: those that know it best first.

        Returns:
            A name for the set of files, and the files in the order to run them.
        """
        folder, name = folder_of(place.path), pathlib.Path(place.path).stem.strip("_")
        tests = self.copy / "tests"
        if (tests / folder).is_dir():
            files = list((tests / folder).glob("test_*.py"))
        elif (alone := tests / f"test_{folder}.py").is_file():
            files = [alone]
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

        What pytest prints is kept in `output.txt` in the copy's `.pytest_cache`.

        Args:
            arguments: For pytest.
            limit: Seconds of processor time, and ten times as many of any time: other
                programs may keep the machine busy.
            n: Processes of pytest; 0 for none but its own.
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
            begun, spent = time.monotonic(), _processor_time()
            with subprocess.Popen(  # noqa: S603  # This Python and pytest.
                command,
                cwd=self.copy,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process:
                if limit is not None:
                    whole = int(limit) + 1
                    resource.prlimit(
                        process.pid, resource.RLIMIT_CPU, (whole, whole + 10)
                    )
                try:
                    status = process.wait(None if limit is None else 10 * limit)
                except subprocess.TimeoutExpired:
                    status = None
                finally:
                    _end(process.pid)
            if status in {-signal.SIGXCPU, -signal.SIGKILL}:
                status = None
            failed = dict(json.loads(line) for line in report)
        seconds = time.monotonic() - begun
        return Tests(status, failed, seconds, _processor_time() - spent)


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _end(group: int) -> None:
    """Ends what a process group that was started here has left running."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def pytest_runtest_logreport(report: Any) -> None:
    """Notes a failed test, where pytest has this module as a plugin."""
    if report.failed:
        lines = [
            line.removeprefix("E").strip()
            for line in report.longreprtext.splitlines()
            if line.startswith("E ")
        ]
        why = (lines or report.longreprtext.splitlines()[-1:] or [""])[0][:300]
        with pathlib.Path(os.environ[_REPORT]).open("a") as file:
            file.write(json.dumps([report.nodeid, why]) + "\n")


pytest_collectreport = pytest_runtest_logreport
