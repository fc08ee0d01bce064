import pathlib
import re

import pytest

from diffjax.report import fill_tables

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_tables_are_those_of_the_newest_records(name):
    text = (ROOT / name).read_text()
    assert "<!-- table: " in text
    assert fill_tables(text, ROOT / "experiments" / "records") == text


def test_the_two_commands_come_first_and_ci_runs_the_second():
    demo, tests = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[:2]
    assert "diffjax demo" in demo
    assert "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pytest" not in script  # It has no test command of its own.
    assert len(script.splitlines()) < 40


def test_every_record_has_a_table():
    shown = README + (ROOT / "experiments" / "RESULTS.md").read_text()
    records = (ROOT / "experiments" / "records").glob("*.jsonl")
    names = sorted(path.name for path in records)
    assert names
    assert not [name for name in names if f"<!-- table: {name} -->" not in shown]


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_no_heading_is_inside_of_a_block_of_code(name):
    inside, found = False, []
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("```"):
            # One that ends a block says no language, and one that begins it does.
            assert (line == "```") == inside
            inside = not inside
        elif inside and line.startswith("#"):
            found.append(line)
    assert not inside
    assert not found
