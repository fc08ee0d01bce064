import subprocess
import sys
import time

import pytest

from experiments import _cost
from experiments._cost import measure_cost

MEGABYTE = 2**20


def test_seconds_are_those_of_the_block():
    start = time.perf_counter()
    with measure_cost() as cost:
        time.sleep(0.02)
    assert 0.02 <= cost.seconds <= time.perf_counter() - start


def test_cost_is_measured_after_an_error_too():
    costs = []

    def fail():
        with measure_cost() as cost:
            costs.append(cost)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert costs[0].seconds > 0
    assert costs[0].peak_bytes


def test_peak_memory_is_in_bytes_never_falls_and_is_of_this_process_alone():
    # Large enough to tell bytes from kilobytes and one process from another.
    ballast = bytearray(128 * MEGABYTE)
    code = (
        "import sys\n"
        # By its path: importing JAX would take more memory than is measured here.
        "sys.path.insert(0, sys.argv[1])\n"
        "from _cost import measure_cost\n"
        "with measure_cost() as small: pass\n"
        "with measure_cost() as large: ballast = bytearray(64 * 2**20)\n"
        "del ballast\n"
        "with measure_cost() as after: pass\n"
        "print(small.peak_bytes, large.peak_bytes, after.peak_bytes)\n"
    )
    command = [sys.executable, "-c", code, _cost.__file__.rpartition("/")[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large, after = map(int, done.stdout.split())
    assert 2 * MEGABYTE < small < len(ballast) / 2
    assert 60 * MEGABYTE < large - small < 80 * MEGABYTE
    assert after > large - MEGABYTE  # The kernel counts in batches of pages.


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_a_status_file_of_the_kernel_getrusage_is_read(
    monkeypatch, tmp_path, system, unit
):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(_cost.pathlib, "Path", lambda _: tmp_path / "no file")
    monkeypatch.setattr(_cost.sys, "platform", system)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    got = _cost.peak_memory()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert before <= got <= after


def test_peak_memory_is_none_on_systems_that_do_not_report_it(monkeypatch):
    monkeypatch.setattr(_cost.sys, "platform", "win32")
    with measure_cost() as cost:
        pass
    assert cost.peak_bytes is None
