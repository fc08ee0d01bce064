import subprocess

import pytest

from configs import cold_start as card
from diffjax.report import read_records
from experiments.speed import cold_start

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold-start")
    recorded = cold_start.run(card.quick(), folder, records=folder / "records")
    assert read_records(folder / "records" / "cold_start.jsonl") == [recorded]
    return recorded


def test_every_process_is_recorded(record):
    rows = [row for row in record["results"] if "least" in row]
    searches = [row["process"] for row in rows if row["seconds_to_answer"]]
    assert [row["process"] for row in rows][:2] == ["import jax", "import diffjax"]
    assert searches == [
        "diffjax search, empty cache",
        "diffjax search, full cache",
    ]
    assert rows[0]["times_import_jax"] == 1
    for row in rows:
        assert 0 < row["least"] <= row["seconds"] <= row["largest"]
        assert (row["seconds_to_answer"] or 0) <= row["seconds"]


def test_a_full_cache_leaves_nothing_to_compile(record):
    empty, full = [
        {
            row["step"]: row
            for row in record["results"]
            if row.get("step") and named(row)
        }
        for named in (
            lambda row: "empty" in row["process"],
            lambda row: "full" in row["process"],
        )
    ]
    assert list(empty) == list(full)
    for step, row in full.items():
        assert row["compiled"] == 0
        assert row["from_the_cache"] == empty[step]["compiled"], step
        assert empty[step]["from_the_cache"] == 0
    assert empty["in all"]["compiled"] > 5


def test_a_process_that_fails_is_not_a_measurement(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        cold_start.time_process("raise SystemExit(3)", cache=tmp_path)
